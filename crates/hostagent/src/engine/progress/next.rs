//! Every way in which the progress of an application changes. Pure, and tested as a table (`table.txt`).

use protocol::{AppSpec, Phase};

use super::{Change, DesiredDigest, Event, Inputs, Progress, Retry, Trouble, Unfinished};
use crate::engine::failure::Failure;
use crate::engine::snapshot::Before;

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

pub(super) fn settled(spec: Box<AppSpec>) -> Progress {
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
