//! Package files that a rollback may need, kept under paths of their own: neither eviction nor a
//! newer download of the same URL changes them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use protocol::Category;

use crate::HostError;

pub struct KeptFiles {
    folder: PathBuf,
}

impl KeptFiles {
    /// In a folder inside the cache's, so that keeping a file is a hard link and needs no space.
    pub fn new(cache_folder: &Path) -> Self {
        Self {
            folder: cache_folder.join("kept"),
        }
    }

    /// Keeps the content that `file` has now, durably. Keeping it twice gives the same path.
    pub fn keep(&self, file: &Path) -> Result<PathBuf, HostError> {
        if file.parent() == Some(&self.folder) {
            return Ok(file.to_owned());
        }
        let kept = self.link(file).and_then(|kept| {
            File::open(&self.folder)?.sync_all()?;
            Ok(kept)
        });
        kept.map_err(|error| {
            let message = format!(
                "cannot keep {} in {} for a rollback: {error}",
                file.display(),
                self.folder.display()
            );
            HostError::new(Category::Host, message)
        })
    }

    fn link(&self, file: &Path) -> io::Result<PathBuf> {
        fs::create_dir_all(&self.folder)?;
        let name = file
            .file_name()
            .ok_or(io::ErrorKind::InvalidInput)?
            .to_string_lossy()
            .into_owned();
        // The inode distinguishes files that came from one URL at different times.
        let kept = self.folder.join(format!("{}-{name}", fs::metadata(file)?.ino()));
        match fs::hard_link(file, &kept) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            // The file of a `file:` URL may be on another file system.
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                fs::copy(file, &kept)?;
                File::open(&kept)?.sync_all()?;
            }
            other => other?,
        }
        Ok(kept)
    }

    /// Deletes all files that are not among `files`.
    pub fn retain(&self, files: &BTreeSet<PathBuf>) {
        let Ok(listing) = fs::read_dir(&self.folder) else {
            return;
        };
        for path in listing
            .flatten()
            .map(|item| item.path())
            .filter(|path| !files.contains(path))
        {
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(
                    "cannot delete {}, a package file that is no longer needed: {error}",
                    path.display()
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_file_outlives_its_place_in_the_cache() {
        let cache = tempfile::tempdir().unwrap();
        let file = cache.path().join("a.deb");
        let kept = KeptFiles::new(cache.path());
        let keep = |file: &Path| kept.keep(file).unwrap();
        fs::write(&file, "version 1").unwrap();
        let first = keep(&file);
        assert_eq!(keep(&file), first);
        // A newer download of the same URL is renamed over it.
        fs::write(cache.path().join("new"), "version 2").unwrap();
        fs::rename(cache.path().join("new"), &file).unwrap();
        let second = keep(&file);
        assert_eq!(fs::read(&first).unwrap(), b"version 1");
        assert_eq!(fs::read(&second).unwrap(), b"version 2");
        kept.retain(&BTreeSet::from([second.clone()]));
        assert!(!first.exists() && second.exists());
    }
}
