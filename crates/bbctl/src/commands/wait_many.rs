//! Waits until many hosts are as desired.

use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use protocol::rest::{HostQuery, HostState, HostSummary};

use super::host::failure;
use super::wait::{HostProgress, judge};
use super::{Context, Exit};
use crate::client::{Client, ClientError};
use crate::output::{clean, clean_lines, duration, note, print};

/// Time between two polls. Each poll asks the master for four counts.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// Largest number of hosts that are named in an error.
const MOST_NAMED: u32 = 20;

/// Number of hosts in each state.
#[derive(Debug, PartialEq, Eq)]
struct HostCounts {
    all: u64,
    done: u64,
    converging: u64,
    errors: u64,
}

impl HostCounts {
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
            (self.errors, "with errors"),
            (others, "not reached yet"),
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

/// Waits until all hosts that match `filter` are as desired, and prints the counts when they
/// change. If some fail or the time is over, it prints which and why, and returns
/// [`Exit::NotConverged`].
pub fn until_converged(context: &Context, filter: &HostQuery, timeout: Duration) -> anyhow::Result<Exit> {
    let client = &context.client;
    let deadline = Instant::now() + timeout;
    let mut printed = String::new();
    loop {
        let line = match HostCounts::of(client, filter) {
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
                    note("bbctl: these hosts failed");
                    return Ok(Exit::NotConverged);
                }
                line
            }
            // The master may be restarting. The hosts continue meanwhile.
            Err(error) if error.may_pass() => "the master cannot be reached; waiting for it".to_owned(),
            Err(error) => return Err(error.into()),
        };
        if line != printed {
            print(&format!("{line}\n"))?;
            printed = line;
        }
        if Instant::now() >= deadline {
            note(&format!(
                "bbctl: not all hosts are as desired after {}:",
                duration(timeout)
            ));
            for host in not_as_desired(client, filter)? {
                note(&format!("  {}", in_a_line(&host)));
            }
            note("The hosts continue; see `bbctl hosts --not-as-desired`");
            return Ok(Exit::NotConverged);
        }
        sleep(POLL_EVERY);
    }
}

fn not_as_desired(client: &Client, filter: &HostQuery) -> Result<Vec<HostSummary>, ClientError> {
    let query = HostQuery {
        satisfied: Some(false),
        limit: Some(MOST_NAMED),
        ..filter.clone()
    };
    Ok(client.hosts(&query)?.hosts)
}

fn in_a_line(host: &HostSummary) -> String {
    let state = match host.status {
        _ if !host.responding => "does not report",
        HostState::Missing => "has never reported",
        HostState::Ok => "was not reached yet",
        HostState::Converging => "is converging",
        HostState::Errors => "failed; retry pending",
    };
    match &host.error {
        Some(error) => format!("{}: {state}: {}", host.host_id, clean(error)),
        None => format!("{}: {state}", host.host_id),
    }
}

/// The errors of all failed hosts. `None` if one of them retries or is not finished.
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
        let error = match judge(&host, host.generation) {
            HostProgress::Failed(errors) => {
                let errors = errors
                    .iter()
                    .map(|error| failure(error, now, context.terminal.paint));
                errors.collect::<String>()
            }
            HostProgress::Refused(reason) => {
                format!("refuses the desired state: {}\n", clean_lines(reason, "    "))
            }
            HostProgress::Superseded
            | HostProgress::NeverSeen
            | HostProgress::Silent
            | HostProgress::NotYetReached
            | HostProgress::Converging
            | HostProgress::Retrying(_)
            | HostProgress::Done => return Ok(None),
        };
        if number < MOST_NAMED as usize {
            text.push_str(&format!("{}:\n{error}", summary.host_id));
        }
    }
    if page.total > u64::from(MOST_NAMED) {
        text.push_str(&format!(
            "and {} more: bbctl hosts --status errors\n",
            page.total - u64::from(MOST_NAMED)
        ));
    }
    Ok(Some(text))
}
