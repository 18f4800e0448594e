//! All that the agent knows of one application's progress: one persisted value, and every way in which it changes.
//!
//! ```text
//!                  Begin                 Reached               Baked
//!  (none) ──────────────────> Applying ───────────> Baking ───────────> Settled
//!  Settled, Held               │    ^                 │                    │ Failed (a repair)
//!    ^                  Failed │    │ Release         │ Failed             v
//!    │                         v    │                 │                Repairing ──Reached──> Settled
//!    │  Undone           RollingBack <────────────────┘
//!   Held <─────────────────────┤
//!    ^                         │ NotUndone      Desired, RetryDue
//!    │ Failed (untouched)      └───────────────> Stuck ──────────> RollingBack
//!  (none), Settled
//! ```
//!
//! No entry: nothing was begun for the application. [`next`] is total: an event that means nothing to a state leaves it.

use std::collections::{BTreeMap, BTreeSet};

use protocol::{AppSpec, Category, Phase};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::failure::Failure;
use super::snapshot::Before;

mod digest;
mod inputs;

pub use digest::DesiredDigest;
pub use inputs::Inputs;

/// Stored (`progress.json`): every new field of these types needs a serde default, or the files of earlier agents count as
/// damaged. `progress/stored.json` is such a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Progress {
    /// It has reached this desired state. What differs from it is drift, and is repaired.
    Settled {
        spec: Box<AppSpec>,
        #[serde(flatten)]
        unfinished: Unfinished,
    },
    /// A repair failed. It is repeated for ever, with growing pauses.
    Repairing {
        spec: Box<AppSpec>,
        trouble: Trouble,
        #[serde(flatten)]
        unfinished: Unfinished,
    },
    /// Being changed to what is desired.
    Applying { change: Box<Change> },
    /// Changed, and watched for the bake period.
    Baking { change: Box<Change> },
    /// The change failed and is being undone. Nothing else comes before that.
    RollingBack { change: Box<Change>, failure: Failure },
    /// Not tried until something that made it fail changes or, where the failure is transient, after a pause. Supervised
    /// at `at` meanwhile.
    Held {
        at: Before,
        /// Whether it was changed and undone; else nothing was touched.
        rolled_back: bool,
        trouble: Trouble,
        /// What the failure may depend on, as it was then.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        inputs: Option<Inputs>,
        /// The last repair of what drifted from `at` failed.
        #[serde(skip)]
        repair: Option<Trouble>,
    },
    /// The rollback failed: this needs an operator.
    Stuck {
        change: Box<Change>,
        /// What the rollback is for.
        cause: Failure,
        trouble: Trouble,
    },
}

/// A change of one application that is not yet known to be good.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// What it was when it was last whole.
    pub before: Before,
    /// The desired state of the whole host that this is for.
    pub desired: DesiredDigest,
    /// That of the application; `None`: it is to go.
    pub spec: Option<Box<AppSpec>>,
    /// Failed attempts before this one.
    #[serde(default)]
    pub attempts: u32,
    /// Starts of the agent that found this change after a crash.
    #[serde(default)]
    pub crashes: u32,
    /// Services that this change starts. Others that run were started by somebody else.
    #[serde(skip_serializing_if = "BTreeSet::is_empty", default)]
    pub started: BTreeSet<String>,
    #[serde(flatten)]
    pub unfinished: Unfinished,
}

/// What a package transaction may have left to do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfinished {
    /// The package is in a transaction that is not known to have ended. On rpm hosts it may look installed and not be.
    #[serde(skip_serializing_if = "is_false", default)]
    pub in_transaction: bool,
    /// Services that ran when package or files were last changed, each with the instance that ran. Where that one still
    /// runs, it runs the previous version.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub outdated: BTreeMap<String, Option<u64>>,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// A failure, and when its application is tried again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trouble {
    pub failure: Failure,
    /// Attempts made so far.
    pub attempts: u32,
    #[serde(skip)]
    pub retry: Retry,
}

