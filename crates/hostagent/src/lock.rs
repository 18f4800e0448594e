//! One agent per host: a lock file in the state folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// Held until it is dropped. The kernel releases it however the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error(
        "another hostagent ({holder}) uses {path}; a host can have only one. Stop the other agent, or set \
         another state_dir in [hostagent] for this one", path = path.display()
    )]
    Held { path: PathBuf, holder: String },
    #[error("cannot lock {path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl Lock {
    /// Takes the lock of `state_dir`, which must exist.
    pub fn take(state_dir: &Path) -> Result<Self, LockError> {
        let path = state_dir.join("lock");
        let failed = |source| LockError::Io {
            path: path.clone(),
            source,
        };
        // Not truncated: until this process has the lock, the file names its holder.
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let holder = if holder.trim().is_empty() {
                    "process unknown".into()
                } else {
                    holder.trim().to_owned()
                };
                return Err(LockError::Held { path, holder });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        // For the error of a second agent. The lock holds without it.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "process {}", std::process::id()));
        Ok(Self { _file: file })
    }
}

/// The process that holds the lock of `state_dir`; `None`: no process.
pub fn holder(state_dir: &Path) -> Result<Option<rustix::process::Pid>, LockError> {
    let path = state_dir.join("lock");
    let failed = |source| LockError::Io {
        path: path.clone(),
        source,
    };
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::Error(source)) => Err(failed(source)),
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            file.read_to_string(&mut text).map_err(failed)?;
            let number = text
                .trim()
                .strip_prefix("process ")
                .and_then(|number| number.parse().ok());
            Ok(number.and_then(rustix::process::Pid::from_raw))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_the_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let first = Lock::take(dir.path()).unwrap();
        let error = Lock::take(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains(&format!("process {}", std::process::id())),
            "{error}"
        );
        assert_eq!(holder(dir.path()).unwrap(), Some(rustix::process::getpid()));
        drop(first);
        assert_eq!(holder(dir.path()).unwrap(), None);
        Lock::take(dir.path()).unwrap();
    }
}
