//! What is asked of systemd over D-Bus for transient units
//! (<https://www.freedesktop.org/software/systemd/man/org.freedesktop.systemd1.html>).

use std::os::fd::OwnedFd;
use std::time::Duration;

use futures_util::StreamExt;
use serde::Serialize;
use zbus::wire::{DynamicType, Fd, OwnedObjectPath, Variant};
use zbus::{Connection, MatchRule, Message, MessageStream};

use super::log::Logs;
use crate::command::{CommandError, Exit};
use crate::services::systemd::object_path;

const ADDRESS: &str = "unix:path=/run/dbus/system_bus_socket";
const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const SERVICE: &str = "org.freedesktop.systemd1.Service";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const CALL_DEADLINE: Duration = Duration::from_secs(30);

/// `si_code` of a child that has exited (waitid(2)); others were ended by a signal.
const EXITED: i32 = 1;

/// What an older systemd says of a property that it does not know, or of a method.
const UNSUPPORTED: [&str; 5] = [
    "org.freedesktop.DBus.Error.InvalidArgs",
    "org.freedesktop.DBus.Error.NotSupported",
    "org.freedesktop.DBus.Error.PropertyReadOnly",
    "org.freedesktop.DBus.Error.UnknownMethod",
    "org.freedesktop.DBus.Error.UnknownProperty",
];

#[derive(Debug, thiserror::Error)]
pub(in crate::command) enum ManagerError {
    #[error("systemd says: {0}")]
    Refused(String),
    #[error("systemd does not know how: {0}")]
    Unsupported(String),
    #[error("systemd is not to be reached over D-Bus: {0}")]
    Unreachable(String),
}

impl ManagerError {
    pub fn about(self, command: &str) -> CommandError {
        CommandError::Io {
            command: command.to_owned(),
            source: std::io::Error::other(self),
        }
    }
}

impl From<zbus::Error> for ManagerError {
    fn from(error: zbus::Error) -> Self {
        match error {
            zbus::Error::MethodError(name, text, _) => {
                let says = format!("{name}: {}", text.unwrap_or_default());
                match UNSUPPORTED.contains(&name.as_str()) {
                    true => Self::Unsupported(says),
                    false => Self::Refused(says),
                }
            }
            other => Self::Unreachable(other.to_string()),
        }
    }
}

/// A unit to be.
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
pub(in crate::command) enum State {
    Running,
    Ended(Exit),
    /// Not loaded any more.
    Gone,
}

/// A connection of its own: it lives for one run of a child.
pub(in crate::command) struct Manager {
    connection: Connection,
}

impl Manager {
    pub async fn connect() -> Result<Self, ManagerError> {
        let connecting = async { zbus::connection::Builder::address(ADDRESS).build().await };
        match tokio::time::timeout(CALL_DEADLINE, connecting).await {
            Ok(connected) => Ok(Self {
                connection: connected?,
            }),
            Err(_) => Err(ManagerError::Unreachable(format!("{ADDRESS} does not answer"))),
        }
    }

    /// Stays loaded after its end. `deadline`: when the host shuts down, it may take so long to come to its end.
    pub(super) async fn start(
        &self,
        unit: &NewUnit<'_>,
        deadline: Duration,
        logs: &Logs,
    ) -> Result<(), ManagerError> {
        let [stdout, stderr] = logs
            .open()
            .map_err(|error| ManagerError::Unreachable(format!("its output has no place: {error}")))?;
        let microseconds = u64::try_from(deadline.as_micros()).unwrap_or(u64::MAX);
        let file = |file: std::fs::File| Variant::from(Fd::from(OwnedFd::from(file)));
        let mut properties = unit.properties();
        properties.extend([
            ("RemainAfterExit", true.into()),
            ("StandardOutputFileDescriptor", file(stdout)),
            ("StandardErrorFileDescriptor", file(stderr)),
            // Told to stop, as at a shutdown of the host, it comes to its end undisturbed. What must end at once is
            // killed.
            ("KillSignal", rustix::process::Signal::CONT.as_raw().into()),
            ("TimeoutStopUSec", microseconds.into()),
            // Should there be no agent to kill it.
            ("RuntimeMaxUSec", microseconds.saturating_add(60_000_000).into()),
        ]);
        self.start_transient(unit.name, properties).await
    }

    /// Its stdin is `stdin`, at whose end it ends: told to stop, as at a shutdown of the host, it goes on until then. Is
    /// forgotten at its end; what its process has started lives on.
    pub async fn start_fed(&self, unit: &NewUnit<'_>, stdin: OwnedFd) -> Result<(), ManagerError> {
        let mut properties = unit.properties();
        properties.extend([
            ("StandardInputFileDescriptor", Fd::from(stdin).into()),
            ("KillMode", "process".into()),
            ("KillSignal", rustix::process::Signal::CONT.as_raw().into()),
            // The agent's own, and a little more.
            ("TimeoutStopUSec", 100_000_000u64.into()),
            ("CollectMode", "inactive-or-failed".into()),
        ]);
        self.start_transient(unit.name, properties).await
    }

