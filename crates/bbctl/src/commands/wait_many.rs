//! Seeing many hosts through to what is desired of them.

use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use protocol::rest::{HostQuery, HostState, HostSummary};

use super::host::failure;
use super::wait::{Progress, judge};
use super::{Context, Exit};
use crate::client::{Client, ClientError};
use crate::output::{clean, clean_lines, duration, note, print};

/// Between two looks, each of which asks the master for four counts.
const PACE: Duration = Duration::from_secs(1);
/// Named, where they do not get there.
const NAMED: u32 = 20;

/// How many hosts stand how.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    all: u64,
    done: u64,
    converging: u64,
    errors: u64,
}

impl Counts {
    fn of(client: &Client, filter: &HostQuery) -> Result<Self, ClientError> {
        let count = |satisfied, status| {
            let query = HostQuery {
                satisfied,
                status,
                limit: Some(1),
                ..filter.clone()
            };
            client.hosts(&query).map(|page| page.total)
        };
        Ok(Self {
            all: count(None, None)?,
            done: count(Some(true), Some(HostState::Ok))?,
            converging: count(None, Some(HostState::Converging))?,
            errors: count(None, Some(HostState::Errors))?,
        })
    }

    fn in_words(&self) -> String {
        let others = self.all.saturating_sub(self.done + self.converging + self.errors);
        let parts = [
            (self.converging, "converging"),
            (self.errors, "in errors"),
            (others, "not told yet, or away"),
        ];
        let parts = parts.iter().filter(|(count, _)| *count > 0);
        let parts: Vec<String> = parts.map(|(count, how)| format!("{count} {how}")).collect();
        let rest = match parts.is_empty() {
            true => String::new(),
            false => format!("; {}", parts.join(", ")),
        };
        format!("{} of {} as desired{rest}", self.done, self.all)
    }
}

/// Waits until all that `filter` means are as desired, telling how many are. [`Exit::NotConverged`], and which are not and
/// why, where some do not get there.
pub fn until_converged(context: &Context, filter: &HostQuery, timeout: Duration) -> anyhow::Result<Exit> {
    let client = &context.client;
    let deadline = Instant::now() + timeout;
    let mut told = String::new();
    loop {
        let line = match Counts::of(client, filter) {
            Ok(counts) => {
                let line = counts.in_words();
                if counts.done == counts.all {
                    print(&format!("{line}\n"))?;
                    return Ok(Exit::Ok);
                }
                if counts.errors > 0
                    && counts.done + counts.errors == counts.all
                    && let Some(failures) = all_failed(context, filter)?
                {
                    print(&format!("{line}\n"))?;
                    note(failures.trim_end());
                    note("bbctl: these did not get there");
                    return Ok(Exit::NotConverged);
                }
                line
            }
            // A master that is restarted; the hosts go on meanwhile.
            Err(error) if error.may_pass() => "the master is away; waiting for it".to_owned(),
            Err(error) => return Err(error.into()),
        };
        if line != told {
            print(&format!("{line}\n"))?;
            told = line;
        }
        if Instant::now() >= deadline {
            note(&format!(
                "bbctl: not all are as desired after {}:",
                duration(timeout)
            ));
            for host in not_as_desired(client, filter)? {
                note(&format!("  {}", in_a_line(&host)));
            }
            note("They go on by themselves; see `bbctl hosts --not-as-desired`");
            return Ok(Exit::NotConverged);
        }
        sleep(PACE);
    }
}

fn not_as_desired(client: &Client, filter: &HostQuery) -> Result<Vec<HostSummary>, ClientError> {
    let query = HostQuery {
        satisfied: Some(false),
        limit: Some(NAMED),
        ..filter.clone()
    };
    Ok(client.hosts(&query)?.hosts)
}

fn in_a_line(host: &HostSummary) -> String {
    let state = match host.status {
        _ if !host.responding => "does not report",
        HostState::Missing => "has never reported",
        HostState::Ok => "was not reached yet",
        HostState::Converging => "is still at it",
        HostState::Errors => "failed, and tries again",
    };
    match &host.error {
        Some(error) => format!("{}: {state}: {}", host.host_id, clean(error)),
        None => format!("{}: {state}", host.host_id),
    }
}

/// What each says that has failed, if all of them have failed for good.
fn all_failed(context: &Context, filter: &HostQuery) -> anyhow::Result<Option<String>> {
    let query = HostQuery {
        status: Some(HostState::Errors),
        limit: Some(1000),
        ..filter.clone()
    };
    let page = context.client.hosts(&query)?;
    let now = SystemTime::now();
    let mut text = String::new();
    for (number, summary) in page.hosts.iter().enumerate() {
        let host = context.client.host(&summary.host_id)?;
        let said = match judge(&host, host.generation) {
            Progress::Failed(errors) => {
                let errors = errors
                    .iter()
                    .map(|error| failure(error, now, context.terminal.paint));
                errors.collect::<String>()
            }
            Progress::Refused(reason) => format!("refuses it: {}\n", clean_lines(reason, "    ")),
            Progress::Superseded
            | Progress::NeverSeen
            | Progress::Silent
            | Progress::NotYetTold
            | Progress::Converging
            | Progress::Retrying(_)
            | Progress::Done => return Ok(None),
        };
        if number < NAMED as usize {
            text.push_str(&format!("{}:\n{said}", summary.host_id));
        }
    }
    if page.total > u64::from(NAMED) {
        text.push_str(&format!(
            "and {} more: bbctl hosts --status errors\n",
            page.total - u64::from(NAMED)
        ));
    }
    Ok(Some(text))
}