/// When an application that failed is tried again. Not persisted: after a restart, what is transient is due at once.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Retry {
    /// When something changes; transient failures at once.
    #[default]
    NotPlanned,
    At(Instant),
    /// Now.
    Due,
}

impl Trouble {
    pub fn new(failure: Failure, attempts: u32) -> Self {
        Self {
            failure,
            attempts,
            retry: Retry::NotPlanned,
        }
    }

    /// Whether it is to be tried now.
    pub fn is_due(&self, now: Instant) -> bool {
        match self.retry {
            Retry::Due => true,
            Retry::At(at) => at <= now,
            Retry::NotPlanned => self.failure.category.is_transient(),
        }
    }

    /// Of what is tried again for ever: whether the pause since the last try is over.
    pub fn pause_is_over(&self, now: Instant) -> bool {
        match self.retry {
            Retry::Due | Retry::NotPlanned => true,
            Retry::At(at) => at <= now,
        }
    }

    pub fn retry_at(&self) -> Option<Instant> {
        match self.retry {
            Retry::At(at) => Some(at),
            Retry::Due | Retry::NotPlanned => None,
        }
    }
}

/// What happens to one application.
#[derive(Debug, Clone)]
pub enum Event {
    /// A desired state was received, or taken up at the agent's start.
    Desired { digest: DesiredDigest },
    /// A change begins; what undo needs is in it.
    Begin(Box<Change>),
    /// Nothing is left to do. `bake`: it must prove itself first.
    Reached {
        spec: Option<Box<AppSpec>>,
        digest: DesiredDigest,
        bake: bool,
    },
    /// It held for the bake period.
    Baked,
    /// A step failed, or the bake. `at`, `inputs`: how it is where nothing was touched.
    Failed {
        failure: Failure,
        spec: Option<Box<AppSpec>>,
        at: Before,
        inputs: Inputs,
    },
    /// A repair of what is held failed.
    RepairFailed { failure: Failure },
    /// What is held is at its state.
    RepairReached,
    /// It is back at what it was. `digest`: of what is desired now.
    Undone { digest: DesiredDigest, inputs: Inputs },
    /// It could not be brought back.
    NotUndone {
        obstacle: Failure,
        digest: DesiredDigest,
    },
    /// The package manager refused the change that has just begun: nothing was touched, and all is as `before`.
    Withdrawn { before: Option<Box<Progress>> },
    /// Something else is desired of it than what it is watched for.
    Superseded,
    /// The pause after a transient failure is over.
    RetryDue,
    /// The operator asks for another try, or something that made it fail has changed.
    Release,
    /// Somebody else has changed the package while only config and services were being changed.
    ChangedExternally,
    /// The agent starts, and did not end in good order before.
    Crashed,
}

/// What becomes of an application. Pure.
pub fn next(from: Option<Progress>, event: Event) -> Option<Progress> {
    match event {
        Event::Desired { digest } => desired(from, &digest),
        Event::Begin(change) => Some(begin(from, *change)),
        Event::Reached { spec, digest, bake } => reached(from, spec, digest, bake),
        Event::Baked => baked(from),
        Event::Failed {
            failure,
            spec,
            at,
            inputs,
        } => Some(failed(from, failure, spec, at, inputs)),
        Event::RepairFailed { failure } => repair_failed(from, failure),
        Event::RepairReached => repair_reached(from),
        Event::Undone { digest, inputs } => undone(from, &digest, inputs),
        Event::NotUndone { obstacle, digest } => not_undone(from, obstacle, &digest),
        Event::Withdrawn { before } => withdrawn(from, before),
        Event::Superseded => superseded(from),
        Event::RetryDue => retry_due(from),
        Event::Release => release(from),
        Event::ChangedExternally => changed_externally(from),
        Event::Crashed => crashed(from),
    }
}

