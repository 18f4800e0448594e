//! Seeing a host through to what is desired of it.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use protocol::rest::{DesiredApps, Host, HostState};
use protocol::{Apps, ErrorReport, HostId, app_satisfied};

use super::host::failure;
use super::{Context, Exit};
use crate::client::{Client, ClientError};
use crate::output::{clean, clean_lines, duration, note, print};

/// Between two looks.
const PACE: Duration = Duration::from_millis(400);
/// A converging host tells more when it is asked; it answers at once.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// Seconds that a host may take to confirm what its last status says.
const CONFIRM: f64 = 5.0;

/// How a host stands to a generation of its desired state.
#[derive(Debug, PartialEq)]
pub(super) enum Progress<'a> {
    /// Something else is desired by now.
    Superseded,
    /// It has never reported.
    NeverSeen,
    /// It does not report any more.
    Silent,
    /// What it says is of before it was told.
    NotYetTold,
    Converging,
    /// It has failed, and tries again by itself.
    Retrying(&'a [ErrorReport]),
    /// It has failed for good.
    Failed(&'a [ErrorReport]),
    /// It would not take the message.
    Refused(&'a str),
    Done,
}

pub(super) fn judge(host: &Host, generation: u64) -> Progress<'_> {
    if host.generation > generation {
        return Progress::Superseded;
    }
    // The id that masters give to such a message.
    let message = format!("desired-{generation}");
    if let Some(rejected) = &host.last_rejected
        && rejected.id.as_deref() == Some(&message)
        && host.reported_generation != Some(generation)
    {
        return Progress::Refused(&rejected.reason);
    }
    // Agents from before Backbone report no generation: their word is taken for the newest.
    let is_about_this = host
        .reported_generation
        .is_none_or(|reported| reported >= generation);
    match host.status {
        HostState::Missing => Progress::NeverSeen,
        HostState::Ok if host.satisfied => Progress::Done,
        _ if !host.responding => Progress::Silent,
        HostState::Ok => Progress::NotYetTold,
        HostState::Converging | HostState::Errors if !is_about_this => Progress::NotYetTold,
        HostState::Converging => Progress::Converging,
        HostState::Errors if host.errors.iter().any(|error| error.next_retry.is_some()) => {
            Progress::Retrying(&host.errors)
        }
        HostState::Errors => Progress::Failed(&host.errors),
    }
}

/// What is said of each application.
fn lines(desired: &Apps, host: &Host) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    for (name, spec) in desired {
        let text = match host.apps.get(name) {
            None => format!("{} is to be installed", spec.version),
            Some(there) if app_satisfied(spec, there) => {
                let running = if there.running { "running" } else { "not running" };
                format!("{}, {running}: as desired", there.exact_version())
            }
            Some(there) => format!("{} is installed, {} desired", there.exact_version(), spec.version),
        };
        lines.insert(name.to_string(), text);
    }
    for name in host.apps.keys().filter(|name| !desired.contains_key(*name)) {
        lines.insert(name.to_string(), "is to be removed".to_owned());
    }
    lines
}

/// Says what has changed since it was last asked.
#[derive(Default)]
struct Teller {
    apps: BTreeMap<String, String>,
    /// Of the host as a whole.
    last: String,
}

impl Teller {
    fn applications(&mut self, desired: &Apps, host: &Host) -> std::io::Result<()> {
        let now = lines(desired, host);
        let mut text = String::new();
        for (name, line) in &now {
            if self.apps.get(name) != Some(line) {
                text.push_str(&clean(&format!("{name}: {line}")));
                text.push('\n');
            }
        }
        let present: BTreeSet<_> = now.keys().collect();
        for name in self.apps.keys().filter(|name| !present.contains(name)) {
            text.push_str(&clean(&format!("{name}: removed")));
            text.push('\n');
        }
        self.apps = now;
        print(&text)
    }

    fn host(&mut self, line: &str) -> std::io::Result<()> {
        if self.last == line {
            return Ok(());
        }
        line.clone_into(&mut self.last);
        print(&format!("{line}\n"))
    }
}

