//! `bbctl watch`.

use std::thread::sleep;
use std::time::Duration;

use clap::{Args, ValueEnum};
use protocol::rest::{Event, EventQuery};

use super::events::{EventFilter, line};
use super::{Context, Exit};
use crate::output::{note, print};

#[derive(Debug, Args)]
pub struct WatchCommand {
    #[command(flatten)]
    filter: EventFilter,
    /// Begin after the event with this id (`events -o json` shows ids).
    #[arg(long, value_name = "ID")]
    after: Option<u64>,
    /// End after this number of events.
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<u64>,
    /// Format of the output.
    #[arg(short, long, value_enum, default_value = "lines")]
    output: WatchFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WatchFormat {
    /// One line of text per event.
    Lines,
    /// One JSON document per line.
    Json,
}

/// First pause before a reconnect. It doubles up to [`LONGEST_PAUSE`].
const SHORTEST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

impl WatchCommand {
    pub(super) fn execute(&self, context: &Context) -> anyhow::Result<Exit> {
        let query = self.filter.query();
        // Read before the stream begins, so that no event is missed if the stream ends before its
        // first event.
        let mut last = match self.after {
            Some(id) => id,
            None => newest(context)?,
        };
        let mut seen = 0;
        let mut pause = SHORTEST_PAUSE;
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
                        // After any error the next stream continues after the last event.
                        let Ok(event) = event else { break };
                        pause = SHORTEST_PAUSE;
                        last = event.id;
                        self.show(context, &event)?;
                        seen += 1;
                        if self.count == Some(seen) {
                            return Ok(Exit::Ok);
                        }
                    }
                    lost = true;
                    note("bbctl: lost the connection to the master; reconnecting");
                }
                Err(error) if error.may_pass() => {
                    if !lost {
                        note(&format!(
                            "bbctl: {error}\nbbctl: retrying until the master can be reached"
                        ));
                        lost = true;
                    }
                }
                Err(error) => return Err(error.into()),
            }
            sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
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

/// The id of the newest event.
fn newest(context: &Context) -> anyhow::Result<u64> {
    let query = EventQuery {
        limit: Some(1),
        ..EventQuery::default()
    };
    let page = context.client.events(&query)?;
    Ok(page.events.first().map_or(0, |event| event.id))
}
