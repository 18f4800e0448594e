//! Applications whose config was written but whose services have not read it yet. One file for
//! each, so that the next agent knows it if this one is killed in between.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use protocol::{AppName, Category};

use crate::HostError;
use crate::atomic_file;
use crate::paths::exists;

/// The folder of these files.
pub struct Unfinished(PathBuf);

impl Unfinished {
    /// `state_dir`: a real path, the agent's own.
    pub fn new(state_dir: &Path) -> Self {
        Self(state_dir.join("unfinished-config"))
    }

    pub fn holds(&self, app: &AppName) -> Result<bool, HostError> {
        let marker = self.marker(app);
        exists(fs::symlink_metadata(&marker))
            .map(|found| found.is_some())
            .map_err(|error| state_error(&marker, error))
    }

    pub fn begin(&self, app: &AppName) -> Result<(), HostError> {
        let marker = self.marker(app);
        fs::create_dir_all(&self.0)
            .and_then(|()| atomic_file::replace(&marker, b"", 0o600))
            .map_err(|error| state_error(&marker, error))
    }

    pub fn finish(&self, app: &AppName) -> Result<(), HostError> {
        let marker = self.marker(app);
        exists(fs::remove_file(&marker))
            .map(|_| ())
            .map_err(|error| state_error(&marker, error))
    }

    pub fn all(&self) -> Result<BTreeSet<AppName>, HostError> {
        let failed = |error| state_error(&self.0, error);
        let Some(markers) = exists(fs::read_dir(&self.0)).map_err(failed)? else {
            return Ok(BTreeSet::new());
        };
        let names: Vec<_> = markers
            .map(|marker| marker.map(|marker| marker.file_name()))
            .collect::<Result<_, _>>()
            .map_err(failed)?;
        // Other names are temporary files of an interrupted write.
        let apps = names.iter().filter_map(|name| AppName::new(name.to_str()?).ok());
        Ok(apps.collect())
    }

    fn marker(&self, app: &AppName) -> PathBuf {
        self.0.join(app.as_str())
    }
}

fn state_error(path: &Path, error: io::Error) -> HostError {
    let category = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Category::DiskSpace,
        _ => Category::Host,
    };
    HostError::new(category, format!("cannot access {}: {error}", path.display()))
}
