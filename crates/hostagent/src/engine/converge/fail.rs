//! What becomes of applications that fail.

use std::collections::BTreeSet;

use protocol::{AppName, Phase};
use tokio::time::Instant;

use super::roles::Role;
use super::{Convergence, Direction, End, blocked};
use crate::engine::failure::Failure;
use crate::engine::observe::Observed;
use crate::engine::progress::{Event, Progress, Retry};
use crate::engine::retry::retry_delay;
use crate::engine::{together, undo};

impl Convergence<'_> {
    pub(in crate::engine) fn tied_to(&self, app: &AppName) -> BTreeSet<AppName> {
        together::with(&self.desired.apps, app)
    }

    /// Durable when it returns: what was changed is marked for rollback in one step with all that stands or falls with it.
    /// Killed between the two, the agent would let one of them stand.
    pub(in crate::engine) fn fail_all(
        &mut self,
        failures: impl IntoIterator<Item = (AppName, Failure)>,
        observed: &Observed,
    ) -> Result<(), End> {
        let events = self.failure_events(failures, observed);
        self.record_failures(events)
    }

    fn record_failures(&mut self, events: Vec<(AppName, Event)>) -> Result<(), End> {
        let failed: BTreeSet<AppName> = events.iter().map(|(app, _)| app.clone()).collect();
        // Whatever comes next for them is another way.
        failed.iter().for_each(|app| self.passes.forget(app));
        self.book.record(events).map_err(blocked)?;
        self.schedule_retries(&failed);
        Ok(())
    }

    fn failure_events(
        &self,
        failures: impl IntoIterator<Item = (AppName, Failure)>,
        observed: &Observed,
    ) -> Vec<(AppName, Event)> {
        let mut events = Vec::new();
        let mut seen = BTreeSet::new();
        let failures: Vec<_> = failures.into_iter().collect();
        let by_themselves: BTreeSet<AppName> = failures.iter().map(|(app, _)| app.clone()).collect();
        for (app, failure) in failures {
            if !seen.insert(app.clone()) {
                continue;
            }
            log_failure(&app, &failure);
            for tied in self.tied_to(&app) {
                if !by_themselves.contains(&tied)
                    && self.falls_with_others(&tied)
                    && seen.insert(tied.clone())
                {
                    let failure = tied_failure(&tied, &app, &failure);
                    log_failure(&tied, &failure);
                    events.push(self.failure_event(tied, failure, observed));
                }
            }
            events.push(self.failure_event(app, failure, observed));
        }
        events
    }

    fn failure_event(&self, app: AppName, failure: Failure, observed: &Observed) -> (AppName, Event) {
        // Of what is kept at its state only the repair has failed.
        let event = match self.role_of(&app) {
            Role::Keep => Event::RepairFailed { failure },
            Role::Change | Role::Repair | Role::Bake | Role::Leave => {
                let settled = self.book.get(&app).and_then(Progress::settled_spec);
                Event::Failed {
                    failure,
                    spec: self.desired.apps.get(&app).cloned().map(Box::new),
                    at: undo::before(observed, &self.engine.ledger.records(), &app, settled),
                    inputs: self.inputs(&app, observed),
                }
            }
        };
        (app, event)
    }

    /// What is as desired and was not changed stays as it is.
    fn falls_with_others(&self, app: &AppName) -> bool {
        match self.role_of(app) {
            Role::Change | Role::Bake => true,
            Role::Repair | Role::Keep | Role::Leave => false,
        }
    }

    /// What goes back and cannot, is stuck; or goes forward, where something else is desired by now.
    pub(in crate::engine) fn fail_back(
        &mut self,
        obstacles: impl IntoIterator<Item = (AppName, Failure)>,
    ) -> Result<(), End> {
        let mut events = Vec::new();
        for (app, obstacle) in obstacles {
            tracing::error!(%app, phase = %Phase::Rollback, category = %obstacle.category,
                "cannot roll back {app}: {}", obstacle.message);
            let digest = self.digest.clone();
            events.push((app, Event::NotUndone { obstacle, digest }));
        }
        self.record_failures(events)
    }

    /// In the direction in which applications go now.
    pub(in crate::engine) fn fail_in_direction(
        &mut self,
        failures: impl IntoIterator<Item = (AppName, Failure)>,
        observed: &Observed,
    ) -> Result<(), End> {
        match self.direction {
            Direction::Forward => self.fail_all(failures, observed),
            Direction::Back => self.fail_back(failures),
        }
    }

    /// What is transient, and every failed repair, is tried again after a pause.
    pub(in crate::engine) fn schedule_retries(&mut self, failed: &BTreeSet<AppName>) {
        let now = Instant::now();
        let apps: Vec<&AppName> = failed.iter().collect();
        self.book.note_in_memory(&apps, |progress| {
            let is_repair = matches!(progress, Progress::Repairing { .. });
            for (nth, trouble) in progress.troubles_mut().enumerate() {
                // The second is that of a repair of what is held.
                if trouble.retry == Retry::NotPlanned
                    && (is_repair || nth == 1 || trouble.failure.category.is_transient())
                {
                    trouble.retry = Retry::At(now + retry_delay(trouble.attempts));
                }
            }
        });
    }
}

/// Of `app`, which stands or falls with `other`.
pub(super) fn tied_failure(app: &AppName, other: &AppName, failure: &Failure) -> Failure {
    Failure {
        message: format!(
            "{app} is changed together with {other} (requires), and {other} failed: {}",
            failure.message
        ),
        ..failure.clone()
    }
}

fn log_failure(app: &AppName, failure: &Failure) {
    tracing::error!(%app, phase = %failure.phase, category = %failure.category, "{app}: {}", failure.message);
}
