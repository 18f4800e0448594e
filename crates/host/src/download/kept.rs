//! Package files that a rollback may need, kept under names of their own: neither eviction nor a newer
//! download of the same URL touches them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use protocol::Category;

use crate::HostError;

pub struct Kept {
    folder: PathBuf,
}

impl Kept {
    /// A folder inside the cache's, so that keeping a file is a hard link and takes no space.
    pub fn new(cache_folder: &Path) -> Self {
        Self {
            folder: cache_folder.join("kept"),
        }
    }

    /// Keeps the content that each of `files` has now. Keeping it twice gives the same path.
    pub fn keep(&self, files: &[&Path]) -> Vec<Result<PathBuf, HostError>> {
        let failed = |file: &Path, error: &io::Error| {
            let message = format!(
                "can't keep {} in {} for a later rollback: {error}",
                file.display(),
                self.folder.display()
            );
            HostError::new(Category::Host, message)
        };
        let links: Vec<io::Result<PathBuf>> = files
            .iter()
            .map(|file| match file.parent() == Some(&self.folder) {
                true => Ok((*file).to_owned()),
                false => self.link(file),
            })
            .collect();
        // Once for all of them: a disk takes milliseconds for each.
        let synced = match files.iter().any(|file| file.parent() != Some(&self.folder)) {
            true => fs::File::open(&self.folder).and_then(|folder| folder.sync_all()),
            false => Ok(()),
        };
        let results = links.into_iter().zip(files).map(|(link, file)| {
            let kept = link.map_err(|error| failed(file, &error))?;
            match &synced {
                Ok(()) => Ok(kept),
                Err(error) => Err(failed(file, error)),
            }
        });
        results.collect()
    }

    fn link(&self, file: &Path) -> io::Result<PathBuf> {
        fs::create_dir_all(&self.folder)?;
        let name = file
            .file_name()
            .ok_or(io::ErrorKind::InvalidInput)?
            .to_string_lossy()
            .into_owned();
        // The inode tells apart what came from one URL at different times.
        let kept = self.folder.join(format!("{}-{name}", fs::metadata(file)?.ino()));
        match fs::hard_link(file, &kept) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            // A `file:` URL may lead to another file system.
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                fs::copy(file, &kept)?;
                fs::File::open(&kept)?.sync_all()?;
            }
            other => other?,
        }
        Ok(kept)
    }

    /// Lets go of all that is not among `files`.
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
                tracing::warn!(file = %path.display(), %error, "a package file that is not needed any more can't be deleted");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_outlives_its_place_in_the_cache() {
        let cache = tempfile::tempdir().unwrap();
        let file = cache.path().join("a.deb");
        let kept = Kept::new(cache.path());
        let keep = |file: &Path| kept.keep(&[file]).remove(0).unwrap();
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
