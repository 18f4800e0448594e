//! The config files of a manifest. All new texts are made and checked before the first file is
//! written.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use protocol::{Category, Config};

use super::formats::Keys;
use super::manifest::{ConfigSection, Creation, Manifest};
use crate::atomic_file;
use crate::paths::{Stamp, look, resolve_and_read};
use crate::{HostError, Root};

/// Bytes of one file: a status, which carries the config, may not be larger.
const MAX_FILE: u64 = 1024 * 1024;

/// One file to write.
#[derive(Debug)]
pub struct FileWrite {
    path: PathBuf,
    text: String,
    mode: u32,
    /// `None`: the agent's own.
    owner: Option<(u32, u32)>,
}

/// The current content of a config file.
struct ConfigFile {
    real: PathBuf,
    /// Empty if there is no file.
    text: String,
    metadata: Option<Metadata>,
}

/// The config that the files hold.
pub struct ConfigReading {
    pub config: Config,
    /// `None`: a file changed a moment ago, and its stamp might not show another change right after
    /// that.
    pub files: Option<FileStamps>,
}

/// The stamps of files when they were read, by the paths in the manifest; `None`: there was no
/// file.
pub struct FileStamps(Box<[(PathBuf, Option<Stamp>)]>);

impl FileStamps {
    /// One system call for each file; opens none.
    pub fn are_unchanged(&self, root: &Root) -> bool {
        self.0
            .iter()
            .all(|(path, stamp)| look(root, path).is_ok_and(|now| now.as_ref().map(Stamp::of) == *stamp))
    }

    fn of(files: BTreeMap<&Path, ConfigFile>, now: SystemTime) -> Option<Self> {
        let states = files.into_iter().map(|(path, found)| {
            let stamp = found.metadata.as_ref().map(Stamp::of);
            (stamp.is_none_or(|stamp| stamp.tells_every_change(now))).then(|| (path.to_owned(), stamp))
        });
        states.collect::<Option<_>>().map(Self)
    }
}

/// The config that the files hold.
pub fn read(root: &Root, manifest: &Manifest) -> Result<ConfigReading, HostError> {
    let now = SystemTime::now();
    let mut texts: BTreeMap<&Path, ConfigFile> = BTreeMap::new();
    let mut config = Config::new();
    for (name, section) in &manifest.sections {
        let found = match texts.entry(&section.file) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(new) => new.insert(open(root, &section.file)?),
        };
        let keys = section
            .format
            .read(&found.text, &section.table)
            .map_err(|error| refused(&section.file, error))?;
        config.insert(name.clone(), without_prefix(keys, &section.prefix));
    }
    Ok(ConfigReading {
        config,
        files: FileStamps::of(texts, now),
    })
}

/// The writes after which the files hold `desired`. Writes nothing.
pub fn plan(root: &Root, manifest: &Manifest, desired: &Config) -> Result<Vec<FileWrite>, HostError> {
    let mut files: BTreeMap<&Path, (ConfigFile, &ConfigSection, bool)> = BTreeMap::new();
    for (name, keys) in desired.iter().filter(|(_, keys)| !keys.is_empty()) {
        let Some(section) = manifest.sections.get(name) else {
            return Err(HostError::new(
                Category::Invalid,
                format!(
                    "the application's manifest has no section {name:?}: add [config.{name}] with file and \
                     format to it (docs/app-contract.md), or remove the section from the config"
                ),
            ));
        };
        let (found, _, changed) = match files.entry(&section.file) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(new) => {
                new.insert((open(root, &section.file)?, section, false))
            }
        };
        let keys = with_prefix(keys, &section.prefix);
        let merged = section.format.merge(&found.text, &section.table, &keys);
        if let Some(text) = merged.map_err(|error| refused(&section.file, error))? {
            found.text = text;
            *changed = true;
        }
    }
    files
        .into_values()
        .filter(|(_, _, changed)| *changed)
        .map(|(found, section, _)| write_of(root, found, section))
        .collect()
}

