//! What may be done for each application at this moment.

use std::collections::BTreeSet;

use protocol::{AppName, AppSpec};
use tokio::time::Instant;

use super::{Convergence, Direction};
use crate::engine::hold::inputs_of;
use crate::engine::observe::Observed;
use crate::engine::plan::Targets;
use crate::engine::progress::{Change, Event, Inputs, Progress, Unfinished};
use crate::engine::snapshot::Before;
use crate::engine::target::Target;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Brought to what is desired, as a change that can be undone.
    Change,
    /// Brought back to what is desired, which it had reached: without a rollback.
    Repair,
    /// Held: kept at the state that it is in.
    Keep,
    /// Watched after a change.
    Bake,
    /// Nothing is done until a pause is over, or an operator acts.
    Leave,
}

/// Pure.
pub(super) fn role(progress: Option<&Progress>, spec: Option<&AppSpec>, now: Instant) -> Role {
    match progress {
        None | Some(Progress::Applying { .. }) => Role::Change,
        Some(Progress::Settled { spec: settled, .. }) if spec == Some(settled) => Role::Repair,
        Some(Progress::Settled { .. }) => Role::Change,
        Some(Progress::Repairing {
            spec: settled,
            trouble,
            ..
        }) if spec == Some(settled) => match trouble.pause_is_over(now) {
            true => Role::Repair,
            false => Role::Leave,
        },
        Some(Progress::Repairing { .. }) => Role::Change,
        Some(Progress::Baking { .. }) => Role::Bake,
        Some(Progress::Held { trouble, .. }) if trouble.is_due(now) => Role::Change,
        Some(Progress::Held {
            repair: Some(repair), ..
        }) if !repair.pause_is_over(now) => Role::Leave,
        Some(Progress::Held { .. }) => Role::Keep,
        Some(Progress::RollingBack { .. } | Progress::Stuck { .. }) => Role::Leave,
    }
}

impl Convergence<'_> {
    pub(super) fn role_of(&self, app: &AppName) -> Role {
        let (spec, now) = (self.desired.apps.get(app), Instant::now());
        match role(self.book.get(app), spec, now) {
            Role::Repair if self.flaps.paused_until(app).is_some_and(|until| until > now) => Role::Leave,
            role => role,
        }
    }

    /// Whether what is done for `app` now can be undone, and so must be noted first.
    pub(in crate::engine) fn is_change(&self, app: &AppName) -> bool {
        self.direction == Direction::Forward && self.role_of(app) == Role::Change
    }

    /// Whether the package of `app` may be changed in this attempt.
    pub(in crate::engine) fn may_go_forward(&self, app: &AppName) -> bool {
        match self.role_of(app) {
            Role::Change | Role::Repair => true,
            Role::Keep | Role::Bake | Role::Leave => false,
        }
    }

    pub(in crate::engine) fn change_of(
        &self,
        app: &AppName,
        before: Before,
        unfinished: Unfinished,
    ) -> Change {
        Change {
            before,
            desired: self.digest.clone(),
            spec: self.desired.apps.get(app).cloned().map(Box::new),
            attempts: 0,
            crashes: 0,
            started: BTreeSet::new(),
            unfinished,
        }
    }

    pub(in crate::engine) fn begin_passes_anew(&mut self) {
        self.passes.begin_anew();
    }

    /// The target of an application that cannot be brought to what is desired now.
    pub(super) fn kept_target(&self, app: &AppName) -> Option<Target> {
        match self.book.get(app)? {
            Progress::Held { at, .. } => Target::held(at),
            Progress::Settled { spec, .. } | Progress::Repairing { spec, .. } => Some(Target::kept(spec)),
            Progress::Applying { .. }
            | Progress::Baking { .. }
            | Progress::RollingBack { .. }
            | Progress::Stuck { .. } => None,
        }
    }

    /// By role: what is desired, what it is kept at, or nothing.
    pub(super) fn forward_targets(&self, all: &Targets) -> Targets {
        let mut targets = Targets::new();
        let held = self.book.apps().keys().filter(|app| !all.contains_key(*app));
        for app in all.keys().chain(held) {
            let target = match self.role_of(app) {
                Role::Change | Role::Repair => all.get(app).cloned(),
                Role::Keep => self.kept_target(app),
                Role::Bake | Role::Leave => None,
            };
            targets.extend(target.map(|target| (app.clone(), target)));
        }
        targets
    }

    /// What is held is tried again, with all that it stands or falls with, once something changes that it may have failed of. A
    /// rollback that failed transiently is tried again after its pause.
    pub(super) fn release(&mut self, observed: &Observed) {
        let now = Instant::now();
        let mut events = Vec::new();
        for (app, progress) in self.book.apps() {
            match progress {
                Progress::Held {
                    inputs: Some(inputs),
                    trouble,
                    ..
                } if !trouble.is_due(now) => {
                    if let Some(what) = inputs.changed_to(&self.inputs(app, observed), &trouble.failure) {
                        tracing::info!(%app, "retrying {app}: {what} changed");
                        let tied = self.tied_to(app);
                        events.extend(
                            tied.into_iter()
                                .chain([app.clone()])
                                .map(|app| (app, Event::Release)),
                        );
                    }
                }
                // What stands or falls together is tried together.
                Progress::Held { trouble, .. } if trouble.is_due(now) => {
                    let tied = self.tied_to(app).into_iter();
                    let waiting = tied.filter(|tied| match self.book.get(tied) {
                        Some(Progress::Held { trouble, .. }) => {
                            !trouble.is_due(now) && trouble.failure.category.is_transient()
                        }
                        _ => false,
                    });
                    events.extend(waiting.map(|tied| (tied, Event::RetryDue)));
                }
                Progress::Stuck { trouble, .. } if trouble.is_due(now) => {
                    events.push((app.clone(), Event::RetryDue))
                }
                Progress::Held { .. }
                | Progress::Stuck { .. }
                | Progress::Settled { .. }
                | Progress::Repairing { .. }
                | Progress::Applying { .. }
                | Progress::Baking { .. }
                | Progress::RollingBack { .. } => {}
            }
        }
        // Nothing of this is persisted but the new way of what is stuck.
        self.book.note(events);
        self.learn_inputs(observed);
    }

    /// For an application that an older agent held, the cause of the failure is unknown.
    fn learn_inputs(&mut self, observed: &Observed) {
        let unknown = self
            .book
            .apps()
            .iter()
            .filter_map(|(app, progress)| match progress {
                Progress::Held { inputs: None, .. } => Some((app.clone(), self.inputs(app, observed))),
                _ => None,
            });
        for (app, found) in unknown.collect::<Vec<_>>() {
            self.book.note_update(&[&app], |progress| {
                if let Progress::Held { inputs, .. } = progress {
                    *inputs = Some(found.clone());
                }
            });
        }
    }

    pub(super) fn inputs(&self, app: &AppName, observed: &Observed) -> Inputs {
        let lists = self.engine.host.packages.lists_stamp();
        inputs_of(app, observed, &self.digest, lists)
    }
}
