//! Asks for confirmation before a command that removes something.

use std::io::{self, BufRead, Write};

use protocol::Apps;

use super::UsageError;
use crate::output::{Terminal, clean};

/// Succeeds if `yes` was given on the command line or the user answers yes. An error if the user
/// cannot be asked, or answers no.
pub fn confirm(what: &str, yes: bool, terminal: Terminal) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if !terminal.can_ask {
        return Err(UsageError(format!("{what} To confirm, add --yes")).into());
    }
    let mut stderr = io::stderr();
    write!(stderr, "{what} Continue? [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => anyhow::bail!("nothing was changed"),
    }
}

/// Asks if the new desired state has no applications.
pub fn confirm_emptying(
    id: &protocol::HostId,
    before: Option<&Apps>,
    after: &Apps,
    yes: bool,
    terminal: Terminal,
) -> anyhow::Result<()> {
    if !after.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = before
        .into_iter()
        .flatten()
        .map(|(name, _)| clean(name.as_str()))
        .collect();
    let what = match names.is_empty() {
        true => format!("{{}} removes every managed application from {id}."),
        false => format!(
            "{{}} removes every managed application from {id}: {}.",
            names.join(", ")
        ),
    };
    confirm(&what, yes, terminal)
}
