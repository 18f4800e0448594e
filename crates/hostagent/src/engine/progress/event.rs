//! What happens to one application.

use protocol::AppSpec;

use super::{Change, DesiredDigest, Inputs, Progress};
use crate::engine::failure::Failure;
use crate::engine::snapshot::Before;

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
    /// The rollback failed.
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
    /// The operator requests a retry, or something that made it fail has changed.
    Release,
    /// Somebody else has changed the package while only config and services were being changed.
    ChangedExternally,
    /// The agent starts, and did not end in good order before.
    Crashed,
}
