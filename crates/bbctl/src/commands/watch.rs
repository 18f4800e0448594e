//! `bbctl watch`.

use std::thread::sleep;
use std::time::Duration;

use clap::{Args, ValueEnum};
use protocol::rest::{Event, EventQuery};

use super::events::{EventFilter, line};
use super::{Context, Exit};
use crate::output::{note, print};

#[derive(Debug, Args)]
pub struct Watch {
    #[command(flatten)]
    filter: EventFilter,
    /// Begin with what came after this event, by its id (as `events -o json` shows it).
    #[arg(long, value_name = "ID")]
    after: Option<u64>,
    /// End after so many.
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<u64>,
    /// Format of the output.
    #[arg(short, long, value_enum, default_value = "lines")]
    output: WatchFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WatchFormat {
    /// For people.
    Lines,
    /// One JSON document a line.
    Json,
}

/// Between attempts to reconnect; doubled up to the longest.
const SHORTEST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(15);

impl Watch {
    pub(super) fn execute(&self, context: &Context) -> anyhow::Result<Exit> {
        let query = self.filter.query();
        // Known before the stream begins: if it breaks before the first event, none is missed.
        let mut last = match self.after {
            Some(id) => id,
            None => newest(context)?,
        };
        let mut seen = 0;
        let mut pause = SHORTEST;
        let mut lost = false;
        if self.count == Some(0) {
            return Ok(Exit::Ok);
        }
        loop {
            match context.client.follow(&query, last) {
                Ok(stream) => {
                    if lost {
                        note("bbctl: connected again");
                    }
                    for event in stream {
                        // Whatever breaks it, it is taken up where it broke.
                        let Ok(event) = event else { break };
                        pause = SHORTEST;
                        last = event.id;
                        self.show(context, &event)?;
                        seen += 1;
                        if self.count == Some(seen) {
                            return Ok(Exit::Ok);
                        }
                    }
                    lost = true;
                    note("bbctl: the connection to the master was lost; connecting again");
                }
                Err(error) if error.may_pass() => {
                    if !lost {
                        note(&format!("bbctl: {error}\nbbctl: trying again until it is there"));
                        lost = true;
                    }
                }
                Err(error) => return Err(error.into()),
            }
            sleep(pause);
            pause = (pause * 2).min(LONGEST);
        }
    }

    fn show(&self, context: &Context, event: &Event) -> anyhow::Result<()> {
        let text = match self.output {
            WatchFormat::Lines => line(event, context.terminal.paint),
            WatchFormat::Json => serde_json::to_string(event)? + "\n",
        };
        Ok(print(&text)?)
    }
}

/// The id of the newest event of all.
fn newest(context: &Context) -> anyhow::Result<u64> {
    let query = EventQuery {
        limit: Some(1),
        ..EventQuery::default()
    };
    let page = context.client.events(&query)?;
    Ok(page.events.first().map_or(0, |event| event.id))
}
