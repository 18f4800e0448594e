//! `hostagent journal`: which changes are in progress, and how they would be undone.

use std::fmt::Write;

use protocol::Apps;

use super::{Exit, print};
use crate::engine::book::ProgressBook;
use crate::engine::progress::{Change, Progress};
use crate::engine::snapshot::Before;
use crate::engine::stored::ProgressMap;
use crate::settings::Settings;

/// Prints the changes that are in progress or stuck, without config values. Changes nothing.
pub fn journal(settings: &Settings) -> anyhow::Result<Exit> {
    let stored = ProgressBook::peek(&settings.state_dir(), &Apps::new())?;
    print(&render(&stored.apps))?;
    Ok(Exit::Ok)
}

fn render(apps: &ProgressMap) -> String {
    let mut text = String::new();
    for (app, progress) in apps {
        let Some(change) = progress.change() else { continue };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{app}: {}", describe(change));
        let _ = match progress {
            Progress::Baking { .. } => writeln!(text, "  changed, and watched for the bake period"),
            Progress::RollingBack { failure, .. } => {
                writeln!(text, "  being rolled back, because: {}", failure.message)
            }
            Progress::Stuck { trouble, .. } => {
                writeln!(text, "  cannot be rolled back: {}", trouble.failure.message)
            }
            Progress::Applying { .. }
            | Progress::Settled { .. }
            | Progress::Repairing { .. }
            | Progress::Held { .. } => Ok(()),
        };
        if change.unfinished.in_transaction {
            let _ = writeln!(text, "  in a package transaction");
        }
        if change.crashes > 0 {
            let _ = writeln!(
                text,
                "  the agent was killed {} times during this change",
                change.crashes
            );
        }
    }
    if text.is_empty() {
        return "No change is in progress.\n".to_owned();
    }
    text
}

fn describe(change: &Change) -> String {
    let desired = change
        .spec
        .as_ref()
        .map_or("not installed", |spec| spec.version.as_str());
    match &change.before {
        Before::Absent { .. } => format!("was not installed, changes to {desired}; undone by removing it"),
        Before::Installed(before) => format!(
            "was {} {}, changes to {desired}; undo: {}",
            before.package, before.version, before.undo
        ),
    }
}
