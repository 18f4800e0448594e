//! The one file that says how far each application is: one writer (the engine), one reader at start.

use std::path::{Path, PathBuf};

use host::InstalledPackages;
use protocol::{AppName, Apps};
use tokio::time::Instant;

use super::failure::Failure;
use super::progress::{self, Change, Event, Progress, Trouble};
use super::snapshot::Before;
use super::stored::{ProgressMap, StoredProgress};
use super::takeover;
use crate::ledger::Ledger;
use crate::state_file::{StateFile, StateFileError};

/// In memory what holds now. The file may be behind where it could not be written and that costs no more than work that
/// is done once more ([`ProgressBook::note`]).
pub struct ProgressBook {
    file: StateFile<StoredProgress>,
    current: StoredProgress,
    /// As the file was last written.
    stored: StoredProgress,
}

impl ProgressBook {
    /// Whether anything in `state_dir` is being changed, or could not be undone.
    pub fn has_changes(state_dir: &Path) -> Result<bool, StateFileError> {
        let stored = Self::peek(state_dir, &Apps::new())?;
        Ok(stored.apps.values().any(|progress| progress.change().is_some()))
    }

    pub fn path(state_dir: &Path) -> PathBuf {
        state_dir.join("progress.json")
    }

    /// Takes up what an earlier run of the agent left; counts a crash if that run did not stop by itself.
    pub fn open(state_dir: &Path, ledger: &Ledger) -> Result<Self, StateFileError> {
        let mut book = Self::load(state_dir, ledger)?;
        let was_stopped = std::mem::take(&mut book.current.stopped);
        if !was_stopped {
            let apps: Vec<AppName> = book.current.apps.keys().cloned().collect();
            for app in apps {
                book.change(&app, Event::Crashed);
            }
        }
        book.store()?;
        takeover::remove_old_files(state_dir)?;
        let open: Vec<&str> = book.in_progress().map(|(app, _)| app.as_str()).collect();
        if !open.is_empty() && !was_stopped {
            tracing::warn!(
                applications = open.join(", "),
                "an earlier run of the agent was interrupted while changing the host; continuing"
            );
        }
        Ok(book)
    }

    fn load(state_dir: &Path, ledger: &Ledger) -> Result<Self, StateFileError> {
        let file = StateFile::new(Self::path(state_dir));
        let found: Option<StoredProgress> = file.load()?;
        let is_first = found.is_none() && file.damaged()?.is_none();
        let stored = found.unwrap_or_default();
        let mut current = stored.clone();
        let desired = ledger.desired();
        takeover::take_over(state_dir, &desired.apps, &mut current)?;
        if is_first {
            takeover::settled(&desired.apps, &ledger.records(), &mut current);
        }
        Ok(Self {
            file,
            current,
            stored,
        })
    }

    /// For commands that only look.
    pub fn peek(state_dir: &Path, desired: &Apps) -> Result<StoredProgress, StateFileError> {
        let mut stored = StateFile::new(Self::path(state_dir)).peek()?.unwrap_or_default();
        takeover::take_over(state_dir, desired, &mut stored)?;
        Ok(stored)
    }

    /// The book of `state_dir` is left by an agent that ends in good order.
    pub fn note_stop_in(state_dir: &Path, ledger: &Ledger) -> Result<(), StateFileError> {
        Self::load(state_dir, ledger)?.note_stop()
    }

    pub fn get(&self, app: &AppName) -> Option<&Progress> {
        self.current.apps.get(app)
    }

    pub fn apps(&self) -> &ProgressMap {
        &self.current.apps
    }

    /// What is being changed, watched or rolled back.
    pub fn in_progress(&self) -> impl Iterator<Item = (&AppName, &Progress)> {
        self.current
            .apps
            .iter()
            .filter(|(_, progress)| progress.is_in_progress())
    }

    pub fn is_rolling_back(&self) -> bool {
        let mut all = self.current.apps.values();
        all.any(|progress| matches!(progress, Progress::RollingBack { .. }))
    }

    /// Durable when it returns; on failure nothing has changed.
    pub fn record(
        &mut self,
        events: impl IntoIterator<Item = (AppName, Event)>,
    ) -> Result<(), StateFileError> {
        let before = self.current.clone();
        for (app, event) in events {
            self.change(&app, event);
        }
        self.store().inspect_err(|_| self.current = before)
    }

