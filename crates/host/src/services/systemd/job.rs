//! Jobs: what systemd calls a start, stop, restart or reload of a unit.

use std::time::Duration;

use protocol::Category;
use tokio::sync::mpsc::UnboundedReceiver;
use zbus::wire::OwnedObjectPath;

use super::Systemd;
use super::unit::unit_name;
use super::view::EndedJob;
use crate::HostError;
use crate::systemd::{SERVICE, SystemdClient, SystemdError, body_of, object_path};

/// The shortest wait: systemd's own default timeout is 90 s.
const MIN_DEADLINE: Duration = Duration::from_secs(95);
/// The longest wait, also for units without a timeout.
const MAX_DEADLINE: Duration = Duration::from_secs(3600);
/// Added to the unit's own timeouts, so that systemd says what timed out.
const AFTER_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JobKind {
    Start,
    Stop,
    Restart,
    Reload,
}

impl JobKind {
    fn verb(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Reload => "reload",
        }
    }

    fn method(self) -> &'static str {
        match self {
            Self::Start => "StartUnit",
            Self::Stop => "StopUnit",
            Self::Restart => "RestartUnit",
            Self::Reload => "ReloadOrTryRestartUnit",
        }
    }
}

impl Systemd {
    /// Queues a job and waits for its end.
    pub(super) async fn run_job(&self, service: &str, kind: JobKind) -> Result<(), HostError> {
        let unit = unit_name(service)?;
        let what = format!("{} {unit}", kind.verb());
        let _own = self.view.changing(service, &unit);
        let no_reread = self.rereads.done.read().await;
        let watched = self.watched().await.map_err(|error| error.explain(&what))?;
        // Before the job is queued, so that its end is not missed.
        let ended = self.view.ended_jobs();
        let job = match queue(&watched.client, kind, &unit).await {
            Ok(job) => job,
            Err(error) => {
                self.drop_dead_connection(&error).await;
                return Err(error.explain(&what));
            }
        };
        drop(no_reread);
        let deadline = job_deadline(&watched.client, kind, &unit).await;
        let result = match tokio::time::timeout(deadline, end_of(job.as_str(), ended)).await {
            Ok(Some(result)) => result,
            Ok(None) => {
                return Err(SystemdError::Unreachable("the connection was lost".into()).explain(&what));
            }
            Err(_) => return Err(timed_out(&what, &unit, deadline)),
        };
        // systemd signals what the job has changed also after its end. These changes are our own.
        watched.flush().await;
        check_result(&watched.client, &result, &what, &unit).await
    }
}

async fn queue(client: &SystemdClient, kind: JobKind, unit: &str) -> Result<OwnedObjectPath, SystemdError> {
    if kind != JobKind::Stop {
        // Otherwise systemd refuses to start a unit that has failed too often in a short time,
        // perhaps because of the config that was just changed. An error here (no such unit) repeats
        // below.
        let _ = client.manager("ResetFailedUnit", &(unit,)).await;
    }
    let reply = client.manager(kind.method(), &(unit, "replace")).await?;
    body_of(&reply)
}

/// How long systemd itself lets the job take.
async fn job_deadline(client: &SystemdClient, kind: JobKind, unit: &str) -> Duration {
    let path = object_path(unit);
    // Units without processes have no timeouts.
    let timeout = async |name| client.property::<u64>(&path, SERVICE, name).await.unwrap_or(0);
    let start = async || timeout("TimeoutStartUSec").await;
    let stop = async || timeout("TimeoutStopUSec").await;
    deadline_of(match kind {
        JobKind::Start => start().await,
        JobKind::Stop => stop().await,
        // A reload has the timeout of a start, and may become a restart.
        JobKind::Restart | JobKind::Reload => start().await.saturating_add(stop().await),
    })
}

/// `timeout`: in microseconds; the maximum means none.
fn deadline_of(timeout: u64) -> Duration {
    Duration::from_micros(timeout)
        .saturating_add(AFTER_TIMEOUT)
        .clamp(MIN_DEADLINE, MAX_DEADLINE)
}

/// How `job` ended; `None`: the connection was lost.
async fn end_of(job: &str, mut ended: UnboundedReceiver<EndedJob>) -> Option<String> {
    loop {
        let other = ended.recv().await?;
        if other.job == job {
            return Some(other.result);
        }
    }
}

fn timed_out(what: &str, unit: &str, deadline: Duration) -> HostError {
    HostError::new(
        Category::Timeout,
        format!(
            "cannot {what}: not finished after {deadline:?}, and still in progress; see `systemctl list-jobs` \
             and `systemctl status {unit}`"
        ),
    )
}

async fn check_result(client: &SystemdClient, result: &str, what: &str, unit: &str) -> Result<(), HostError> {
    let category = match result {
        // Skipped: there was nothing to do.
        "done" | "skipped" => return Ok(()),
        "canceled" => {
            return Err(HostError::new(
                Category::Host,
                format!("cannot {what}: another job for the unit replaced it"),
            ));
        }
        "timeout" => Category::Timeout,
        "dependency" => Category::Dependency,
        _ => Category::Script,
    };
    let details = failure_details(client, unit).await;
    Err(HostError::new(
        category,
        format!("cannot {what}: the job ended with `{result}`{details}. See `journalctl -u {unit} -n 50`"),
    ))
}

/// What systemd knows of a unit's failure.
async fn failure_details(client: &SystemdClient, unit: &str) -> String {
    let path = object_path(unit);
    let mut details = String::new();
    if let Ok(result) = client.property::<String>(&path, SERVICE, "Result").await {
        details.push_str(&format!("; the unit's Result={result}"));
    }
    if let Ok(status) = client.property::<i32>(&path, SERVICE, "ExecMainStatus").await {
        details.push_str(&format!(" ExecMainStatus={status}"));
    }
    details
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R11: a database that replays its log may start for minutes.
    #[test]
    fn a_job_may_take_as_long_as_its_unit_says() {
        for (timeout_s, deadline_s) in [(0, 95), (90, 95), (600, 605), (7200, 3600)] {
            assert_eq!(
                deadline_of(timeout_s * 1_000_000).as_secs(),
                deadline_s,
                "{timeout_s}"
            );
        }
        assert_eq!(deadline_of(u64::MAX), MAX_DEADLINE, "infinity");
    }
}
