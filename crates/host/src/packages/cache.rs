//! The package database as last read, valid until its files change.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// Identifies the content of files by their metadata. The ctime is left out: a query by root
/// changes that of rpm's journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp(Vec<Option<[i64; 5]>>);

impl Stamp {
    pub fn of(paths: &[PathBuf]) -> Self {
        let stamp = |data: Metadata| {
            [
                data.dev() as i64,
                data.ino() as i64,
                data.size() as i64,
                data.mtime(),
                data.mtime_nsec(),
            ]
        };
        Self(
            paths
                .iter()
                .map(|path| std::fs::metadata(path).ok().map(stamp))
                .collect(),
        )
    }
}

#[derive(Debug)]
pub struct Cache<T>(Mutex<Option<(Stamp, T)>>);

impl<T: Clone> Cache<T> {
    pub fn empty() -> Self {
        Self(Mutex::new(None))
    }

    /// The stored value, if the files still have this stamp.
    pub fn get(&self, stamp: &Stamp) -> Option<T> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref()
            .filter(|(of, _)| of == stamp)
            .map(|(_, value)| value.clone())
    }

    /// Stores `value`, unless there is no file whose change would show. `stamp`: taken before the
    /// files were read, so that a change since is found next time.
    pub fn keep(&self, stamp: Stamp, value: T) {
        if stamp.0.iter().all(Option::is_none) {
            return;
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((stamp, value));
    }
}
