//! What an application was before it was changed: what a rollback goes back to.

use std::collections::BTreeMap;
use std::path::PathBuf;

use protocol::{AppSpec, Config};
use serde::{Deserialize, Serialize};

use crate::ledger::Record;

/// What an application was before it was changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Before {
    Absent {
        /// The package that is to come, where nothing of it was there, not even configuration files: a rollback then
        /// deletes those, too.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        purge: Option<String>,
    },
    Installed(Box<Snapshot>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub package: String,
    /// Full version.
    pub version: String,
    #[serde(alias = "way_back")]
    pub undo: UndoSource,
    pub record: Option<Record>,
    pub config: Config,
    pub services: BTreeMap<String, SavedService>,
    /// Files that its contract writes config into.
    pub files: Vec<SavedFile>,
    /// The desired state that it had reached, where it had reached one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub settled: Option<Box<AppSpec>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedService {
    pub running: bool,
    pub enabled: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedFile {
    /// A real path.
    pub path: PathBuf,
    /// `None`: it was not there.
    pub content: Option<String>,
    /// Permission bits.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
}

/// Where the previous package comes from, if a rollback needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "from")]
pub enum UndoSource {
    /// The package itself is not changed.
    NotNeeded,
    /// Kept from when it was installed.
    File {
        path: PathBuf,
    },
    /// To be fetched again.
    Url {
        url: String,
        sha256: Option<String>,
    },
    /// The host's repositories offer that version.
    Repository,
    Nowhere {
        reason: String,
    },
}

impl UndoSource {
    /// Whether the previous package can be installed again without fetching it from a URL.
    pub fn is_package(&self) -> bool {
        match self {
            Self::File { .. } | Self::Repository => true,
            Self::NotNeeded | Self::Url { .. } | Self::Nowhere { .. } => false,
        }
    }

    pub fn exists(&self) -> bool {
        match self {
            Self::NotNeeded | Self::File { .. } | Self::Url { .. } | Self::Repository => true,
            Self::Nowhere { .. } => false,
        }
    }
}

/// For people.
impl std::fmt::Display for UndoSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotNeeded => f.write_str("the package stays"),
            Self::File { .. } => f.write_str("the previous package is kept on this host"),
            Self::Url { url, .. } => {
                let shown = protocol::without_credentials(url);
                write!(f, "the previous package would be fetched from {shown}")
            }
            Self::Repository => f.write_str("the host's repositories offer the previous version"),
            Self::Nowhere { reason } => write!(f, "not reversible: {reason}"),
        }
    }
}

impl Before {
    /// The older state stays. A newer one of the same package may know where to get that from, which an older change that
    /// left the package alone did not have to find out.
    pub fn widened_by(self, newer: Self) -> Self {
        match (self, newer) {
            (Self::Installed(mut old), Self::Installed(new))
                if old.undo == UndoSource::NotNeeded
                    && old.package == new.package
                    && old.version == new.version =>
            {
                old.undo = new.undo;
                Self::Installed(old)
            }
            (old, _) => old,
        }
    }
}
