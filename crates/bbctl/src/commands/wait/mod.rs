//! Waits until a host is as desired.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use protocol::rest::{DesiredApps, Host, HostState};
use protocol::{Apps, ErrorReport, HostId, app_satisfied};

use super::host::failure;
use super::{Context, Exit};
use crate::client::{Client, ClientError};
use crate::output::{Paint, clean, clean_lines, duration, note, print};

/// Time between two polls.
const POLL_EVERY: Duration = Duration::from_millis(400);
/// Time between two pings of a converging host. Its answer has the newest details.
const PING_EVERY: Duration = Duration::from_secs(2);
/// Seconds to wait for a host to confirm its last status.
const CONFIRM_LIMIT: f64 = 5.0;

/// How far a host is with one generation of its desired state.
#[derive(Debug, PartialEq)]
pub(super) enum HostProgress<'a> {
    /// A newer desired state was set.
    Superseded,
    /// It has never reported.
    NeverSeen,
    /// It no longer reports.
    Silent,
    /// Its last status is older than this generation.
    NotYetReached,
    Converging,
    /// It has failed and will retry.
    Retrying(&'a [ErrorReport]),
    /// It has failed and will not retry.
    Failed(&'a [ErrorReport]),
    /// It has refused the message.
    Refused(&'a str),
    Done,
}

/// Compares the last status of a host with `generation`.
pub(super) fn judge(host: &Host, generation: u64) -> HostProgress<'_> {
    if host.generation > generation {
        return HostProgress::Superseded;
    }
    // The id that a master gives to the message of this generation.
    let message = format!("desired-{generation}");
    if let Some(rejected) = &host.last_rejected
        && rejected.id.as_deref() == Some(&message)
        && host.reported_generation != Some(generation)
    {
        return HostProgress::Refused(&rejected.reason);
    }
    // Agents before Backbone report no generation: their status is taken as being about the newest.
    let is_about_this = host
        .reported_generation
        .is_none_or(|reported| reported >= generation);
    match host.status {
        HostState::Missing => HostProgress::NeverSeen,
        HostState::Ok if host.satisfied => HostProgress::Done,
        _ if !host.responding => HostProgress::Silent,
        HostState::Ok => HostProgress::NotYetReached,
        HostState::Converging | HostState::Errors if !is_about_this => HostProgress::NotYetReached,
        HostState::Converging => HostProgress::Converging,
        HostState::Errors if host.errors.iter().any(|error| error.next_retry.is_some()) => {
            HostProgress::Retrying(&host.errors)
        }
        HostState::Errors => HostProgress::Failed(&host.errors),
    }
}

/// One line of text for each application.
fn lines(desired: &Apps, host: &Host) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    for (name, spec) in desired {
        let text = match host.apps.get(name) {
            None => format!("{} will be installed", spec.version),
            Some(there) if app_satisfied(spec, there) => {
                let running = if there.running { "running" } else { "not running" };
                format!("{}, {running}: as desired", there.exact_version())
            }
            Some(there) => format!("{} is installed, {} desired", there.exact_version(), spec.version),
        };
        lines.insert(name.to_string(), text);
    }
    for name in host.apps.keys().filter(|name| !desired.contains_key(*name)) {
        lines.insert(name.to_string(), "will be removed".to_owned());
    }
    lines
}

/// Prints what has changed since the last call.
#[derive(Default)]
struct ProgressPrinter {
    apps: BTreeMap<String, String>,
    /// The last line about the host as a whole.
    host: String,
}

impl ProgressPrinter {
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
        if self.host == line {
            return Ok(());
        }
        line.clone_into(&mut self.host);
        print(&format!("{line}\n"))
    }
}

/// The result of one poll.
enum Poll {
    Ended(Exit),
    /// Poll again at once.
    Again,
    /// Poll again later. The text says why the host is not as desired yet.
    Pending(String),
}

/// Waits until `id` has the desired state `set`, and prints its progress. If the host fails or the
/// time is over, prints why and returns [`Exit::NotConverged`].
pub fn until_converged(
    context: &Context,
    id: &HostId,
    set: &DesiredApps,
    timeout: Duration,
) -> anyhow::Result<Exit> {
    let deadline = Instant::now() + timeout;
    let mut wait = HostWait {
        client: &context.client,
        paint: context.terminal.paint,
        id,
        set,
        printer: ProgressPrinter::default(),
        last_ping: Instant::now(),
        confirmed: false,
    };
    loop {
        let pending = match wait.poll()? {
            Poll::Ended(exit) => return Ok(exit),
            Poll::Again => continue,
            Poll::Pending(reason) => reason,
        };
        if Instant::now() >= deadline {
            note(&format!(
                "bbctl: {id} is not as desired after {}: {}\nThe host continues; see `bbctl host {id}`",
                duration(timeout),
                pending.trim_end()
            ));
            return Ok(Exit::NotConverged);
        }
        sleep(POLL_EVERY);
    }
}

