//! State files of agents before version 0.2, which kept an application's progress in two of them: `journal.json` (what
//! undo needs) and `outcome.json` (failures that are held). Read at the first start, then removed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use protocol::{AppName, Apps, ErrorReport};
use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::progress::{Change, DesiredDigest, Progress, Trouble, Unfinished};
use super::snapshot::{Before, Snapshot};
use super::stored::StoredProgress;
use crate::ledger::Records;
use crate::state_file::{StateFile, StateFileError};

#[derive(Serialize, Deserialize)]
struct OldJournal {
    desired: Apps,
    crashes: u32,
    #[serde(default)]
    stopped: bool,
    entries: BTreeMap<AppName, OldEntry>,
    #[serde(default)]
    in_transaction: BTreeSet<AppName>,
}

#[derive(Serialize, Deserialize)]
struct OldEntry {
    before: OldBefore,
    #[serde(default)]
    doomed: Option<Failure>,
    #[serde(default)]
    purge: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OldBefore {
    Absent,
    Installed(Box<Snapshot>),
}

#[derive(Serialize, Deserialize)]
struct OldOutcome {
    apps: Apps,
    errors: Vec<ErrorReport>,
}

fn journal_file(state_dir: &Path) -> StateFile<OldJournal> {
    StateFile::new(state_dir.join("journal.json"))
}

fn outcome_file(state_dir: &Path) -> StateFile<OldOutcome> {
    StateFile::new(state_dir.join("outcome.json"))
}

/// Adds what old files say to `progress`. Changes no file. After a rollback to an older agent, its files are the newer ones.
pub fn take_over(
    state_dir: &Path,
    desired: &Apps,
    progress: &mut StoredProgress,
) -> Result<(), StateFileError> {
    if let Some(outcome) = outcome_file(state_dir).peek()?
        && outcome.apps == *desired
    {
        for error in outcome.errors {
            if let Some(app) = error.app.clone() {
                progress.apps.insert(app, held(error));
            }
        }
    }
    if let Some(journal) = journal_file(state_dir).peek()? {
        progress.stopped = journal.stopped;
        let desired = DesiredDigest::of(&journal.desired);
        for (app, entry) in journal.entries {
            let change = Change {
                before: match entry.before {
                    OldBefore::Absent => Before::Absent { purge: entry.purge },
                    OldBefore::Installed(snapshot) => Before::Installed(snapshot),
                },
                desired: desired.clone(),
                spec: journal.desired.get(&app).cloned().map(Box::new),
                attempts: 0,
                crashes: journal.crashes,
                started: BTreeSet::new(),
                unfinished: Unfinished {
                    in_transaction: journal.in_transaction.contains(&app),
                    outdated: BTreeMap::new(),
                },
            };
            let change = Box::new(change);
            let taken = match (entry.doomed, progress.apps.remove(&app)) {
                // Its rollback failed: the error says so.
                (Some(cause), Some(Progress::Held { trouble, .. })) => Progress::Stuck {
                    change,
                    cause,
                    trouble,
                },
                (Some(failure), _) => Progress::RollingBack { change, failure },
                (None, _) => Progress::Applying { change },
            };
            progress.apps.insert(app, taken);
        }
    }
    Ok(())
}

fn held(error: ErrorReport) -> Progress {
    Progress::Held {
        // What it was is not in the old file: nothing is repaired until it is tried again.
        at: Before::Absent { purge: None },
        rolled_back: error.rolled_back,
        trouble: Trouble::new(
            Failure {
                phase: error.phase,
                category: error.category,
                message: error.message,
            },
            error.attempt,
        ),
        inputs: None,
        repair: None,
    }
}

/// What an older agent had brought to its desired state and that nothing is said of.
pub fn settled(desired: &Apps, records: &Records, progress: &mut StoredProgress) {
    for (app, spec) in desired.iter().filter(|(app, _)| records.contains_key(*app)) {
        let settled = || Progress::Settled {
            spec: Box::new(spec.clone()),
            unfinished: Unfinished::default(),
        };
        progress.apps.entry(app.clone()).or_insert_with(settled);
    }
}

/// They are in `progress.json` by now.
pub fn remove_old_files(state_dir: &Path) -> Result<(), StateFileError> {
    journal_file(state_dir).remove()?;
    outcome_file(state_dir).remove()
}
