//! `bbctl get`.

use clap::Args;
use protocol::HostId;
use protocol::rest::DesiredApps;

use super::{Context, Exit, host_id, no_such_host};
use crate::desired::to_yaml;
use crate::output::{Cell, Format, Table, clock, for_programs, print};

#[derive(Debug, Args)]
pub struct GetCommand {
    #[arg(value_name = "HOST", value_parser = host_id)]
    id: HostId,
    /// Format of the output.
    #[arg(short, long, value_enum, default_value = "yaml")]
    output: Format,
}

impl GetCommand {
    pub(super) fn execute(&self, context: &Context) -> anyhow::Result<Exit> {
        let desired = context.client.desired(&self.id)?;
        let desired = desired.ok_or_else(|| no_such_host(&self.id))?;
        let text = match self.output {
            // YAML has comments.
            Format::Yaml => {
                let apps = serde_json::to_value(&desired.apps)?;
                format!("# {}\n{}", provenance(&self.id, &desired), to_yaml(&apps))
            }
            Format::Json => for_programs(self.output, &desired.apps)?.unwrap_or_default(),
            Format::Table | Format::Wide => {
                let mut table = Table::new(&["APPLICATION", "VERSION", "RUNNING", "URL"]);
                for (name, spec) in &desired.apps {
                    table.row(vec![
                        Cell::new(name.as_str()),
                        Cell::new(&spec.version),
                        Cell::new(if spec.running { "yes" } else { "no" }),
                        Cell::new(spec.url.as_deref().unwrap_or_default()),
                    ]);
                }
                let width = match self.output {
                    Format::Wide => None,
                    Format::Table | Format::Json | Format::Yaml => context.terminal.width,
                };
                table.render(width, context.terminal.paint)
            }
        };
        print(&text)?;
        Ok(Exit::Ok)
    }
}

/// `web-01, generation 4, set by alice at 2026-01-01 00:00:00Z`.
pub fn provenance(id: &HostId, desired: &DesiredApps) -> String {
    let mut text = match desired.generation {
        0 => return format!("{id}: no desired state was ever set"),
        generation => format!("{id}, generation {generation}"),
    };
    if let Some(author) = &desired.author {
        text.push_str(&format!(", set by {author}"));
    }
    if let Some(time) = &desired.changed_at {
        text.push_str(&format!(" at {}", clock(time)));
    }
    text
}
