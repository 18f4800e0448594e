//! `bbctl host`.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::{Duration, SystemTime};

use clap::Args;
use protocol::rest::{self, HostState};
use protocol::status::Health;
use protocol::{ErrorReport, HostId, app_satisfied};
use serde_json::Value;

use super::hosts::labels;
use super::{Context, Exit, host_id, note_problems};
use crate::output::{
    Cell, Format, Paint, Style, Table, Terminal, ago, clean, clean_lines, clock, duration, for_programs,
    print, until,
};

#[derive(Debug, Args)]
pub struct HostCommand {
    #[arg(value_name = "HOST", value_parser = host_id)]
    id: HostId,
    /// Format of the output.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

impl HostCommand {
    pub(super) fn execute(&self, context: &Context) -> anyhow::Result<Exit> {
        let host = context.client.host(&self.id)?;
        let text = for_programs(self.output, &host)?;
        let for_people = text.is_none();
        print(&text.unwrap_or_else(|| page(&host, SystemTime::now(), context.terminal)))?;
        if for_people {
            note_problems(&context.client);
        }
        Ok(Exit::Ok)
    }
}

/// A page for people.
fn page(host: &rest::Host, now: SystemTime, terminal: Terminal) -> String {
    let paint = terminal.paint;
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{}\n", paint.paint(Style::Strong, host.host_id.as_str()));
    for (name, value) in facts(host, now, paint) {
        let _ = writeln!(text, "{name:<12}{value}");
    }
    let apps = applications(host);
    let _ = match apps {
        Some(table) => write!(text, "\n{}", table.render(terminal.width, paint)),
        None => writeln!(text, "\nNo applications are installed or desired."),
    };
    for error in &host.errors {
        let _ = write!(text, "\n{}", failure(error, now, paint));
    }
    if let Some(rejected) = &host.last_rejected {
        let _ = writeln!(
            text,
            "\n{} {}\n    {}",
            paint.paint(Style::Bad, "The host refused a message"),
            ago(&rejected.timestamp, now),
            clean_lines(&rejected.reason, "    ")
        );
    }
    text
}

fn fact(host: &rest::Host, name: &str) -> String {
    host.info
        .get(name)
        .and_then(Value::as_str)
        .map(clean)
        .unwrap_or_default()
}

fn facts(host: &rest::Host, now: SystemTime, paint: Paint) -> Vec<(&'static str, String)> {
    let mut facts = vec![("Status", status(host, paint))];
    let mut add = |name, value: String| {
        if !value.is_empty() {
            facts.push((name, value));
        }
    };
    add("", host.detail.as_deref().map(clean).unwrap_or_default());
    add("Hostname", fact(host, "hostname"));
    let system: Vec<String> = ["os_info", "arch", "kernel"]
        .iter()
        .map(|name| fact(host, name))
        .filter(|fact| !fact.is_empty())
        .collect();
    add("System", system.join(", "));
    let agent = &host.host_agent;
    if !agent.version.is_empty() {
        let up = duration(Duration::from_secs(agent.uptime_s));
        let memory = agent.rss_kib as f64 / 1024.0;
        add(
            "Agent",
            format!("{}, up {up}, {memory:.1} MiB", clean(&agent.version)),
        );
    }
    add(
        "Seen",
        match &host.last_seen {
            Some(time) => format!("{} ({})", ago(time, now), clock(time)),
            None => "never".to_owned(),
        },
    );
    if host.lost_statuses > 0 {
        add("Lost", format!("{} statuses were lost", host.lost_statuses));
    }
    add("Labels", clean(&labels(&host.labels)));
    add(
        "Desired",
        match (host.generation, host.reported_generation) {
            (0, _) => "no desired state was ever set".to_owned(),
            (generation, Some(reported)) if reported != generation => {
                format!("generation {generation}; the host has generation {reported}")
            }
            (generation, _) => format!("generation {generation}"),
        },
    );
    facts
}

fn status(host: &rest::Host, paint: Paint) -> String {
    let mut text = paint.paint(host.status.into(), host.status.as_str());
    if host.generation > 0 {
        text.push_str(match host.satisfied {
            true => ", as desired",
            false => ", not as desired",
        });
    }
    if !host.responding && host.status != HostState::Missing {
        text.push_str(", ");
        text.push_str(&paint.paint(Style::Bad, "silent"));
    }
    text
}

/// Each application that is installed, desired, or both.
fn applications(host: &rest::Host) -> Option<Table> {
    let none = protocol::Apps::new();
    let desired = host.desired_apps.as_ref().unwrap_or(&none);
    let names: BTreeSet<_> = host.apps.keys().chain(desired.keys()).collect();
    if names.is_empty() {
        return None;
    }
    let mut table = Table::new(&[
        "APPLICATION",
        "DESIRED",
        "INSTALLED",
        "RUNNING",
        "HEALTH",
        "AS DESIRED",
    ]);
    for name in names {
        let (wanted, there) = (desired.get(name), host.apps.get(name));
        let yes_no = |yes| if yes { "yes" } else { "no" };
        let health = match there.map(|app| app.health) {
            Some(Health::Ok) => Cell::styled("ok", Style::Good),
            Some(Health::Failing) => Cell::styled("failing", Style::Bad),
            Some(Health::Unknown) => Cell::new("unknown"),
            None => Cell::new("-"),
        };
        let as_desired = match (wanted, there) {
            (Some(wanted), Some(there)) => app_satisfied(wanted, there),
            (None, Some(_)) => host.desired_apps.is_none(),
            (_, None) => false,
        };
        table.row(vec![
            Cell::new(name.as_str()),
            Cell::new(wanted.map_or("-", |spec| &spec.version)),
            Cell::new(there.map_or("-", |app| app.exact_version())),
            Cell::new(there.map_or("-", |app| yes_no(app.running))),
            health,
            Cell::styled(
                yes_no(as_desired),
                if as_desired { Style::Plain } else { Style::Busy },
            ),
        ]);
    }
    Some(table)
}

/// An error in the host's own words, and when it is retried.
pub fn failure(error: &ErrorReport, now: SystemTime, paint: Paint) -> String {
    let what = match &error.app {
        Some(app) => format!("{app} failed"),
        None => "The host failed".to_owned(),
    };
    let phase = word(&error.phase);
    let next = match &error.next_retry {
        Some(time) => format!("next retry {}", until(time, now)),
        None => "held until something that made it fail changes, or `bbctl retry`".to_owned(),
    };
    let undone = if error.rolled_back { "rolled back; " } else { "" };
    format!(
        "{} ({phase}, {}, attempt {})\n    {}\n    {undone}{next}\n",
        paint.paint(Style::Bad, &what),
        word(&error.category),
        error.attempt,
        clean_lines(&error.message, "    ")
    )
}

/// A word of the protocol, with spaces.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word.replace('_', " "),
        Ok(_) | Err(_) => String::new(),
    }
}
