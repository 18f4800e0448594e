//! What undo needs, durable before the first change.
//!
//! The journal says what to undo, never how far things are: that is observed. It lives from the first
//! change of a convergence until the outcome is durable, over crashes and restarts of the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use protocol::{AppName, Apps, Config, Phase};
use serde::{Deserialize, Serialize};

use crate::engine::failure::{Failure, Failures};
use crate::ledger::Record;
use crate::state_file::{StateFile, StateFileError};
use host::InstalledPackages;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Journal {
    /// The desired state that is being applied.
    pub desired: Apps,
    /// Starts of the agent that found this journal after a crash. A convergence that keeps killing the agent
    /// is given up.
    pub crashes: u32,
    /// The agent was told to stop, and will go on: no crash.
    #[serde(default)]
    pub stopped: bool,
    pub entries: BTreeMap<AppName, Entry>,
    /// Applications in the package transaction that is under way. After a crash their packages may look
    /// installed and not be (rpm enters a package before its last script has run).
    #[serde(default)]
    pub in_transaction: BTreeSet<AppName>,
}

impl Journal {
    fn doom(&mut self, failed: &Failures) {
        for (app, failure) in failed {
            if let Some(entry) = self.entries.get_mut(app) {
                entry.doomed.get_or_insert_with(|| failure.clone());
            }
        }
    }

    /// A package whose installation failed and that was not brought back is in no better state than one whose transaction
    /// was cut short: rpm calls it installed.
    fn pardon(&mut self, app: &AppName) {
        let Some(entry) = self.entries.get_mut(app) else {
            return;
        };
        if entry
            .doomed
            .take()
            .is_some_and(|failure| failure.phase == Phase::Install)
        {
            self.in_transaction.insert(app.clone());
        }
    }
}

/// One application that is being changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub before: Before,
    /// Set before its rollback begins; from then on there is no way but back.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub doomed: Option<Failure>,
    /// Services that still ran the old version were started anew.
    #[serde(default)]
    pub restarted: bool,
    /// The package of an application that was absent, if nothing of it was there, not even configuration files:
    /// when it goes again, all of it goes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub purge: Option<String>,
}

