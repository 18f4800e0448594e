//! The config of a manifest's files, cached until one of them changes: so a heartbeat neither reads
//! nor parses files (DESIGN section 8: an observation of 100 applications in under 5 ms).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::Config;
use tokio::time::Instant;

use super::files::{self, ConfigReading, FileStamps};
use super::manifest::Manifest;
use crate::{HostError, Root};

/// After this time files are read again even if their stamps are unchanged: other hosts (over NFS)
/// and memory mappings may change a file without a new stamp.
const READ_AGAIN: Duration = Duration::from_secs(600);

/// The cached config of one manifest.
#[derive(Default)]
pub struct CachedConfig(Mutex<Option<LastReading>>);

struct LastReading {
    files: FileStamps,
    read_at: Instant,
    config: Arc<Config>,
}

impl CachedConfig {
    /// The config that the manifest's files hold.
    pub fn read(&self, root: &Root, manifest: &Manifest) -> Result<Arc<Config>, HostError> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = &*last
            && last.read_at.elapsed() < READ_AGAIN
            && last.files.are_unchanged(root)
        {
            return Ok(last.config.clone());
        }
        *last = None;
        let ConfigReading { config, files } = files::read(root, manifest)?;
        let config = Arc::new(config);
        *last = files.map(|files| LastReading {
            files,
            read_at: Instant::now(),
            config: config.clone(),
        });
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn files_that_seem_unchanged_are_read_again_after_a_while() {
        // A file that has not changed in the last seconds.
        let text = format!(
            "[config.package]\nfile = \"{}/Cargo.toml\"\nformat = \"toml\"\n",
            env!("CARGO_MANIFEST_DIR")
        );
        let manifest = Manifest::parse(Path::new("app.toml"), &text).unwrap();
        let (cached, root) = (CachedConfig::default(), Root::new("/"));
        let read = || cached.read(&root, &manifest).unwrap();
        let first = read();
        assert_eq!(first["package"]["name"], "host");
        tokio::time::advance(READ_AGAIN - Duration::from_secs(1)).await;
        assert!(Arc::ptr_eq(&first, &read()), "it was read again");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!Arc::ptr_eq(&first, &read()), "it was not read again");
    }
}
