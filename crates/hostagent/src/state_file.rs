//! A JSON document in the agent's state folder, with its digest.
//!
//! On disk: the document, a newline, `sha256:` and the hex digest of the document's bytes. A file
//! that does not match its digest (truncated, bits flipped, zeroed) is renamed, never used and
//! never deleted.

use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use host::{atomic_file, hex};

/// How many damaged copies of one file are kept.
const KEPT_ASIDE: u32 = 5;

pub struct StateFile<T> {
    path: PathBuf,
    document: PhantomData<fn() -> T>,
}

/// The content of a state file's path.
enum StateContent<T> {
    Nothing,
    Document(T),
    /// Why it is not valid.
    Damaged(String),
}

#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {path}: {source}. {advice}", path = path.display())]
pub struct StateFileError {
    verb: &'static str,
    path: PathBuf,
    source: io::Error,
    advice: &'static str,
}

impl StateFileError {
    fn new(verb: &'static str, path: &Path, source: io::Error) -> Self {
        let advice = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "Free some space on that file system; the agent retries"
            }
            io::ErrorKind::PermissionDenied => "The agent must be able to write there: run it as root",
            _ => "Check that file system",
        };
        Self {
            verb,
            path: path.to_owned(),
            source,
            advice,
        }
    }

    pub fn is_disk_full(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }
}

impl<T: Serialize + DeserializeOwned> StateFile<T> {
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            document: PhantomData,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The document; `None`: there is none, or it was damaged and is now renamed.
    pub fn load(&self) -> Result<Option<T>, StateFileError> {
        match self.read()? {
            StateContent::Nothing => Ok(None),
            StateContent::Document(document) => Ok(Some(document)),
            StateContent::Damaged(damage) => {
                self.set_aside(&damage)?;
                Ok(None)
            }
        }
    }

    /// As [`StateFile::load`], but does not rename a damaged file: for commands that only read.
    pub fn peek(&self) -> Result<Option<T>, StateFileError> {
        match self.read()? {
            StateContent::Document(document) => Ok(Some(document)),
            StateContent::Nothing | StateContent::Damaged(_) => Ok(None),
        }
    }

    fn read(&self) -> Result<StateContent<T>, StateFileError> {
        match std::fs::read(&self.path) {
            Ok(bytes) => Ok(parse(&bytes).map_or_else(StateContent::Damaged, StateContent::Document)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(StateContent::Nothing),
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                Ok(StateContent::Damaged("it is a folder, not a file".into()))
            }
            Err(error) => Err(StateFileError::new("read", &self.path, error)),
        }
    }

    /// The damaged file, if there is no valid document: the newest renamed copy, or the file
    /// itself.
    pub fn damaged(&self) -> Result<Option<PathBuf>, StateFileError> {
        Ok(match self.read()? {
            StateContent::Document(_) => None,
            StateContent::Damaged(_) => Some(self.path.clone()),
            StateContent::Nothing => self.places_aside().rev().find(|path| path.exists()),
        })
    }

    /// Paths of damaged copies, the oldest first.
    fn places_aside(&self) -> impl DoubleEndedIterator<Item = PathBuf> {
        (1..=KEPT_ASIDE).map(|n| self.path.with_extension(format!("damaged-{n}")))
    }

    /// Durable when it returns.
    pub fn store(&self, document: &T) -> Result<(), StateFileError> {
        let bytes = render(document).map_err(|error| StateFileError::new("write", &self.path, error))?;
        atomic_file::replace(&self.path, &bytes, 0o600)
            .map_err(|error| StateFileError::new("write", &self.path, error))
    }

