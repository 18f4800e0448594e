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
mod event;
mod inputs;
mod next;

pub use digest::DesiredDigest;
pub use event::Event;
pub use inputs::Inputs;
pub use next::next;

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
    /// The package is in a transaction of which it is unknown whether it has ended. On rpm hosts it may look installed and not be.
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

    /// It goes forward from where the failure left it. A package whose installation failed and that was not rolled back is
    /// treated like one whose transaction was interrupted.
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

    /// The agent was killed during this change too often.
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
