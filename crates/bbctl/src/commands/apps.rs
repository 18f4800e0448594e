//! `bbctl apps`.

use std::collections::BTreeMap;

use clap::Args;

use super::{Context, Exit};
use crate::output::{Cell, Format, Style, Table, for_programs, note, print};

#[derive(Debug, Args)]
pub struct AppsCommand {
    /// Format of the output.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

impl AppsCommand {
    pub(super) fn execute(&self, context: &Context) -> anyhow::Result<Exit> {
        let list = context.client.apps()?;
        if let Some(text) = for_programs(self.output, &list)? {
            print(&text)?;
            return Ok(Exit::Ok);
        }
        if list.apps.is_empty() {
            note("No host has an application, and none is desired.");
            return Ok(Exit::Ok);
        }
        let mut table = Table::new(&["APPLICATION", "INSTALLED", "DESIRED", "RUNNING", "FAILING"]);
        for app in &list.apps {
            let style = if app.failing > 0 { Style::Bad } else { Style::Plain };
            table.row(vec![
                Cell::new(&app.name),
                Cell::new(&versions(&app.installed)),
                Cell::new(&versions(&app.desired)),
                Cell::new(&app.running.to_string()),
                Cell::styled(&app.failing.to_string(), style),
            ]);
        }
        let width = match self.output {
            Format::Wide => None,
            Format::Table | Format::Json | Format::Yaml => context.terminal.width,
        };
        print(&table.render(width, context.terminal.paint))?;
        Ok(Exit::Ok)
    }
}

/// `1.0 on 3, 1.1 on 7`.
fn versions(versions: &BTreeMap<String, u64>) -> String {
    let texts: Vec<String> = versions
        .iter()
        .map(|(version, hosts)| format!("{version} on {hosts}"))
        .collect();
    texts.join(", ")
}
