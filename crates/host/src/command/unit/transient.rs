//! Transient units of systemd.

use std::os::fd::OwnedFd;
use std::time::Duration;

use futures_util::StreamExt;
use zbus::wire::{Fd, OwnedObjectPath, Variant};
use zbus::{Message, MessageStream};

use super::log::Logs;
use crate::Root;
use crate::command::{CommandError, Exit};
use crate::systemd::{
    MANAGER, MANAGER_PATH, SERVICE, SystemdClient, SystemdError, UNIT, body_of, object_path,
};

/// `si_code` of a child that has exited (waitid(2)); the others were ended by a signal.
const EXITED: i32 = 1;

/// A transient unit to start.
pub(in crate::command) struct NewUnit<'a> {
    pub name: &'a str,
    pub description: String,
    pub argv: Vec<String>,
    pub environment: Vec<String>,
}

type Properties<'a> = Vec<(&'a str, Variant<'a>)>;

impl NewUnit<'_> {
    fn properties(&self) -> Properties<'_> {
        let program = self.argv.first().cloned().unwrap_or_default();
        vec![
            ("Description", self.description.clone().into()),
            ("ExecStart", vec![(program, self.argv.clone(), false)].into()),
            ("Environment", self.environment.clone().into()),
        ]
    }
}

#[derive(Debug)]
pub(in crate::command) enum UnitState {
    Running,
    Ended(Exit),
    /// No longer loaded.
    Gone,
}

/// systemd, as far as transient units need it. A connection of its own: it lives for one run of a
/// child.
pub(in crate::command) struct TransientUnits {
    client: SystemdClient,
}

impl TransientUnits {
    pub async fn connect() -> Result<Self, SystemdError> {
        // Transient units exist on the host itself only.
        let client = SystemdClient::connect(&Root::new("/")).await?;
        Ok(Self { client })
    }

    /// The unit stays loaded after its end. `deadline`: how long it may continue when the host
    /// shuts down.
    pub(super) async fn start(
        &self,
        unit: &NewUnit<'_>,
        deadline: Duration,
        logs: &Logs,
    ) -> Result<(), SystemdError> {
        let [stdout, stderr] = logs
            .open()
            .map_err(|error| SystemdError::Unreachable(format!("cannot open its log files: {error}")))?;
        let microseconds = u64::try_from(deadline.as_micros()).unwrap_or(u64::MAX);
        let file = |file: std::fs::File| Variant::from(Fd::from(OwnedFd::from(file)));
        let mut properties = unit.properties();
        properties.extend([
            ("RemainAfterExit", true.into()),
            ("StandardOutputFileDescriptor", file(stdout)),
            ("StandardErrorFileDescriptor", file(stderr)),
            // A stop, as at a shutdown of the host, does not disturb it. To end it at once, kill
            // it.
            ("KillSignal", rustix::process::Signal::CONT.as_raw().into()),
            ("TimeoutStopUSec", microseconds.into()),
            // For the case that there is no agent to kill it.
            ("RuntimeMaxUSec", microseconds.saturating_add(60_000_000).into()),
        ]);
        self.start_transient(unit.name, properties).await
    }

    /// The unit reads `stdin` and ends at its end. A stop, as at a shutdown of the host, does not
    /// end it sooner. It is unloaded at its end; processes that it has started live on.
    pub async fn start_with_stdin(&self, unit: &NewUnit<'_>, stdin: OwnedFd) -> Result<(), SystemdError> {
        let mut properties = unit.properties();
        properties.extend([
            ("StandardInputFileDescriptor", Fd::from(stdin).into()),
            ("KillMode", "process".into()),
            ("KillSignal", rustix::process::Signal::CONT.as_raw().into()),
            // A little longer than that of the agent's own unit.
            ("TimeoutStopUSec", 100_000_000u64.into()),
            ("CollectMode", "inactive-or-failed".into()),
        ]);
        self.start_transient(unit.name, properties).await
    }

    async fn start_transient(&self, name: &str, properties: Properties<'_>) -> Result<(), SystemdError> {
        let auxiliary: Vec<(&str, Properties<'_>)> = Vec::new();
        let body = (name, "fail", properties, auxiliary);
        self.client.manager("StartTransientUnit", &body).await.map(|_| ())
    }

    /// Signals of changes of the unit `name`.
    pub async fn changes(&self, name: &str) -> Result<MessageStream, SystemdError> {
        self.client.signals(&object_path(name)).await
    }

    pub async fn state(&self, name: &str) -> Result<UnitState, SystemdError> {
        let path = object_path(name);
        let text = |property| self.client.property::<String>(&path, UNIT, property);
        let (active, sub) = (text("ActiveState").await?, text("SubState").await?);
        match (active.as_str(), sub.as_str()) {
            // Also a unit whose start is still queued. A unit that was stopped is unloaded.
            ("inactive", _) => Ok(match text("LoadState").await?.as_str() {
                "not-found" => UnitState::Gone,
                _ => UnitState::Running,
            }),
            ("failed", _) | ("active", "exited") => {
                let number = |property| self.client.property::<i32>(&path, SERVICE, property);
                let (code, status) = (number("ExecMainCode").await?, number("ExecMainStatus").await?);
                Ok(UnitState::Ended(match code {
                    EXITED => Exit::Code(status),
                    _ => Exit::Signal(status),
                }))
            }
            _ => Ok(UnitState::Running),
        }
    }

    /// Names of loaded units that begin with `prefix`.
    pub async fn loaded(&self, prefix: &str) -> Result<Vec<String>, SystemdError> {
        // Name, description, load state, active state, sub state, followed unit, path, and its job.
        type UnitRow = (
            String,
            String,
            String,
            String,
            String,
            String,
            OwnedObjectPath,
            u32,
            String,
            OwnedObjectPath,
        );
        let reply = self.client.ask(MANAGER_PATH, MANAGER, "ListUnits", &()).await?;
        let names = body_of::<Vec<UnitRow>>(&reply)?.into_iter().map(|unit| unit.0);
        Ok(names.filter(|name| name.starts_with(prefix)).collect())
    }

    /// Kills every process of the unit.
    pub async fn kill(&self, name: &str) -> Result<(), SystemdError> {
        let signal = rustix::process::Signal::KILL.as_raw();
        ignore_refusal(self.client.manager("KillUnit", &(name, "all", signal)).await)
    }

    /// Kills the remaining processes of an ended unit and unloads it.
    pub async fn remove(&self, name: &str) -> Result<(), SystemdError> {
        self.kill(name).await?;
        ignore_refusal(self.client.manager("StopUnit", &(name, "replace")).await)?;
        ignore_refusal(self.client.manager("ResetFailedUnit", &(name,)).await)
    }
}

/// systemd refuses if there is nothing left to do: no process, or the unit is no longer loaded.
fn ignore_refusal(answer: Result<Message, SystemdError>) -> Result<(), SystemdError> {
    match answer {
        Ok(_) | Err(SystemdError::Refused { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The error of a command that systemd runs.
pub(in crate::command) fn command_error(command: &str, error: SystemdError) -> CommandError {
    CommandError::Io {
        command: command.to_owned(),
        source: std::io::Error::other(error),
    }
}

/// Returns when something has changed; never, if the connection is lost.
pub(super) async fn next_change(changes: &mut MessageStream) {
    if !matches!(changes.next().await, Some(Ok(_))) {
        std::future::pending::<()>().await;
    }
}
