//! Finds, reads and changes `bbctl.toml`. Changes keep comments.

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item, Value};

use super::StoredSettings;

/// The settings file. It need not exist.
#[derive(Debug, Clone)]
pub struct SettingsFile {
    path: PathBuf,
    /// Whether the operator named it. Then it must exist.
    named: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot read {file}")]
    Read { file: PathBuf, source: io::Error },
    #[error("{file} is not valid; allowed keys are url, token, ca and allow_plain_http:\n{reason}")]
    Invalid { file: PathBuf, reason: String },
    #[error("cannot write {file}")]
    Write { file: PathBuf, source: io::Error },
    #[error("neither XDG_CONFIG_HOME nor HOME is set; name the settings file with --config")]
    NoHome,
}

impl SettingsFile {
    /// `named`, else `BBCTL_CONFIG`, else `bbctl.toml` in the user's settings folder.
    pub fn find(
        named: Option<&Path>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, FileError> {
        let environment = |name| environment(name).filter(|value| !value.is_empty());
        if let Some(path) = named
            .map(Path::to_owned)
            .or_else(|| environment("BBCTL_CONFIG").map(PathBuf::from))
        {
            return Ok(Self { path, named: true });
        }
        // XDG Base Directory Specification: a relative path is ignored.
        let folder = environment("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .filter(|folder| folder.is_absolute())
            .or_else(|| environment("HOME").map(|home| Path::new(&home).join(".config")));
        let folder = folder.ok_or(FileError::NoHome)?;
        Ok(Self {
            path: folder.join("bbctl.toml"),
            named: false,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn text(&self) -> Result<Option<String>, FileError> {
        match std::fs::read_to_string(&self.path) {
            Ok(text) => Ok(Some(text)),
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(FileError::Read {
                file: self.path.clone(),
                source,
            }),
        }
    }

    /// Reads the file.
    pub fn read(&self) -> Result<StoredSettings, FileError> {
        match self.text()? {
            Some(text) => toml_edit::de::from_str(&text).map_err(|error| self.invalid(error.to_string())),
            None if self.named => Err(FileError::Read {
                file: self.path.clone(),
                source: io::ErrorKind::NotFound.into(),
            }),
            None => Ok(StoredSettings::default()),
        }
    }

    fn invalid(&self, reason: String) -> FileError {
        FileError::Invalid {
            file: self.path.clone(),
            reason,
        }
    }

    /// Whether other users may read it.
    pub fn is_open_to_others(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|data| data.permissions().mode() & 0o077 != 0)
    }

    /// Sets each key to its value, or removes it. Only the owner can read the file.
    pub fn change(&self, changes: &[(&str, Option<Value>)]) -> Result<(), FileError> {
        let mut document: DocumentMut = self
            .text()?
            .unwrap_or_default()
            .parse()
            .map_err(|error: toml_edit::TomlError| self.invalid(error.to_string()))?;
        for (key, wanted) in changes {
            match wanted {
                // In place, so that a comment after the value stays.
                Some(wanted) => match document.get_mut(key).and_then(Item::as_value_mut) {
                    Some(present) => {
                        let decor = present.decor().clone();
                        *present = wanted.clone();
                        *present.decor_mut() = decor;
                    }
                    None => document[*key] = Item::Value(wanted.clone()),
                },
                None => drop(document.remove(key)),
            }
        }
        self.write(&document.to_string())
            .map_err(|source| FileError::Write {
                file: self.path.clone(),
                source,
            })
    }

    /// Replaces the file atomically.
    fn write(&self, text: &str) -> io::Result<()> {
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            Some(_) | None => Path::new("."),
        };
        std::fs::create_dir_all(folder)?;
        // Created with mode 0600.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&self.path)?;
        Ok(())
    }
}
