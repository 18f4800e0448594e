//! A table over every state and every event.

use std::fmt::Write;

use serde_json::json;

use super::next::settled;
use super::*;
use crate::engine::snapshot::{Snapshot, UndoSource};

fn spec(version: &str) -> Box<AppSpec> {
    Box::new(serde_json::from_value(json!({"version": version})).unwrap())
}

fn digest(version: &str) -> DesiredDigest {
    let app = protocol::AppName::new("a").unwrap();
    DesiredDigest::of(&[(app, *spec(version))].into())
}

fn failure(phase: Phase) -> Failure {
    Failure {
        phase,
        category: Category::Script,
        message: "it failed".into(),
    }
}

fn inputs() -> Inputs {
    Inputs {
        desired: digest("2"),
        package: None,
        contract: None,
        masked: BTreeSet::new(),
        lists: None,
    }
}

/// It was at 1, and had reached that.
fn at_1() -> Before {
    Before::Installed(Box::new(Snapshot {
        package: "a".into(),
        version: "1-1".into(),
        undo: UndoSource::Repository,
        record: None,
        config: Default::default(),
        services: Default::default(),
        files: Vec::new(),
        settled: Some(spec("1")),
    }))
}

fn to_2() -> Box<Change> {
    Box::new(Change {
        before: at_1(),
        desired: digest("2"),
        spec: Some(spec("2")),
        attempts: 1,
        crashes: 0,
        started: BTreeSet::new(),
        unfinished: Unfinished::default(),
    })
}

fn trouble() -> Trouble {
    Trouble::new(failure(Phase::Health), 1)
}

/// Every state, where 2 is desired.
fn states() -> Vec<(&'static str, Option<Progress>)> {
    let repairing = Progress::Repairing {
        spec: spec("2"),
        trouble: trouble(),
        unfinished: Unfinished::default(),
    };
    let held = Progress::Held {
        at: at_1(),
        rolled_back: true,
        trouble: trouble(),
        inputs: Some(inputs()),
        repair: None,
    };
    vec![
        ("none", None),
        ("settled at 2", Some(settled(spec("2")))),
        ("settled at 1", Some(settled(spec("1")))),
        ("repairing", Some(repairing)),
        ("applying", Some(Progress::Applying { change: to_2() })),
        ("baking", Some(Progress::Baking { change: to_2() })),
        (
            "rolling back",
            Some(Progress::RollingBack {
                change: to_2(),
                failure: failure(Phase::Install),
            }),
        ),
        ("held", Some(held)),
        (
            "stuck",
            Some(Progress::Stuck {
                change: to_2(),
                cause: failure(Phase::Install),
                trouble: trouble(),
            }),
        ),
    ]
}

fn events() -> Vec<(&'static str, Event)> {
    let failed = Event::Failed {
        failure: failure(Phase::Download),
        spec: Some(spec("2")),
        at: at_1(),
        inputs: inputs(),
    };
    let obstacle = || failure(Phase::Rollback);
    vec![
        ("the same is desired", Event::Desired { digest: digest("2") }),
        ("another is desired", Event::Desired { digest: digest("3") }),
        ("begin", Event::Begin(to_2())),
        (
            "reached",
            Event::Reached {
                spec: Some(spec("2")),
                digest: digest("2"),
                bake: false,
            },
        ),
        (
            "reached, to be watched",
            Event::Reached {
                spec: Some(spec("2")),
                digest: digest("2"),
                bake: true,
            },
        ),
        (
            "gone",
            Event::Reached {
                spec: None,
                digest: digest("2"),
                bake: true,
            },
        ),
        ("baked", Event::Baked),
        ("failed", failed),
        (
            "repair failed",
            Event::RepairFailed {
                failure: failure(Phase::Service),
            },
        ),
        ("repair reached", Event::RepairReached),
        (
            "undone",
            Event::Undone {
                digest: digest("2"),
                inputs: inputs(),
            },
        ),
        (
            "undone, another is desired",
            Event::Undone {
                digest: digest("3"),
                inputs: inputs(),
            },
        ),
        (
            "not undone",
            Event::NotUndone {
                obstacle: obstacle(),
                digest: digest("2"),
            },
        ),
        (
            "not undone, another is desired",
            Event::NotUndone {
                obstacle: obstacle(),
                digest: digest("3"),
            },
        ),
        (
            "withdrawn",
            Event::Withdrawn {
                before: Some(Box::new(settled(spec("1")))),
            },
        ),
        ("superseded", Event::Superseded),
        ("retry due", Event::RetryDue),
        ("release", Event::Release),
        ("changed externally", Event::ChangedExternally),
        ("crashed", Event::Crashed),
    ]
}