fn desired(from: Option<Progress>, digest: &DesiredDigest) -> Option<Progress> {
    match from {
        Some(Progress::Held {
            inputs: Some(ref inputs),
            ..
        }) if inputs.desired != *digest => release(from),
        Some(Progress::Stuck {
            change,
            cause,
            trouble,
        }) if change.desired != *digest => Some(roll_back_again(*change, cause, &trouble)),
        Some(
            Progress::Settled { .. }
            | Progress::Repairing { .. }
            | Progress::Applying { .. }
            | Progress::Baking { .. }
            | Progress::RollingBack { .. }
            | Progress::Held { .. }
            | Progress::Stuck { .. },
        )
        | None => from,
    }
}

fn roll_back_again(change: Change, cause: Failure, trouble: &Trouble) -> Progress {
    Progress::RollingBack {
        change: Box::new(Change {
            attempts: trouble.attempts,
            ..change
        }),
        failure: cause,
    }
}

fn begin(from: Option<Progress>, mut new: Change) -> Progress {
    match from {
        None | Some(Progress::Settled { .. }) => {}
        Some(Progress::Repairing { trouble, .. } | Progress::Held { trouble, .. }) => {
            new.attempts = trouble.attempts
        }
        Some(Progress::Applying { change } | Progress::Baking { change }) => {
            return Progress::Applying {
                change: Box::new(change.continued_by(new)),
            };
        }
        Some(from @ (Progress::RollingBack { .. } | Progress::Stuck { .. })) => return from,
    }
    Progress::Applying {
        change: Box::new(new),
    }
}

fn reached(
    from: Option<Progress>,
    spec: Option<Box<AppSpec>>,
    digest: DesiredDigest,
    bake: bool,
) -> Option<Progress> {
    match from {
        Some(Progress::Applying { change }) if bake && spec.is_some() => Some(Progress::Baking {
            change: Box::new(Change {
                desired: digest,
                spec,
                ..*change
            }),
        }),
        Some(from @ (Progress::Baking { .. } | Progress::RollingBack { .. })) => Some(from),
        None
        | Some(
            Progress::Settled { .. }
            | Progress::Repairing { .. }
            | Progress::Applying { .. }
            | Progress::Held { .. }
            | Progress::Stuck { .. },
        ) => spec.map(settled),
    }
}

fn settled(spec: Box<AppSpec>) -> Progress {
    Progress::Settled {
        spec,
        unfinished: Unfinished::default(),
    }
}

fn baked(from: Option<Progress>) -> Option<Progress> {
    match from {
        Some(Progress::Baking { change }) => change.spec.map(settled),
        Some(
            Progress::Settled { .. }
            | Progress::Repairing { .. }
            | Progress::Applying { .. }
            | Progress::RollingBack { .. }
            | Progress::Held { .. }
            | Progress::Stuck { .. },
        )
        | None => from,
    }
}

fn failed(
    from: Option<Progress>,
    failure: Failure,
    desired: Option<Box<AppSpec>>,
    at: Before,
    inputs: Inputs,
) -> Progress {
    let held = |at, attempts| Progress::Held {
        at,
        rolled_back: false,
        trouble: Trouble::new(failure.clone(), attempts),
        inputs: Some(inputs),
        repair: None,
    };
    match from {
        Some(Progress::Settled { spec, unfinished }) if desired.as_ref() == Some(&spec) => {
            Progress::Repairing {
                spec,
                trouble: Trouble::new(failure, 1),
                unfinished,
            }
        }
        Some(Progress::Repairing {
            spec,
            trouble,
            unfinished,
        }) if desired.as_ref() == Some(&spec) => Progress::Repairing {
            spec,
            trouble: Trouble::new(failure, trouble.attempts + 1),
            unfinished,
        },
        None | Some(Progress::Settled { .. } | Progress::Repairing { .. }) => held(at, 1),
        Some(Progress::Held { at, trouble, .. }) => held(at, trouble.attempts + 1),
        Some(Progress::Applying { change } | Progress::Baking { change }) => {
            Progress::RollingBack { change, failure }
        }
        Some(from @ (Progress::RollingBack { .. } | Progress::Stuck { .. })) => from,
    }
}