    /// The same where a loss costs no more than repeated work: it holds from now on, in the file as soon as that can be
    /// written.
    pub fn note(&mut self, events: impl IntoIterator<Item = (AppName, Event)>) {
        for (app, event) in events {
            self.change(&app, event);
        }
        self.store_or_warn();
    }

    /// Changes what is not persisted, or need not be until the next write.
    pub fn note_in_memory(&mut self, apps: &[&AppName], change: impl Fn(&mut Progress)) {
        for app in apps {
            if let Some(progress) = self.current.apps.get_mut(*app) {
                change(progress);
            }
        }
    }

    /// When the first pause after a failure is over, of those that were not over at `seen`: the others were looked at then,
    /// and something else keeps them waiting.
    pub fn next_retry(&self, seen: Instant) -> Option<Instant> {
        let troubles = self.current.apps.values().flat_map(Progress::troubles);
        troubles
            .filter_map(Trouble::retry_at)
            .filter(|at| *at > seen)
            .min()
    }

    /// Changes details of `app`'s progress. Durable when it returns; on failure nothing has changed.
    pub fn update(
        &mut self,
        apps: &[&AppName],
        change: impl Fn(&mut Progress),
    ) -> Result<(), StateFileError> {
        let before = self.current.clone();
        self.note_in_memory(apps, change);
        self.store().inspect_err(|_| self.current = before)
    }

    /// The same as [`Self::update`] where a loss costs no more than repeated work.
    pub fn note_update(&mut self, apps: &[&AppName], change: impl Fn(&mut Progress)) {
        self.note_in_memory(apps, change);
        self.store_or_warn();
    }

    /// Marks a change for rollback that is not in the book: the guard's, of the agent's own upgrade. Durable when it returns.
    pub fn roll_back(
        &mut self,
        app: &AppName,
        change: Change,
        failure: Failure,
    ) -> Result<(), StateFileError> {
        let change = Box::new(change);
        self.current
            .apps
            .insert(app.clone(), Progress::RollingBack { change, failure });
        self.store()
    }

    /// A transaction that was cut short for the agent has come to its end without it: what has another version than before is
    /// whole.
    pub fn trust_transactions(&mut self, installed: &InstalledPackages) {
        let apps: Vec<AppName> = self.current.apps.keys().cloned().collect();
        self.note_update(&apps.iter().collect::<Vec<_>>(), |progress| {
            let is_whole = match progress.change().map(|change| &change.before) {
                Some(Before::Installed(before)) => installed
                    .get(&before.package)
                    .is_some_and(|now| now.version != before.version),
                Some(Before::Absent { .. }) | None => false,
            };
            if is_whole && let Some(unfinished) = progress.unfinished_mut() {
                unfinished.in_transaction = false;
            }
        });
    }

    /// The operator requests a retry of all that failed.
    pub fn release_all(&mut self) {
        self.tell_all(&Event::Release);
    }

    pub fn tell_all(&mut self, event: &Event) {
        let apps: Vec<AppName> = self.current.apps.keys().cloned().collect();
        self.note(
            apps.into_iter()
                .map(|app| (app, event.clone()))
                .collect::<Vec<_>>(),
        );
    }

    /// The agent is about to end in good order.
    pub fn note_stop(&mut self) -> Result<(), StateFileError> {
        let goes_on = self.in_progress().next().is_some();
        self.current.stopped = goes_on;
        self.store()
    }

    fn change(&mut self, app: &AppName, event: Event) {
        let from = self.current.apps.remove(app);
        if let Some(to) = progress::next(from, event) {
            self.current.apps.insert(app.clone(), to);
        }
    }

    fn store_or_warn(&mut self) {
        if let Err(error) = self.store() {
            tracing::warn!(
                "cannot store the progress of applications; after a crash some work is repeated: {error}"
            );
        }
    }

    /// Where anything has changed that is persisted.
    fn store(&mut self) -> Result<(), StateFileError> {
        if self.current != self.stored {
            self.file.store(&self.current)?;
            self.stored.clone_from(&self.current);
        }
        Ok(())
    }
}