/// Waits until `id` is as `set` says, telling what happens. The host's own error, and [`Exit::NotConverged`], where it
/// does not get there.
pub fn until_converged(
    context: &Context,
    id: &HostId,
    set: &DesiredApps,
    timeout: Duration,
) -> anyhow::Result<Exit> {
    let client = &context.client;
    let paint = context.terminal.paint;
    let deadline = Instant::now() + timeout;
    let mut teller = Teller::default();
    let mut asked = Instant::now();
    let mut confirmed = false;
    loop {
        let mut pending = String::new();
        match client.host(id) {
            Ok(host) => {
                let progress = judge(&host, set.generation);
                if !matches!(progress, Progress::NeverSeen | Progress::Superseded) {
                    teller.applications(&set.apps, &host)?;
                }
                let now = SystemTime::now();
                let report = |errors: &[ErrorReport]| -> String {
                    errors.iter().map(|error| failure(error, now, paint)).collect()
                };
                match progress {
                    Progress::Done if confirmed => {
                        print(&format!("{id}: as desired, generation {}\n", set.generation))?;
                        return Ok(Exit::Ok);
                    }
                    // What is known may be of before the host was told to go back to it: it has the last word.
                    Progress::Done => {
                        confirmed = true;
                        match client.ping(id, CONFIRM) {
                            Ok(_) | Err(ClientError::Refused { .. }) => continue,
                            Err(error) => pending = error.to_string(),
                        }
                    }
                    Progress::Failed(errors) => {
                        note(report(errors).trim_end());
                        note(&format!(
                            "bbctl: {id} did not get to generation {}",
                            set.generation
                        ));
                        return Ok(Exit::NotConverged);
                    }
                    Progress::Refused(reason) => {
                        note(&format!(
                            "bbctl: {id} refuses generation {}: {}",
                            set.generation,
                            clean_lines(reason, "    ")
                        ));
                        return Ok(Exit::NotConverged);
                    }
                    Progress::Superseded => {
                        note(&format!(
                            "bbctl: something else is desired of {id} by now: generation {}. See who: bbctl events --host \
                             {id} --kind desired-changed",
                            host.generation
                        ));
                        return Ok(Exit::NotConverged);
                    }
                    Progress::Retrying(errors) => {
                        confirmed = false;
                        pending = report(errors);
                        // The time of the next attempt would make each look another text.
                        let failed: String = errors
                            .iter()
                            .map(|e| clean(&e.message))
                            .collect::<Vec<_>>()
                            .join("; ");
                        teller.host(&format!("{id}: failed, and tries again: {failed}"))?;
                    }
                    Progress::NeverSeen => {
                        "it has never reported".clone_into(&mut pending);
                        teller.host(&format!("{id}: has never reported; it is told when it does"))?;
                    }
                    Progress::Silent => {
                        "it does not report".clone_into(&mut pending);
                        teller.host(&format!("{id}: does not report; it is told when it does"))?;
                    }
                    Progress::NotYetTold => {
                        confirmed = false;
                        "it was not reached yet".clone_into(&mut pending);
                    }
                    Progress::Converging => {
                        confirmed = false;
                        "it is still at it".clone_into(&mut pending);
                        if let Some(detail) = &host.detail {
                            teller.host(&format!("{id}: {}", clean(detail)))?;
                        }
                        if asked.elapsed() > ASK_EVERY {
                            asked = Instant::now();
                            ask(client, id);
                        }
                    }
                }
            }
            // A master that is restarted; the host goes on meanwhile.
            Err(error) if error.may_pass() => {
                pending = error.to_string();
                teller.host(&format!("{id}: the master is away; waiting for it"))?;
            }
            Err(error) => return Err(error.into()),
        }
        if Instant::now() >= deadline {
            note(&format!(
                "bbctl: {id} is not as desired after {}: {}\nIt goes on by itself; see `bbctl host {id}`",
                duration(timeout),
                pending.trim_end()
            ));
            return Ok(Exit::NotConverged);
        }
        sleep(PACE);
    }
}

/// Without waiting for the answer: it is seen at the next look. That it may fail is seen there, too.
fn ask(client: &Client, id: &HostId) {
    let _ = client.ping(id, 0.0);
}

#[cfg(test)]
mod tests;