fn repair_failed(from: Option<Progress>, failure: Failure) -> Option<Progress> {
    match from {
        Some(Progress::Held {
            at,
            rolled_back,
            trouble,
            inputs,
            repair,
        }) => Some(Progress::Held {
            at,
            rolled_back,
            trouble,
            inputs,
            repair: Some(Trouble::new(
                failure,
                repair.map_or(1, |repair| repair.attempts + 1),
            )),
        }),
        Some(
            Progress::Settled { .. }
            | Progress::Repairing { .. }
            | Progress::Applying { .. }
            | Progress::Baking { .. }
            | Progress::RollingBack { .. }
            | Progress::Stuck { .. },
        )
        | None => from,
    }
}

fn repair_reached(mut from: Option<Progress>) -> Option<Progress> {
    if let Some(Progress::Held { repair, .. }) = &mut from {
        *repair = None;
    }
    from
}

fn undone(from: Option<Progress>, digest: &DesiredDigest, inputs: Inputs) -> Option<Progress> {
    match from {
        Some(Progress::RollingBack { change, failure }) if change.desired == *digest => {
            Some(Progress::Held {
                trouble: Trouble::new(failure, change.attempts + 1),
                at: change.before,
                rolled_back: true,
                inputs: Some(inputs),
                repair: None,
            })
        }
        // Something else is desired by now.
        Some(Progress::RollingBack { change, .. }) => change.settled_before().map(settled),
        Some(
            Progress::Settled { .. }
            | Progress::Repairing { .. }
            | Progress::Applying { .. }
            | Progress::Baking { .. }
            | Progress::Held { .. }
            | Progress::Stuck { .. },
        )
        | None => from,
    }
}

fn not_undone(from: Option<Progress>, obstacle: Failure, digest: &DesiredDigest) -> Option<Progress> {
    match from {
        Some(Progress::RollingBack { change, failure }) if change.desired == *digest => {
            Some(Progress::Stuck {
                trouble: Trouble::new(rollback_failed(&failure, obstacle), change.attempts + 1),
                change,
                cause: failure,
            })
        }
        // It cannot go back, and something else is desired by now: that may be the way out. If it is not, it is stuck.
        Some(Progress::RollingBack { change, failure }) => Some(Progress::Applying {
            change: Box::new(Change {
                desired: digest.clone(),
                ..change.forward_again(&failure)
            }),
        }),
        Some(
            Progress::Settled { .. }
            | Progress::Repairing { .. }
            | Progress::Applying { .. }
            | Progress::Baking { .. }
            | Progress::Held { .. }
            | Progress::Stuck { .. },
        )
        | None => from,
    }
}

fn rollback_failed(failure: &Failure, obstacle: Failure) -> Failure {
    Failure {
        phase: Phase::Rollback,
        category: obstacle.category,
        message: format!("{}; rollback failed: {}", failure.message, obstacle.message),
    }
}

fn withdrawn(from: Option<Progress>, before: Option<Box<Progress>>) -> Option<Progress> {
    match from {
        Some(Progress::Applying { .. }) => before.map(|before| *before),
        Some(
            Progress::Settled { .. }
            | Progress::Repairing { .. }
            | Progress::Baking { .. }
            | Progress::RollingBack { .. }
            | Progress::Held { .. }
            | Progress::Stuck { .. },
        )
        | None => from,
    }
}

fn superseded(from: Option<Progress>) -> Option<Progress> {
    match from {
        Some(Progress::Baking { change }) => Some(Progress::Applying { change }),
        Some(
            Progress::Settled { .. }
            | Progress::Repairing { .. }
            | Progress::Applying { .. }
            | Progress::RollingBack { .. }
            | Progress::Held { .. }
            | Progress::Stuck { .. },
        )
        | None => from,
    }
}

