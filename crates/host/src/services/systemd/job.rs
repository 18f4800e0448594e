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

/// A little more than systemd's own default of 90 s, so that systemd says what timed out.
const JOB_DEADLINE: Duration = Duration::from_secs(95);

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
        let result = match tokio::time::timeout(JOB_DEADLINE, end_of(job.as_str(), ended)).await {
            Ok(Some(result)) => result,
            Ok(None) => {
                return Err(SystemdError::Unreachable("the connection was lost".into()).explain(&what));
            }
            Err(_) => return Err(timed_out(&what, &unit, JOB_DEADLINE)),
        };
        // systemd signals what the job has changed also after its end. These changes are our own.
        watched.flush().await;
        check_result(&watched.client, &result, &what, &unit).await
    }
}

async fn queue(client: &SystemdClient, kind: JobKind, unit: &str) -> Result<OwnedObjectPath, SystemdError> {
    if kind != JobKind::Stop {
        // Otherwise systemd refuses to start a unit that has failed too often in a short time, perhaps
        // because of the config that was just changed. An error here (no such unit) repeats below.
        let _ = client.manager("ResetFailedUnit", &(unit,)).await;
    }
    let reply = client.manager(kind.method(), &(unit, "replace")).await?;
    body_of(&reply)
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