fn write_of(root: &Root, found: ConfigFile, section: &ConfigSection) -> Result<FileWrite, HostError> {
    if found.text.len() as u64 > MAX_FILE {
        let why = format!("it would be larger than {MAX_FILE} bytes");
        return Err(refused(&section.file, why));
    }
    let (mode, owner) = match &found.metadata {
        Some(file) => (file.mode() & 0o7777, Some((file.uid(), file.gid()))),
        None => {
            let folder = found.real.parent().is_some_and(Path::is_dir);
            if !folder {
                let why = "its folder does not exist; the application's package must create it";
                return Err(refused(&section.file, why));
            }
            (section.creation.mode, owner_of_new(root, section)?)
        }
    };
    Ok(FileWrite {
        path: found.real,
        text: found.text,
        mode,
        owner,
    })
}

/// Replaces one file. Mode and owner of an existing file stay.
pub fn write(write: &FileWrite) -> Result<(), HostError> {
    let bytes = write.text.as_bytes();
    let written = atomic_file::replace_or_overwrite(&write.path, bytes, write.mode, write.owner);
    written.map_err(|error| {
        let category = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Category::DiskSpace,
            _ => Category::Host,
        };
        HostError::new(
            category,
            format!("cannot write {}: {error}", write.path.display()),
        )
    })
}

fn open(root: &Root, path: &Path) -> Result<ConfigFile, HostError> {
    let failed = |error: io::Error| {
        let message = format!("cannot read the configuration file {}: {error}", path.display());
        HostError::new(Category::Host, message)
    };
    let (real, read) = resolve_and_read(root, path, MAX_FILE).map_err(failed)?;
    let Some((bytes, metadata)) = read else {
        return Ok(ConfigFile {
            real,
            text: String::new(),
            metadata: None,
        });
    };
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        refused(
            path,
            format!("it is not UTF-8 (byte {at}); the agent does not change it"),
        )
    })?;
    Ok(ConfigFile {
        real,
        text,
        metadata: Some(metadata),
    })
}

/// This file cannot hold the desired config: somebody must change one of them.
fn refused(path: &Path, why: impl std::fmt::Display) -> HostError {
    let message = format!("configuration file {}: {why}", path.display());
    HostError::new(Category::Invalid, message)
}

fn with_prefix(keys: &Keys, prefix: &str) -> Keys {
    keys.iter()
        .map(|(key, value)| (format!("{prefix}{key}"), value.clone()))
        .collect()
}

fn without_prefix(keys: Keys, prefix: &str) -> Keys {
    keys.into_iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(prefix)?.to_owned(), value)))
        .collect()
}

/// User and group of a new file.
fn owner_of_new(root: &Root, section: &ConfigSection) -> Result<Option<(u32, u32)>, HostError> {
    let Creation {
        owner: Some(owner), ..
    } = &section.creation
    else {
        return Ok(None);
    };
    let (user, group) = match owner.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (owner.as_str(), None),
    };
    let unknown = |what: &str, name: &str, file: &str| {
        refused(
            &section.file,
            format!("the manifest names the {what} {name:?} as its owner, but {file} does not have it"),
        )
    };
    let account = account(root, "/etc/passwd", user);
    let uid = match (&account, user.parse()) {
        (Some(account), _) => account.id,
        (None, Ok(number)) => number,
        (None, Err(_)) => return Err(unknown("user", user, "/etc/passwd")),
    };
    let gid = match group {
        Some(group) => match (self::account(root, "/etc/group", group), group.parse()) {
            (Some(account), _) => account.id,
            (None, Ok(number)) => number,
            (None, Err(_)) => return Err(unknown("group", group, "/etc/group")),
        },
        None => account.and_then(|account| account.group).unwrap_or(0),
    };
    Ok(Some((uid, gid)))
}

struct Account {
    id: u32,
    /// Of a user: the main group.
    group: Option<u32>,
}

/// A line of passwd(5) or group(5). Names from the network (LDAP) are not supported: they do not
/// own configuration files of packages, and numbers are always possible.
fn account(root: &Root, database: &str, name: &str) -> Option<Account> {
    let text = fs::read_to_string(root.join(database)).ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        Some(Account {
            id: fields.nth(1)?.parse().ok()?,
            group: fields.next().and_then(|group| group.parse().ok()),
        })
    })
}