fn retry_due(mut from: Option<Progress>) -> Option<Progress> {
    match &mut from {
        Some(Progress::Repairing { trouble, .. }) => trouble.retry = Retry::Due,
        Some(Progress::Held { trouble, repair, .. }) => {
            if trouble.failure.category.is_transient() {
                trouble.retry = Retry::Due;
            }
            if let Some(repair) = repair {
                repair.retry = Retry::Due;
            }
        }
        Some(Progress::Stuck {
            change,
            cause,
            trouble,
        }) if trouble.failure.category.is_transient() => {
            return Some(roll_back_again(Change::clone(change), cause.clone(), trouble));
        }
        Some(
            Progress::Settled { .. }
            | Progress::Applying { .. }
            | Progress::Baking { .. }
            | Progress::RollingBack { .. }
            | Progress::Stuck { .. },
        )
        | None => {}
    }
    from
}

fn release(mut from: Option<Progress>) -> Option<Progress> {
    match &mut from {
        Some(Progress::Repairing { trouble, .. }) => trouble.retry = Retry::Due,
        Some(Progress::Held { trouble, .. }) => {
            trouble.attempts = 0;
            trouble.retry = Retry::Due;
        }
        Some(
            Progress::Stuck {
                change,
                trouble: Trouble { failure, .. },
                ..
            }
            | Progress::RollingBack { change, failure },
        ) => {
            return Some(Progress::Applying {
                change: Box::new(change.clone().forward_again(failure)),
            });
        }
        Some(Progress::Applying { change } | Progress::Baking { change }) => change.crashes = 0,
        Some(Progress::Settled { .. }) | None => {}
    }
    from
}

fn changed_externally(from: Option<Progress>) -> Option<Progress> {
    match from {
        Some(
            Progress::Applying { change }
            | Progress::Baking { change }
            | Progress::RollingBack { change, .. },
        ) => change.settled_before().map(settled),
        Some(Progress::Held { .. }) => release(from),
        Some(Progress::Settled { .. } | Progress::Repairing { .. } | Progress::Stuck { .. }) | None => from,
    }
}

fn crashed(mut from: Option<Progress>) -> Option<Progress> {
    match &mut from {
        Some(Progress::Applying { change } | Progress::Baking { change }) => change.crashes += 1,
        Some(
            Progress::Settled { .. }
            | Progress::Repairing { .. }
            | Progress::RollingBack { .. }
            | Progress::Held { .. }
            | Progress::Stuck { .. },
        )
        | None => {}
    }
    from
}

impl Progress {
    /// What a package transaction may have left to do.
    pub fn unfinished(&self) -> Option<&Unfinished> {
        match self {
            Self::Settled { unfinished, .. } | Self::Repairing { unfinished, .. } => Some(unfinished),
            Self::Applying { change }
            | Self::Baking { change }
            | Self::RollingBack { change, .. }
            | Self::Stuck { change, .. } => Some(&change.unfinished),
            Self::Held { .. } => None,
        }
    }

    pub fn unfinished_mut(&mut self) -> Option<&mut Unfinished> {
        match self {
            Self::Settled { unfinished, .. } | Self::Repairing { unfinished, .. } => Some(unfinished),
            Self::Applying { change }
            | Self::Baking { change }
            | Self::RollingBack { change, .. }
            | Self::Stuck { change, .. } => Some(&mut change.unfinished),
            Self::Held { .. } => None,
        }
    }

    /// The change that is not yet known to be good.
    pub fn change(&self) -> Option<&Change> {
        match self {
            Self::Applying { change }
            | Self::Baking { change }
            | Self::RollingBack { change, .. }
            | Self::Stuck { change, .. } => Some(change),
            Self::Settled { .. } | Self::Repairing { .. } | Self::Held { .. } => None,
        }
    }

    /// Whether the agent is not done with it: after a restart it goes on.
    pub fn is_in_progress(&self) -> bool {
        match self {
            Self::Applying { .. } | Self::Baking { .. } | Self::RollingBack { .. } => true,
            Self::Settled { .. } | Self::Repairing { .. } | Self::Held { .. } | Self::Stuck { .. } => false,
        }
    }