    /// Durable when it returns. A missing file is no error.
    pub fn remove(&self) -> Result<(), StateFileError> {
        match std::fs::remove_file(&self.path) {
            Ok(()) => {
                let folder = self.path.parent().unwrap_or(Path::new("/"));
                std::fs::File::open(folder)
                    .and_then(|folder| folder.sync_all())
                    .map_err(|error| StateFileError::new("remove", &self.path, error))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(StateFileError::new("remove", &self.path, error)),
        }
    }

    fn set_aside(&self, damage: &str) -> Result<(), StateFileError> {
        let last = self.path.with_extension(format!("damaged-{KEPT_ASIDE}"));
        let aside = self
            .places_aside()
            .find(|path| !path.exists())
            .unwrap_or_else(|| last.clone());
        if aside == last && last.is_dir() {
            // A rename cannot replace a folder.
            std::fs::remove_dir_all(&last).map_err(|error| StateFileError::new("remove", &last, error))?;
        }
        std::fs::rename(&self.path, &aside)
            .map_err(|error| StateFileError::new("set aside", &self.path, error))?;
        tracing::error!(
            file = %self.path.display(), kept_as = %aside.display(), damage,
            "a damaged state file was set aside; it will be rebuilt, and no application is removed because of it"
        );
        Ok(())
    }
}

/// The bytes of a file that holds `document`.
pub fn render<T: Serialize>(document: &T) -> io::Result<Vec<u8>> {
    serde_json::to_vec_pretty(document)
        .map(with_digest)
        .map_err(io::Error::other)
}

/// The bytes of a file that holds `document`.
pub fn with_digest(mut document: Vec<u8>) -> Vec<u8> {
    let trailer = trailer(&document);
    document.extend_from_slice(trailer.as_bytes());
    document
}

fn trailer(document: &[u8]) -> String {
    format!("\nsha256:{}\n", hex(&Sha256::digest(document)))
}

/// The document in a file's bytes, or why they are not valid. The error does not quote them: they
/// may be secret.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    const TRAILER: usize = "\nsha256:".len() + 64 + "\n".len();
    let split = bytes
        .len()
        .checked_sub(TRAILER)
        .ok_or("too short to hold its digest")?;
    let (document, found) = bytes.split_at(split);
    if found != trailer(document).as_bytes() {
        return Err("its contents do not match its digest".into());
    }
    serde_json::from_slice(document).map_err(|error| {
        format!(
            "not in the format of this version: line {} column {}",
            error.line(),
            error.column()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored() -> (tempfile::TempDir, StateFile<Vec<String>>) {
        let dir = tempfile::tempdir().unwrap();
        let file = StateFile::new(dir.path().join("desired.json"));
        file.store(&vec!["one".into(), "two".into()]).unwrap();
        (dir, file)
    }

    #[test]
    fn what_is_stored_is_loaded() {
        let (_dir, file) = stored();
        assert_eq!(file.load().unwrap(), Some(vec!["one".into(), "two".into()]));
        assert_eq!(file.damaged().unwrap(), None);
        file.remove().unwrap();
        assert_eq!(file.load().unwrap(), None);
    }

    #[test]
    fn a_folder_in_its_place_is_set_aside_too() {
        let (dir, file) = stored();
        for _ in 0..KEPT_ASIDE + 2 {
            file.remove().unwrap();
            std::fs::create_dir(file.path()).unwrap();
            std::fs::write(file.path().join("inside"), "").unwrap();
            assert_eq!(file.peek().unwrap(), None);
            assert_eq!(file.load().unwrap(), None);
            file.store(&vec!["three".into()]).unwrap();
        }
        std::fs::write(file.path(), "").unwrap();
        assert_eq!(file.load().unwrap(), None);
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            KEPT_ASIDE as usize
        );
    }

    #[test]
    fn what_is_said_of_a_damaged_file_quotes_nothing() {
        let secret = with_digest(br#"[{"password": "hunter2"}, "hunter2"]"#.to_vec());
        let damage = parse::<Vec<u8>>(&secret).unwrap_err();
        assert_eq!(damage, "not in the format of this version: line 1 column 1");
        assert!(
            parse::<Vec<Vec<String>>>(&with_digest(b"[\"hunter2\"]".to_vec()))
                .is_err_and(|damage| !damage.contains("hunter2"))
        );
    }

    /// Row 23: every single-bit flip and every truncation is noticed, and the damaged bytes are
    /// kept.
    #[test]
    fn damage_of_any_kind_is_noticed_and_set_aside() {
        let (dir, file) = stored();
        let good = std::fs::read(file.path()).unwrap();
        let mut damaged: Vec<Vec<u8>> = (0..good.len()).map(|len| good[..len].to_vec()).collect();
        damaged.push(vec![0; good.len()]);
        damaged.extend((0..good.len() * 8).map(|bit| {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes
        }));
        for bytes in damaged {
            std::fs::write(file.path(), &bytes).unwrap();
            assert_eq!(
                file.load().unwrap(),
                None,
                "{:?}",
                String::from_utf8_lossy(&bytes)
            );
            assert!(!file.path().exists());
        }
        let newest = dir.path().join(format!("desired.damaged-{KEPT_ASIDE}"));
        assert_eq!(file.damaged().unwrap(), Some(newest));
        let aside = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(aside, KEPT_ASIDE as usize);
    }
}