    async fn start_transient(&self, name: &str, properties: Properties<'_>) -> Result<(), ManagerError> {
        let auxiliary: Vec<(&str, Properties<'_>)> = Vec::new();
        let body = (name, "fail", properties, auxiliary);
        self.manager("StartTransientUnit", &body).await.map(|_| ())
    }

    /// Signals that tell of changes of the unit `name`.
    pub async fn changes(&self, name: &str) -> Result<MessageStream, ManagerError> {
        let rule = MatchRule::builder()
            .msg_type(zbus::message::Type::Signal)
            .path(object_path(name))
            .build()?;
        let stream = MessageStream::for_match_rule(rule, &self.connection, None).await?;
        // Without a subscriber systemd sends none.
        self.manager("Subscribe", &()).await?;
        Ok(stream)
    }

    pub async fn state(&self, name: &str) -> Result<State, ManagerError> {
        let path = object_path(name);
        let active: String = self.property(&path, UNIT, "ActiveState").await?;
        let sub: String = self.property(&path, UNIT, "SubState").await?;
        match (active.as_str(), sub.as_str()) {
            // Inactive is also one whose start is still queued. A unit that was stopped is forgotten.
            ("inactive", _) => {
                let load: String = self.property(&path, UNIT, "LoadState").await?;
                Ok(match load.as_str() {
                    "not-found" => State::Gone,
                    _ => State::Running,
                })
            }
            ("failed", _) | ("active", "exited") => {
                let code: i32 = self.property(&path, SERVICE, "ExecMainCode").await?;
                let status: i32 = self.property(&path, SERVICE, "ExecMainStatus").await?;
                Ok(State::Ended(match code {
                    EXITED => Exit::Code(status),
                    _ => Exit::Signal(status),
                }))
            }
            _ => Ok(State::Running),
        }
    }

    /// Names of loaded units that begin with `prefix`.
    pub async fn loaded(&self, prefix: &str) -> Result<Vec<String>, ManagerError> {
        // Name, description, load state, active state, sub state, followed unit, path, and its job.
        type Listed = (
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
        let reply = self.manager("ListUnits", &()).await?;
        let units: Vec<Listed> = reply.body().deserialize()?;
        let names = units.into_iter().map(|unit| unit.0);
        Ok(names.filter(|name| name.starts_with(prefix)).collect())
    }

    /// Kills every process of the unit.
    pub async fn kill(&self, name: &str) -> Result<(), ManagerError> {
        let signal = rustix::process::Signal::KILL.as_raw();
        forgiving(self.manager("KillUnit", &(name, "all", signal)).await)
    }

    /// Ends what is left of an ended unit, and lets systemd forget it.
    pub async fn put_away(&self, name: &str) -> Result<(), ManagerError> {
        self.kill(name).await?;
        forgiving(self.manager("StopUnit", &(name, "replace")).await)?;
        forgiving(self.manager("ResetFailedUnit", &(name,)).await)
    }

    async fn manager<B>(&self, method: &str, body: &B) -> Result<Message, ManagerError>
    where
        B: Serialize + DynamicType,
    {
        self.call(MANAGER_PATH, MANAGER, method, body).await
    }

    async fn property<T>(&self, path: &str, interface: &str, name: &str) -> Result<T, ManagerError>
    where
        T: for<'v> TryFrom<Variant<'v>>,
    {
        let reply = self.call(path, PROPERTIES, "Get", &(interface, name)).await?;
        let body = reply.body();
        let value: Variant<'_> = body.deserialize()?;
        T::try_from(value).map_err(|_| ManagerError::Unreachable(format!("property {name} has another type")))
    }

    async fn call<B>(
        &self,
        path: &str,
        interface: &str,
        method: &str,
        body: &B,
    ) -> Result<Message, ManagerError>
    where
        B: Serialize + DynamicType,
    {
        let call = self
            .connection
            .call_method(Some(SYSTEMD), path, Some(interface), method, body);
        match tokio::time::timeout(CALL_DEADLINE, call).await {
            Ok(reply) => Ok(reply?),
            Err(_) => Err(ManagerError::Unreachable(format!("no answer to {method}"))),
        }
    }
}

/// systemd refuses these where nothing is left to do: no process, no such unit any more.
fn forgiving(answer: Result<Message, ManagerError>) -> Result<(), ManagerError> {
    match answer {
        Ok(_) | Err(ManagerError::Refused(_) | ManagerError::Unsupported(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Returns when something has changed; never, when the connection is lost.
pub(super) async fn next(changes: &mut MessageStream) {
    if !matches!(changes.next().await, Some(Ok(_))) {
        std::future::pending::<()>().await;
    }
}