    pub fn trouble(&self) -> Option<&Trouble> {
        match self {
            Self::Repairing { trouble, .. } | Self::Held { trouble, .. } | Self::Stuck { trouble, .. } => {
                Some(trouble)
            }
            Self::Settled { .. } | Self::Applying { .. } | Self::Baking { .. } | Self::RollingBack { .. } => {
                None
            }
        }
    }

    /// All of its pauses.
    pub fn troubles(&self) -> impl Iterator<Item = &Trouble> {
        let (one, other) = match self {
            Self::Repairing { trouble, .. } | Self::Stuck { trouble, .. } => (Some(trouble), None),
            Self::Held { trouble, repair, .. } => (Some(trouble), repair.as_ref()),
            Self::Settled { .. } | Self::Applying { .. } | Self::Baking { .. } | Self::RollingBack { .. } => {
                (None, None)
            }
        };
        one.into_iter().chain(other)
    }

    pub fn troubles_mut(&mut self) -> impl Iterator<Item = &mut Trouble> {
        let (one, other) = match self {
            Self::Repairing { trouble, .. } | Self::Stuck { trouble, .. } => (Some(trouble), None),
            Self::Held { trouble, repair, .. } => (Some(trouble), repair.as_mut()),
            Self::Settled { .. } | Self::Applying { .. } | Self::Baking { .. } | Self::RollingBack { .. } => {
                (None, None)
            }
        };
        one.into_iter().chain(other)
    }

    /// The desired state that it had reached.
    pub fn settled_spec(&self) -> Option<&AppSpec> {
        match self {
            Self::Settled { spec, .. } | Self::Repairing { spec, .. } => Some(spec),
            Self::Held {
                at: Before::Installed(at),
                ..
            } => at.settled.as_deref(),
            Self::Held { .. }
            | Self::Applying { .. }
            | Self::Baking { .. }
            | Self::RollingBack { .. }
            | Self::Stuck { .. } => None,
        }
    }
}

impl Change {
    /// The state that was last whole stays; the rest is the newer change's.
    fn continued_by(self, newer: Self) -> Self {
        let same = self.desired == newer.desired;
        let mut unfinished = self.unfinished;
        unfinished.in_transaction |= newer.unfinished.in_transaction;
        unfinished.outdated.extend(newer.unfinished.outdated);
        Self {
            before: self.before.widened_by(newer.before),
            crashes: if same { self.crashes } else { 0 },
            attempts: if same { self.attempts } else { 0 },
            started: self.started.into_iter().chain(newer.started).collect(),
            unfinished,
            ..newer
        }
    }

    /// It goes forward from where the failure left it. A package whose installation failed and that was not brought back is
    /// in no better state than one whose transaction was cut short.
    fn forward_again(self, failure: &Failure) -> Self {
        let failed_install = matches!(failure.phase, Phase::Install | Phase::Rollback);
        Self {
            crashes: 0,
            unfinished: Unfinished {
                in_transaction: self.unfinished.in_transaction || failed_install,
                ..self.unfinished
            },
            ..self
        }
    }

    fn settled_before(self) -> Option<Box<AppSpec>> {
        match self.before {
            Before::Installed(snapshot) => snapshot.settled,
            Before::Absent { .. } => None,
        }
    }

    /// Whether its package was changed, or was to be.
    pub fn changes_package(&self) -> bool {
        match &self.before {
            Before::Installed(before) => before.undo != super::snapshot::UndoSource::NotNeeded,
            Before::Absent { .. } => true,
        }
    }

    /// Of the agent that was killed in the midst of it again and again.
    pub fn crashed_too_often(&self, app: &protocol::AppName) -> Failure {
        Failure {
            phase: Phase::Install,
            category: Category::Timeout,
            message: format!(
                "the agent was killed {} times while changing {app}, so the change is rolled back. Look in the system's log \
                 for what killed it (the OOM killer, a watchdog), then change the desired state or run `hostagent retry`",
                self.crashes
            ),
        }
    }
}

#[cfg(test)]
mod tests;