/// All that tells one value from another.
fn brief(progress: Option<&Progress>) -> String {
    let change = |change: &Change| {
        let suspect = if change.unfinished.in_transaction {
            ", suspect"
        } else {
            ""
        };
        format!(
            "attempts {}, crashes {}{suspect}",
            change.attempts, change.crashes
        )
    };
    let trouble = |trouble: &Trouble| {
        format!(
            "{}, {:?}, {:?}",
            trouble.attempts, trouble.failure.phase, trouble.retry
        )
    };
    match progress {
        None => "none".to_owned(),
        Some(Progress::Settled { spec, .. }) => format!("settled at {}", spec.version),
        Some(Progress::Repairing { trouble: t, .. }) => format!("repairing ({})", trouble(t)),
        Some(Progress::Applying { change: c }) => format!("applying ({})", change(c)),
        Some(Progress::Baking { change: c }) => format!("baking ({})", change(c)),
        Some(Progress::RollingBack { change: c, failure }) => {
            format!("rolling back ({}; {:?})", change(c), failure.phase)
        }
        Some(Progress::Held {
            rolled_back,
            trouble: t,
            repair,
            ..
        }) => {
            let touched = if *rolled_back { "rolled back" } else { "untouched" };
            let repair = repair
                .as_ref()
                .map(|r| format!(", repair failed {}", r.attempts))
                .unwrap_or_default();
            format!("held {touched} ({}{repair})", trouble(t))
        }
        Some(Progress::Stuck { trouble: t, .. }) => format!("stuck ({})", trouble(t)),
    }
}

#[test]
fn every_event_in_every_state() {
    let mut table = String::new();
    for (name, state) in states() {
        writeln!(table, "{name}").unwrap();
        for (what, event) in events() {
            let to = next(state.clone(), event);
            let to = if to == state {
                "stays".to_owned()
            } else {
                brief(to.as_ref())
            };
            writeln!(table, "  {what}: {to}").unwrap();
        }
    }
    let golden = include_str!("table.txt");
    assert!(table == golden, "the table is now:\n{table}");
}

#[test]
fn what_is_stored_is_read_back() {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let all: BTreeMap<&str, Progress> = states()
            .into_iter()
            .filter_map(|(name, state)| Some((name, state?)))
            .collect();
        let text = serde_json::to_string_pretty(&all).unwrap() + "\n";
        std::fs::write(
            concat!(env!("CARGO_MANIFEST_DIR"), "/src/engine/progress/stored.json"),
            text,
        )
        .unwrap();
    }
    for (name, state) in states() {
        let Some(state) = state else { continue };
        let json = serde_json::to_string(&state).unwrap();
        let back: Progress = serde_json::from_str(&json).unwrap();
        assert_eq!(back, state, "{name}: {json}");
    }
}

#[test]
fn the_state_that_was_last_whole_stays_when_a_newer_change_takes_over() {
    let mut newer = to_2();
    newer.before = Before::Absent { purge: None };
    newer.desired = digest("3");
    let to = next(Some(Progress::Applying { change: to_2() }), Event::Begin(newer));
    let Some(Progress::Applying { change }) = to else {
        panic!("{to:?}");
    };
    assert_eq!((change.before, change.desired), (at_1(), digest("3")));
}

/// A change of config that is superseded by an upgrade: the undo source of the package is that of the upgrade.
#[test]
fn a_change_that_begins_to_touch_the_package_learns_where_it_comes_from() {
    let mut config_only = to_2();
    if let Before::Installed(before) = &mut config_only.before {
        before.undo = UndoSource::NotNeeded;
    }
    let to = next(
        Some(Progress::Applying { change: config_only }),
        Event::Begin(to_2()),
    );
    let Some(Progress::Applying { change }) = to else {
        panic!("{to:?}");
    };
    assert_eq!(change.before, at_1());
}

/// A file as the first agents with this format write it. Later ones must read it: what cannot be read counts as damaged,
/// and with it goes what undo needs.
#[test]
fn what_earlier_agents_stored_is_read() {
    let apps: BTreeMap<&str, Progress> = serde_json::from_str(include_str!("stored.json")).unwrap();
    let expected: BTreeMap<&str, Progress> = states()
        .into_iter()
        .filter_map(|(name, state)| Some((name, state?)))
        .collect();
    assert_eq!(apps, expected);
}
