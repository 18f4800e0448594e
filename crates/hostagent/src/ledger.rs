//! Stores the desired state, and a record of each managed application. A message is acknowledged
//! only after this module has stored it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use protocol::spec::Rank;
use protocol::{AppName, Apps, HostId, SetConfig};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::state_file::{StateFile, StateFileError};

/// The desired state of the host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Desired {
    /// Whether a desired state was ever set; until then the agent changes nothing.
    pub stated: bool,
    pub generation: Option<u64>,
    /// `id` of the newest accepted message: statuses that answer it carry it as `reply_to`.
    pub id: Option<String>,
    pub apps: Apps,
    /// Counts accepted messages since the agent started; tells two equal desired states apart, so
    /// that each message gets its answer.
    #[serde(skip)]
    pub serial: u64,
    /// Counts accepted messages that ask for a retry of what failed.
    #[serde(skip)]
    pub retries: u64,
}

impl Desired {
    /// Whether `other` desires the same applications, whichever message asked for them.
    pub fn same_state(&self, other: &Self) -> bool {
        self.stated == other.stated && self.apps == other.apps
    }
}

/// An application that the agent has installed or adopted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its package's name. Once recorded, another name is refused.
    pub package: String,
    /// As last desired: removals run in reverse order.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rank: Option<Rank>,
    /// Source of the newest version that the agent installed, or began to install.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub arriving: Option<Provenance>,
    /// Source of the previous version.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub provenance: Option<Provenance>,
}

impl Record {
    /// Source of `version`, which is installed; `None` if the agent only adopted it.
    pub fn provenance_of(&self, version: &str) -> Option<&Provenance> {
        let both = [&self.arriving, &self.provenance].into_iter().flatten();
        both.into_iter().find(|provenance| provenance.version == version)
    }
}

/// Source of a version of a package; valid while that version is installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Full version.
    pub version: String,
    /// Absent: from the host's repositories.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sha256: Option<String>,
    /// The package file, kept for a rollback to this version.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub file: Option<PathBuf>,
}

pub type Records = BTreeMap<AppName, Record>;

/// Which entries a message may replace, from the topic it came on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    Host,
    App(AppName),
}

#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    #[error(
        "generation {offered} is older than the stored generation {stored}: refused as stale; send generation {stored} or higher"
    )]
    Stale { offered: u64, stored: u64 },
    #[error(
        "$.data: a message on the topic of {topic} must carry {topic} and nothing else; it carries {found}: send it on the host's own topic"
    )]
    OutsideTopic { topic: AppName, found: String },
    #[error("$.data.{app}: an application cannot have this host's id as its name")]
    NamedAsHost { app: AppName },
    #[error(
        "$.data.{second}.package: {package} is already the package of {first}; two applications cannot share a package"
    )]
    SharedPackage {
        package: String,
        first: AppName,
        second: AppName,
    },
    #[error(transparent)]
    NotStored(#[from] StateFileError),
}

struct LedgerFiles {
    desired: StateFile<Desired>,
    records: StateFile<Records>,
}

impl LedgerFiles {
    fn in_folder(state_dir: &Path) -> Self {
        Self {
            desired: StateFile::new(state_dir.join("desired.json")),
            records: StateFile::new(state_dir.join("installed.json")),
        }
    }
}

pub struct Ledger {
    host_id: HostId,
    files: LedgerFiles,
    desired: watch::Sender<Arc<Desired>>,
    records: Mutex<Arc<Records>>,
}

impl Ledger {
    /// Reads `state_dir`, which must exist. Damaged files are set aside.
    pub fn open(state_dir: &Path, host_id: HostId) -> Result<Self, StateFileError> {
        let files = LedgerFiles::in_folder(state_dir);
        let desired = files.desired.load()?.unwrap_or_default();
        let records = files.records.load()?.unwrap_or_default();
        Ok(Self::with(files, host_id, desired, records))
    }

