//! `bbctl events`.

use clap::{Args, ValueEnum};
use protocol::HostId;
use protocol::rest::{Event, EventKind, EventList, EventQuery};

use super::{Context, Exit, host_id};
use crate::output::{Cell, Format, Paint, Style, Table, clean, clock, for_programs, note, print};

#[derive(Debug, Args)]
pub struct EventsCommand {
    #[command(flatten)]
    filter: EventFilter,
    /// Number of events to show, newest last.
    #[arg(short = 'n', long, value_name = "N", default_value = "50")]
    count: usize,
    /// Format of the output.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

/// Which events. An event must match all filters.
#[derive(Debug, Clone, Args)]
pub struct EventFilter {
    /// Only events of this host.
    #[arg(long, value_name = "HOST", value_parser = host_id)]
    host: Option<HostId>,
    /// Only events of this kind.
    #[arg(short, long, value_enum)]
    kind: Option<KindArg>,
    /// Only changes made with this token.
    #[arg(long, value_name = "TOKEN")]
    author: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum KindArg {
    HostAppeared,
    StatusChanged,
    HostSilent,
    HostReturned,
    DesiredChanged,
    RetryAsked,
    LabelsChanged,
    HostDeleted,
    TokenCreated,
    TokenRevoked,
    EnrollTokenCreated,
    EnrollTokenRevoked,
    HostEnrolled,
}

impl From<KindArg> for EventKind {
    fn from(kind: KindArg) -> Self {
        match kind {
            KindArg::HostAppeared => Self::HostAppeared,
            KindArg::StatusChanged => Self::StatusChanged,
            KindArg::HostSilent => Self::HostSilent,
            KindArg::HostReturned => Self::HostReturned,
            KindArg::DesiredChanged => Self::DesiredChanged,
            KindArg::RetryAsked => Self::RetryAsked,
            KindArg::LabelsChanged => Self::LabelsChanged,
            KindArg::HostDeleted => Self::HostDeleted,
            KindArg::TokenCreated => Self::TokenCreated,
            KindArg::TokenRevoked => Self::TokenRevoked,
            KindArg::EnrollTokenCreated => Self::EnrollTokenCreated,
            KindArg::EnrollTokenRevoked => Self::EnrollTokenRevoked,
            KindArg::HostEnrolled => Self::HostEnrolled,
        }
    }
}

impl EventFilter {
    pub fn query(&self) -> EventQuery {
        EventQuery {
            host_id: self.host.clone(),
            kind: self.kind.map(EventKind::from),
            author: self.author.clone(),
            ..EventQuery::default()
        }
    }
}

impl EventsCommand {
    pub(super) fn execute(&self, context: &Context) -> anyhow::Result<Exit> {
        let mut events = context.client.newest_events(&self.filter.query(), self.count)?;
        // The newest comes last, next to the prompt.
        events.reverse();
        let list = EventList { events, next: None };
        if let Some(text) = for_programs(self.output, &list)? {
            print(&text)?;
            return Ok(Exit::Ok);
        }
        if list.events.is_empty() {
            note("No event matches.");
            return Ok(Exit::Ok);
        }
        let mut table = Table::new(&["TIME", "HOST", "BY", "WHAT"]);
        for event in &list.events {
            table.row(vec![
                Cell::styled(&clock(&event.at), Style::Faint),
                Cell::new(event.host_id.as_ref().map_or("-", |id| id.as_str())),
                Cell::new(event.author.as_deref().unwrap_or("-")),
                Cell::styled(&event.message, style(event)),
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

fn style(event: &Event) -> Style {
    match event.kind {
        EventKind::HostSilent => Style::Bad,
        EventKind::StatusChanged => match event.data.as_ref().and_then(|data| data["to"].as_str()) {
            Some("errors") => Style::Bad,
            Some("converging") => Style::Busy,
            Some("ok") => Style::Good,
            Some(_) | None => Style::Plain,
        },
        EventKind::HostAppeared
        | EventKind::HostReturned
        | EventKind::DesiredChanged
        | EventKind::RetryAsked
        | EventKind::LabelsChanged
        | EventKind::HostDeleted
        | EventKind::TokenCreated
        | EventKind::TokenRevoked
        | EventKind::EnrollTokenCreated
        | EventKind::EnrollTokenRevoked
        | EventKind::HostEnrolled => Style::Plain,
    }
}

/// One event on one line.
pub fn line(event: &Event, paint: Paint) -> String {
    let host = event.host_id.as_ref().map_or("-", |id| id.as_str());
    let author = event
        .author
        .as_deref()
        .map(|author| format!(" (by {})", clean(author)));
    format!(
        "{}  {host}  {}{}\n",
        paint.paint(Style::Faint, &clock(&event.at)),
        paint.paint(style(event), &clean(&event.message)),
        author.unwrap_or_default()
    )
}