/// The wait for one host.
struct HostWait<'a> {
    client: &'a Client,
    paint: Paint,
    id: &'a HostId,
    set: &'a DesiredApps,
    printer: ProgressPrinter,
    last_ping: Instant,
    /// The host has confirmed, by an answer to a ping, that it is as desired.
    confirmed: bool,
}

impl HostWait<'_> {
    fn poll(&mut self) -> anyhow::Result<Poll> {
        let id = self.id;
        let host = match self.client.host(id) {
            Ok(host) => host,
            // The master may be restarting. The host continues meanwhile.
            Err(error) if error.may_pass() => {
                self.printer
                    .host(&format!("{id}: the master cannot be reached; waiting for it"))?;
                return Ok(Poll::Pending(error.to_string()));
            }
            Err(error) => return Err(error.into()),
        };
        let progress = judge(&host, self.set.generation);
        if !matches!(progress, HostProgress::NeverSeen | HostProgress::Superseded) {
            self.printer.applications(&self.set.apps, &host)?;
        }
        match progress {
            HostProgress::Done => self.done(),
            HostProgress::Failed(errors) => Ok(self.failed(errors)),
            HostProgress::Refused(reason) => Ok(self.refused(reason)),
            HostProgress::Superseded => Ok(self.superseded(host.generation)),
            HostProgress::Retrying(errors) => self.retrying(errors),
            HostProgress::Converging => self.converging(&host),
            HostProgress::NotYetReached => {
                self.confirmed = false;
                Ok(Poll::Pending("it was not reached yet".to_owned()))
            }
            HostProgress::NeverSeen => self.not_reporting("has never reported"),
            HostProgress::Silent => self.not_reporting("does not report"),
        }
    }

    fn done(&mut self) -> anyhow::Result<Poll> {
        if self.confirmed {
            print(&format!(
                "{}: as desired, generation {}\n",
                self.id, self.set.generation
            ))?;
            return Ok(Poll::Ended(Exit::Ok));
        }
        // The last status may be older than the change: the host must confirm it.
        self.confirmed = true;
        Ok(match self.client.ping(self.id, CONFIRM_LIMIT) {
            Ok(_) | Err(ClientError::Refused { .. }) => Poll::Again,
            Err(error) => Poll::Pending(error.to_string()),
        })
    }

    fn failed(&self, errors: &[ErrorReport]) -> Poll {
        note(self.report(errors).trim_end());
        note(&format!(
            "bbctl: {} failed to reach generation {}",
            self.id, self.set.generation
        ));
        Poll::Ended(Exit::NotConverged)
    }

    fn refused(&self, reason: &str) -> Poll {
        note(&format!(
            "bbctl: {} refuses generation {}: {}",
            self.id,
            self.set.generation,
            clean_lines(reason, "    ")
        ));
        Poll::Ended(Exit::NotConverged)
    }

    fn superseded(&self, newer: u64) -> Poll {
        note(&format!(
            "bbctl: a newer desired state of {id} was set: generation {newer}. To see by whom: bbctl \
             events --host {id} --kind desired-changed",
            id = self.id
        ));
        Poll::Ended(Exit::NotConverged)
    }

    fn retrying(&mut self, errors: &[ErrorReport]) -> anyhow::Result<Poll> {
        self.confirmed = false;
        // Without the time of the next retry, which would be different in every poll.
        let messages: Vec<String> = errors.iter().map(|error| clean(&error.message)).collect();
        self.printer.host(&format!(
            "{}: failed, will retry: {}",
            self.id,
            messages.join("; ")
        ))?;
        Ok(Poll::Pending(self.report(errors)))
    }

    fn converging(&mut self, host: &Host) -> anyhow::Result<Poll> {
        self.confirmed = false;
        if let Some(detail) = &host.detail {
            self.printer.host(&format!("{}: {}", self.id, clean(detail)))?;
        }
        if self.last_ping.elapsed() > PING_EVERY {
            self.last_ping = Instant::now();
            // The next poll shows the answer, or that there is none.
            let _ = self.client.ping(self.id, 0.0);
        }
        Ok(Poll::Pending("it is converging".to_owned()))
    }

    fn not_reporting(&mut self, how: &str) -> anyhow::Result<Poll> {
        self.printer.host(&format!(
            "{}: {how}; the master sends the desired state when it reports",
            self.id
        ))?;
        Ok(Poll::Pending(format!("it {how}")))
    }

    fn report(&self, errors: &[ErrorReport]) -> String {
        let now = SystemTime::now();
        errors
            .iter()
            .map(|error| failure(error, now, self.paint))
            .collect()
    }
}

#[cfg(test)]
mod tests;