    /// The same for commands that only read: nothing is changed, and damaged files count as absent.
    pub fn look(state_dir: &Path, host_id: HostId) -> Result<Self, StateFileError> {
        let files = LedgerFiles::in_folder(state_dir);
        let desired = files.desired.peek()?.unwrap_or_default();
        let records = files.records.peek()?.unwrap_or_default();
        Ok(Self::with(files, host_id, desired, records))
    }

    fn with(files: LedgerFiles, host_id: HostId, desired: Desired, records: Records) -> Self {
        Self {
            host_id,
            files,
            desired: watch::Sender::new(Arc::new(desired)),
            records: Mutex::new(Arc::new(records)),
        }
    }

    /// The damaged file of the desired state, if no master has sent a new one since.
    pub fn damaged_desired(&self) -> Result<Option<PathBuf>, StateFileError> {
        self.files.desired.damaged()
    }

    pub fn desired(&self) -> Arc<Desired> {
        self.desired.borrow().clone()
    }

    pub fn subscribe(&self) -> watch::Receiver<Arc<Desired>> {
        self.desired.subscribe()
    }

    /// Stores a message's desired state, then publishes it to subscribers. When this returns, the
    /// message may be acknowledged.
    pub fn accept(&self, message: SetConfig, scope: &Scope) -> Result<Arc<Desired>, AcceptError> {
        let stored = self.desired();
        let next = Arc::new(next_desired(&stored, message, scope, &self.host_id)?);
        if next.generation != stored.generation || next.id != stored.id || !next.same_state(&stored) {
            self.files.desired.store(&next)?;
        }
        self.desired.send_replace(next.clone());
        Ok(next)
    }

    /// The desired state that [`Ledger::accept`] would store. Stores nothing.
    pub fn preview(&self, message: SetConfig, scope: &Scope) -> Result<Desired, AcceptError> {
        next_desired(&self.desired(), message, scope, &self.host_id)
    }

    pub fn records(&self) -> Arc<Records> {
        self.records
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Stored when it returns; writes nothing if nothing changes.
    pub fn change_records(&self, change: impl FnOnce(&mut Records)) -> Result<(), StateFileError> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = Records::clone(&records);
        change(&mut next);
        if next != **records {
            self.files.records.store(&next)?;
            *records = Arc::new(next);
        }
        Ok(())
    }
}

/// The desired state after `message`. Pure.
fn next_desired(
    stored: &Desired,
    message: SetConfig,
    scope: &Scope,
    host_id: &HostId,
) -> Result<Desired, AcceptError> {
    if let (Some(offered), Some(stored)) = (message.generation, stored.generation)
        && offered < stored
    {
        return Err(AcceptError::Stale { offered, stored });
    }
    if let Some(app) = message.apps.keys().find(|app| host_id.collides_with(app)) {
        return Err(AcceptError::NamedAsHost { app: app.clone() });
    }
    let apps = match scope {
        Scope::Host => message.apps,
        Scope::App(topic) => {
            if !message.apps.keys().eq([topic]) {
                let names: Vec<&str> = message.apps.keys().map(AppName::as_str).collect();
                let found = if names.is_empty() {
                    "nothing".to_owned()
                } else {
                    names.join(", ")
                };
                return Err(AcceptError::OutsideTopic {
                    topic: topic.clone(),
                    found,
                });
            }
            let mut apps = stored.apps.clone();
            apps.extend(message.apps);
            apps
        }
    };
    if let Some((package, first, second)) = shared_package(&apps) {
        return Err(AcceptError::SharedPackage {
            package,
            first,
            second,
        });
    }
    Ok(Desired {
        stated: true,
        generation: message.generation.or(stored.generation),
        id: message.id,
        apps,
        serial: stored.serial + 1,
        retries: stored.retries + u64::from(message.retry),
    })
}

fn shared_package(apps: &Apps) -> Option<(String, AppName, AppName)> {
    let mut owners: BTreeMap<&str, &AppName> = BTreeMap::new();
    for (app, spec) in apps {
        if let Some(package) = &spec.package
            && let Some(first) = owners.insert(package, app)
        {
            return Some((package.clone(), first.clone(), app.clone()));
        }
    }
    None
}