/// What an application was before it was changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Before {
    Absent,
    Installed(Box<Snapshot>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub package: String,
    /// Full version.
    pub version: String,
    pub way_back: WayBack,
    pub record: Option<Record>,
    pub config: Config,
    pub services: BTreeMap<String, SavedService>,
    /// Files that its contract writes config into, as they were.
    pub files: Vec<SavedFile>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedService {
    pub running: bool,
    pub enabled: Option<bool>,
    /// Of the process that ran then ([`host::ServiceState::instance`]).
    #[serde(default)]
    pub instance: Option<u64>,
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

/// Where the previous package comes from, if it must come back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "from")]
pub enum WayBack {
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

impl WayBack {
    /// Whether a package file is at hand or to be had that could be installed again.
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
impl std::fmt::Display for WayBack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotNeeded => f.write_str("the package stays"),
            Self::File { .. } => f.write_str("the previous package is kept on this host"),
            Self::Url { url, .. } => {
                write!(
                    f,
                    "the previous package would be fetched from {}",
                    crate::settings::without_credentials(url)
                )
            }
            Self::Repository => f.write_str("the host's repositories offer the previous version"),
            Self::Nowhere { reason } => write!(f, "not reversible: {reason}"),
        }
    }
}

/// The journal of this host, on disk and in memory.
pub struct JournalFile {
    file: StateFile<Journal>,
    open: Option<Journal>,
}

impl JournalFile {
    pub fn path(state_dir: &Path) -> PathBuf {
        state_dir.join("journal.json")
    }

    /// Takes up what an earlier run of the agent left; counts a crash if that run did not stop by itself.
    pub fn open(state_dir: &Path) -> Result<Self, StateFileError> {
        let file = StateFile::new(Self::path(state_dir));
        let mut journal: Option<Journal> = file.load()?;
        if let Some(journal) = &mut journal {
            journal.crashes += u32::from(!journal.stopped);
            journal.stopped = false;
            file.store(journal)?;
            tracing::warn!(
                crashes = journal.crashes,
                applications = ?journal.entries.keys().map(AppName::as_str).collect::<Vec<_>>(),
                "an earlier run of the agent was interrupted while changing the host; going on"
            );
        }
        Ok(Self { file, open: journal })
    }

    /// For those who only look.
    pub fn peek(state_dir: &Path) -> Result<Option<Journal>, StateFileError> {
        StateFile::new(Self::path(state_dir)).peek()
    }

    /// The journal of `state_dir` is left open by an agent that ends in good order.
    pub fn note_stop_in(state_dir: &Path) -> Result<(), StateFileError> {
        let file = StateFile::new(Self::path(state_dir));
        let open = file.load()?;
        Self { file, open }.note_stop()
    }

    pub fn get(&self) -> Option<&Journal> {
        self.open.as_ref()
    }

    pub fn entry(&self, app: &AppName) -> Option<&Entry> {
        self.open.as_ref()?.entries.get(app)
    }

    /// Adds what is not in it yet: the oldest state of each application is the one that was last whole.
    /// Durable when it returns.
    pub fn add(&mut self, desired: &Apps, entries: Vec<(AppName, Entry)>) -> Result<(), StateFileError> {
        let mut journal = self.open.clone().unwrap_or_default();
        journal.desired.clone_from(desired);
        for (app, entry) in entries {
            journal.entries.entry(app).or_insert(entry);
        }
        if self.open.as_ref() != Some(&journal) {
            self.file.store(&journal)?;
        }
        self.open = Some(journal);
        Ok(())
    }

    /// From now on there is no way for those that `failed` but back. Durable when it returns.
    pub fn doom(&mut self, failed: &Failures) -> Result<(), StateFileError> {
        self.change(|journal| journal.doom(failed))
    }

    /// `app` is back where it was, and a changed desired state is a new chance for it.
    pub fn forget(&mut self, app: &AppName) -> Result<(), StateFileError> {
        self.change(|journal| {
            journal.entries.remove(app);
        })
    }

    /// `app` may go forward again, from where it was left.
    pub fn reprieve(&mut self, app: &AppName) -> Result<(), StateFileError> {
        self.change(|journal| journal.pardon(app))
    }

    /// Applications whose packages were changed, or were to be.
    pub fn changed_packages(&self) -> BTreeSet<AppName> {
        let is_changed = |entry: &Entry| match &entry.before {
            Before::Installed(before) => before.way_back != WayBack::NotNeeded,
            Before::Absent => true,
        };
        let entries = self.get().into_iter().flat_map(|journal| &journal.entries);
        entries
            .filter(|(_, entry)| is_changed(entry))
            .map(|(app, _)| app.clone())
            .collect()
    }

    /// The operator wants all to be tried again: forward, not back.
    pub fn pardon(&mut self) -> Result<(), StateFileError> {
        self.change(|journal| {
            journal.crashes = 0;
            let apps: Vec<AppName> = journal.entries.keys().cloned().collect();
            apps.iter().for_each(|app| journal.pardon(app));
        })
    }

    pub fn note_restarted(&mut self, apps: &[&AppName]) -> Result<(), StateFileError> {
        if apps.is_empty() {
            return Ok(());
        }
        self.change(|journal| {
            for app in apps {
                if let Some(entry) = journal.entries.get_mut(*app) {
                    entry.restarted = true;
                }
            }
        })
    }

    pub fn begin_transaction(&mut self, apps: BTreeSet<AppName>) -> Result<(), StateFileError> {
        self.change(|journal| journal.in_transaction = apps)
    }

    /// `failed`: for these there is no way but back, as [`Self::doom`] says.
    pub fn end_transaction(&mut self, failed: &Failures) -> Result<(), StateFileError> {
        self.change(|journal| {
            journal.in_transaction.clear();
            journal.doom(failed);
        })
    }

    /// What was cut short for the agent has come to its end without it: what has another version than before is whole.
    pub fn trust_transaction(&mut self, installed: &InstalledPackages) -> Result<(), StateFileError> {
        self.change(|journal| {
            let entries = &journal.entries;
            let is_whole = |entry: &Entry| match &entry.before {
                Before::Installed(before) => installed
                    .get(&before.package)
                    .is_some_and(|now| now.version != before.version),
                Before::Absent => false,
            };
            journal
                .in_transaction
                .retain(|app| !entries.get(app).is_some_and(is_whole));
        })
    }

    /// The agent is about to end in good order.
    pub fn note_stop(&mut self) -> Result<(), StateFileError> {
        self.change(|journal| journal.stopped = true)
    }

    /// All is done, and the outcome is durable. What could not be brought back keeps its entry.
    pub fn close_but_for(&mut self, kept: &[AppName]) -> Result<(), StateFileError> {
        if !kept.is_empty() {
            return self.change(|journal| journal.entries.retain(|app, _| kept.contains(app)));
        }
        if self.open.is_some() {
            self.file.remove()?;
            self.open = None;
        }
        Ok(())
    }

    fn change(&mut self, change: impl FnOnce(&mut Journal)) -> Result<(), StateFileError> {
        let Some(mut journal) = self.open.clone() else {
            return Ok(());
        };
        change(&mut journal);
        if self.open.as_ref() != Some(&journal) {
            self.file.store(&journal)?;
            self.open = Some(journal);
        }
        Ok(())
    }
}
