//! `bbctl diff`.

use std::path::PathBuf;

use clap::Args;
use protocol::{Apps, HostId};
use similar::TextDiff;

use super::get::provenance;
use super::{Context, Exit, host_id};
use crate::desired::{self, to_yaml};
use crate::output::{Paint, Style, print};

#[derive(Debug, Args)]
pub struct DiffCommand {
    #[arg(value_name = "HOST", value_parser = host_id)]
    id: HostId,
    /// JSON or YAML file with applications or a whole set_config; - is standard input.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
}

impl DiffCommand {
    pub(super) fn execute(&self, context: &Context) -> anyhow::Result<Exit> {
        let wanted = desired::read(&self.file)?;
        let (now, name) = match context.client.desired(&self.id)? {
            Some(desired) => {
                let name = provenance(&self.id, &desired);
                (desired.apps, name)
            }
            // `set` would create it.
            None => (Apps::new(), format!("{}: no such host yet", self.id)),
        };
        if now == wanted.apps {
            return Ok(Exit::Ok);
        }
        let text = unified(
            &now,
            &name,
            &wanted.apps,
            &wanted.source.name,
            context.terminal.paint,
        )?;
        print(&text)?;
        // As diff(1): 1 means different, not failed.
        Ok(Exit::Failed)
    }
}

/// The unified diff. Both sides are converted to the same YAML, so that only real differences
/// remain.
fn unified(
    old: &Apps,
    old_name: &str,
    new: &Apps,
    new_name: &str,
    paint: Paint,
) -> serde_json::Result<String> {
    let old = to_yaml(&serde_json::to_value(old)?);
    let new = to_yaml(&serde_json::to_value(new)?);
    let diff = TextDiff::from_lines(&old, &new);
    let text = diff
        .unified_diff()
        .context_radius(3)
        .header(old_name, new_name)
        .to_string();
    let lines = text.lines().map(|line| {
        let style = match line.as_bytes().first() {
            Some(b'+') => Style::Good,
            Some(b'-') => Style::Bad,
            Some(b'@') => Style::Faint,
            _ => Style::Plain,
        };
        paint.paint(style, line) + "\n"
    });
    Ok(lines.collect())
}
