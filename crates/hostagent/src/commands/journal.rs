//! `hostagent journal`: what is being changed, and how it would be undone.

use std::fmt::Write;

use super::{Exit, print};
use crate::engine::journal::{Before, Journal, JournalFile};
use crate::settings::Settings;
use crate::state_file::StateFile;

/// Prints the journal, without any config value. Changes nothing.
pub fn journal(settings: &Settings) -> anyhow::Result<Exit> {
    let state_dir = settings.state_dir();
    let journal: Option<Journal> = StateFile::new(JournalFile::path(&state_dir)).peek()?;
    print(&match journal {
        Some(journal) => render(&journal),
        None => "No change is under way: there is no journal.\n".to_owned(),
    })?;
    Ok(Exit::Ok)
}

fn render(journal: &Journal) -> String {
    let mut text = String::new();
    // Writing to a string can't fail.
    let _ = writeln!(
        text,
        "A change is under way; the agent was killed {} times in it.",
        journal.crashes
    );
    for (app, entry) in &journal.entries {
        let wanted = journal
            .desired
            .get(app)
            .map_or("not installed".to_owned(), |spec| spec.version.clone());
        let _ = match &entry.before {
            Before::Absent => writeln!(
                text,
                "{app}: was not installed, is to be {wanted}; undone by removing it"
            ),
            Before::Installed(snapshot) => writeln!(
                text,
                "{app}: was {} {}, is to be {wanted}; {}",
                snapshot.package, snapshot.version, snapshot.way_back
            ),
        };
        if let Some(failure) = &entry.doomed {
            let _ = writeln!(text, "  being rolled back, because: {}", failure.message);
        }
        if journal.in_transaction.contains(app) {
            let _ = writeln!(text, "  the package manager is at it");
        }
    }
    text
}
