//! `bbctl hosts`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use clap::{Args, ValueEnum};
use protocol::rest::{HostList, HostQuery, HostState, HostSummary};

use super::{Context, Exit, note_problems};
use crate::client::{Client, ClientError};
use crate::output::{Cell, Format, Style, Table, ago, for_programs, note, print};

#[derive(Debug, Args)]
pub struct HostsCommand {
    #[command(flatten)]
    pub filter: HostFilter,
    /// Format of the output.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

/// Which hosts. A host must match all filters.
#[derive(Debug, Clone, Default, Args)]
pub struct HostFilter {
    /// Hosts in this state.
    #[arg(short, long, value_enum)]
    status: Option<StateArg>,
    /// Hosts that have this application installed.
    #[arg(short, long, value_name = "NAME")]
    application: Option<String>,
    /// Hosts that have the application (or any) in exactly this version.
    #[arg(short = 'V', long = "version", id = "app_version", value_name = "VERSION")]
    version: Option<String>,
    /// Hosts with this label; separate several with commas, or repeat the option.
    #[arg(short, long = "label", value_name = "NAME[=VALUE]")]
    labels: Vec<String>,
    /// Hosts with this text in host id, hostname or OS; upper and lower case are the same.
    #[arg(short, long)]
    text: Option<String>,
    /// Hosts that have not reported recently.
    #[arg(long)]
    silent: bool,
    /// Hosts that do not satisfy their desired state.
    #[arg(long)]
    not_as_desired: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StateArg {
    Ok,
    Converging,
    Errors,
    /// It has a desired state, but has never reported.
    Missing,
}

impl From<StateArg> for HostState {
    fn from(state: StateArg) -> Self {
        match state {
            StateArg::Ok => Self::Ok,
            StateArg::Converging => Self::Converging,
            StateArg::Errors => Self::Errors,
            StateArg::Missing => Self::Missing,
        }
    }
}

impl HostFilter {
    /// The message if no host is found.
    pub fn no_host_message(&self) -> &'static str {
        match self.is_empty() {
            true => "No host has reported yet.",
            false => "No host matches.",
        }
    }

    pub fn is_empty(&self) -> bool {
        let filters = HostQuery {
            limit: None,
            ..self.query()
        };
        filters == HostQuery::default()
    }

    /// Whether it matches the same hosts when their states change.
    pub fn is_stable(&self) -> bool {
        let lasting = Self {
            labels: self.labels.clone(),
            text: self.text.clone(),
            ..Self::default()
        };
        self.query() == lasting.query()
    }

    pub fn query(&self) -> HostQuery {
        HostQuery {
            status: self.status.map(HostState::from),
            responding: self.silent.then_some(false),
            satisfied: self.not_as_desired.then_some(false),
            application: self.application.clone(),
            version: self.version.clone(),
            label: (!self.labels.is_empty()).then(|| self.labels.join(",")),
            text: self.text.clone(),
            limit: Some(1000),
            after: None,
        }
    }
}

/// All pages.
fn all(client: &Client, mut query: HostQuery) -> Result<HostList, ClientError> {
    let mut list = client.hosts(&query)?;
    while let Some(next) = list.next.take() {
        query.after = Some(next);
        let page = client.hosts(&query)?;
        list.hosts.extend(page.hosts);
        list.next = page.next;
    }
    list.total = list.hosts.len() as u64;
    Ok(list)
}

impl HostsCommand {
    pub(super) fn execute(&self, context: &Context) -> anyhow::Result<Exit> {
        let list = all(&context.client, self.filter.query())?;
        if let Some(text) = for_programs(self.output, &list)? {
            print(&text)?;
            return Ok(Exit::Ok);
        }
        if list.hosts.is_empty() {
            note(self.filter.no_host_message());
            return Ok(Exit::Ok);
        }
        let now = SystemTime::now();
        let paint = context.terminal.paint;
        let text = match self.output {
            Format::Wide => wide(&list.hosts, now).render(None, paint),
            Format::Table | Format::Json | Format::Yaml => {
                narrow(&list.hosts, now).render(context.terminal.width, paint)
            }
        };
        print(&text)?;
        note_problems(&context.client);
        Ok(Exit::Ok)
    }
}

fn status(host: &HostSummary) -> Cell {
    let word = host.status.as_str();
    match host.responding || host.status == HostState::Missing {
        true => Cell::styled(word, host.status.into()),
        false => Cell::styled(&format!("{word}, silent"), Style::Bad),
    }
}

fn as_desired(host: &HostSummary) -> Cell {
    match (host.generation, host.satisfied) {
        (0, _) => Cell::styled("-", Style::Faint),
        (_, true) => Cell::new("yes"),
        (_, false) => Cell::styled("no", Style::Busy),
    }
}

fn seen(host: &HostSummary, now: SystemTime) -> Cell {
    Cell::new(
        &host
            .last_seen
            .as_deref()
            .map_or("never".to_owned(), |time| ago(time, now)),
    )
}

/// `web 1.1.0, db 2`.
fn installed(host: &HostSummary) -> Cell {
    let apps: Vec<String> = host
        .apps
        .iter()
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    Cell::new(&apps.join(", "))
}

fn narrow(hosts: &[HostSummary], now: SystemTime) -> Table {
    let any_error = hosts.iter().any(|host| host.error.is_some());
    let mut header = vec!["HOST", "STATUS", "AS DESIRED", "HOSTNAME", "SEEN", "APPLICATIONS"];
    if any_error {
        header.push("ERROR");
    }
    let mut table = Table::new(&header);
    for host in hosts {
        let mut row = vec![
            Cell::new(host.host_id.as_str()),
            status(host),
            as_desired(host),
            Cell::new(&host.hostname),
            seen(host, now),
            installed(host),
        ];
        if any_error {
            row.push(Cell::new(host.error.as_deref().unwrap_or_default()));
        }
        table.row(row);
    }
    table
}

fn wide(hosts: &[HostSummary], now: SystemTime) -> Table {
    let mut table = Table::new(&[
        "HOST",
        "STATUS",
        "AS DESIRED",
        "GENERATION",
        "HOSTNAME",
        "OS",
        "AGENT",
        "SEEN",
        "LABELS",
        "APPLICATIONS",
        "ERROR",
    ]);
    for host in hosts {
        table.row(vec![
            Cell::new(host.host_id.as_str()),
            status(host),
            as_desired(host),
            Cell::new(&host.generation.to_string()),
            Cell::new(&host.hostname),
            Cell::new(&host.os_info),
            Cell::new(&host.agent_version),
            seen(host, now),
            Cell::new(&labels(&host.labels)),
            installed(host),
            Cell::new(host.error.as_deref().unwrap_or_default()),
        ]);
    }
    table
}

/// `role=db,site=berlin`.
pub fn labels(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels
        .iter()
        .map(|(name, value)| match value.is_empty() {
            true => name.clone(),
            false => format!("{name}={value}"),
        })
        .collect();
    pairs.join(",")
}
