//! The connection to systemd over the system bus.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use protocol::Category;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use zbus::wire::{DynamicType, OwnedObjectPath, Type, Variant};
use zbus::{Connection, MatchRule, Message, MessageStream};

use super::unit::is_running;
use super::view::{EndedJob, View};
use crate::HostError;

const SYSTEMD: &str = "org.freedesktop.systemd1";
pub(super) const MANAGER: &str = "org.freedesktop.systemd1.Manager";
pub(super) const UNIT: &str = "org.freedesktop.systemd1.Unit";
pub(super) const SERVICE: &str = "org.freedesktop.systemd1.Service";
pub(super) const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
pub(super) const MANAGER_PATH: &str = "/org/freedesktop/systemd1";

/// For connecting, and for calls that only ask or queue.
pub(super) const CALL_DEADLINE: Duration = Duration::from_secs(30);

/// Why a call has no answer.
#[derive(Debug)]
pub(super) enum CallError {
    /// systemd refused: name and text of its D-Bus error.
    Refused { name: String, text: String },
    /// systemd cannot be reached, or does not answer.
    Unreachable(String),
}

impl CallError {
    /// For the operator: `what` is what could not be done.
    pub(super) fn explain(self, what: &str) -> HostError {
        match self {
            Self::Refused { name, text } => {
                let (category, hint) = match name.rsplit('.').next().unwrap_or_default() {
                    "NoSuchUnit" | "FileNotFound" | "NoSuchFile" => (Category::NotFound, ""),
                    "UnitMasked" => (
                        Category::Script,
                        " Run `systemctl unmask` on it if it is to be used.",
                    ),
                    "AccessDenied" | "AuthFailed" | "InteractiveAuthorizationRequired" => {
                        (Category::Host, " The agent must run as root.")
                    }
                    _ => (Category::Script, ""),
                };
                let text = text.trim_end_matches('.');
                HostError::new(category, format!("cannot {what}: systemd says: {text}.{hint}"))
            }
            Self::Unreachable(why) => HostError::new(
                Category::Host,
                format!(
                    "cannot {what}: systemd is not to be reached over D-Bus: {why}. It is tried again; see \
                     `systemctl status dbus`, and install dbus if it is missing"
                ),
            ),
        }
    }
}

impl From<zbus::Error> for CallError {
    fn from(error: zbus::Error) -> Self {
        match error {
            zbus::Error::MethodError(name, text, _) => Self::Refused {
                name: name.to_string(),
                text: text.unwrap_or_default(),
            },
            // A bus without systemd on it, or a systemd that has gone away.
            zbus::Error::FDO(error) => match *error {
                zbus::fdo::Error::AccessDenied(text)
                | zbus::fdo::Error::AuthFailed(text)
                | zbus::fdo::Error::InteractiveAuthorizationRequired(text) => Self::Refused {
                    name: "AccessDenied".into(),
                    text,
                },
                zbus::fdo::Error::InvalidArgs(text) | zbus::fdo::Error::FileExists(text) => Self::Refused {
                    name: "InvalidArgs".into(),
                    text,
                },
                zbus::fdo::Error::FileNotFound(text) => Self::Refused {
                    name: "FileNotFound".into(),
                    text,
                },
                other => Self::Unreachable(other.to_string()),
            },
            other => Self::Unreachable(other.to_string()),
        }
    }
}

/// A connection with systemd's signals flowing into a [`View`]. Ends with its last clone.
#[derive(Clone)]
pub(super) struct Bus {
    connection: Connection,
    flushes: mpsc::UnboundedSender<oneshot::Sender<()>>,
    /// Ends the task that reads signals.
    _listener: Arc<AbortOnDrop>,
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Bus {
    pub(super) async fn connect(address: &str, view: Arc<View>) -> Result<Self, CallError> {
        let connecting = async {
            let connection = zbus::connection::Builder::address(address).build().await?;
            // One stream for all signals: they are seen in the order in which systemd sent them.
            let rule = MatchRule::builder()
                .msg_type(zbus::message::Type::Signal)
                .sender(SYSTEMD)
                .path_namespace(MANAGER_PATH)
                .build()?;
            let signals = MessageStream::for_match_rule(rule, &connection, None).await?;
            Ok::<_, zbus::Error>((connection, signals))
        };
        let (connection, signals) = tokio::time::timeout(CALL_DEADLINE, connecting)
            .await
            .map_err(|_| CallError::Unreachable(format!("{address} does not answer")))?
            .map_err(|error| CallError::Unreachable(format!("{address}: {error}")))?;
        let (flushes, flushed) = mpsc::unbounded_channel();
        let listener = tokio::spawn(listen(signals, flushed, view)).abort_handle();
        let bus = Self {
            connection,
            flushes,
            _listener: Arc::new(AbortOnDrop(listener)),
        };
        // Without a subscriber systemd sends no signals.
        bus.manager("Subscribe", &()).await?;
        Ok(bus)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    pub(super) async fn manager<B>(&self, method: &str, body: &B) -> Result<Message, CallError>
    where
        B: Serialize + DynamicType,
    {
        self.call(MANAGER_PATH, MANAGER, method, body, CALL_DEADLINE)
            .await
    }

    /// Returns when the signals of all that systemd has done until now are in the [`View`]: it sends them before it
    /// answers the next call, and the task that reads them has come to their end.
    pub(super) async fn settle(&self) {
        if self
            .property::<String>(MANAGER_PATH, MANAGER, "Version")
            .await
            .is_ok()
        {
            let (done, flushed) = oneshot::channel();
            let _ = self.flushes.send(done);
            // It is dropped unanswered where the connection was lost meanwhile: then there are no signals any more.
            let _ = flushed.await;
        }
    }

    pub(super) async fn call<B>(
        &self,
        path: &str,
        interface: &str,
        method: &str,
        body: &B,
        deadline: Duration,
    ) -> Result<Message, CallError>
    where
        B: Serialize + DynamicType,
    {
        let call = self
            .connection
            .call_method(Some(SYSTEMD), path, Some(interface), method, body);
        match tokio::time::timeout(deadline, call).await {
            Ok(reply) => Ok(reply?),
            Err(_) => Err(CallError::Unreachable(format!(
                "no answer to {method} within {deadline:?}"
            ))),
        }
    }

    pub(super) async fn property<T>(&self, path: &str, interface: &str, name: &str) -> Result<T, CallError>
    where
        T: for<'v> TryFrom<Variant<'v>>,
    {
        let reply = self
            .call(path, PROPERTIES, "Get", &(interface, name), CALL_DEADLINE)
            .await?;
        let body = reply.body();
        let value: Variant<'_> = body.deserialize()?;
        T::try_from(value).map_err(|_| CallError::Unreachable(format!("property {name} has another type")))
    }
}

/// Reads systemd's signals until the connection ends. Never waits for anything else: the connection reads
/// nothing more while signals pile up.
async fn listen(
    mut signals: MessageStream,
    mut flushes: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
    view: Arc<View>,
) {
    loop {
        // Biased: a flush is answered when no signal is waiting. Both arms only take from queues.
        tokio::select! {
            biased;
            signal = signals.next() => {
                let Some(Ok(signal)) = signal else { break };
                // A signal of another shape than expected is another systemd's: what is known may be wrong.
                if note(&signal, &view).is_none() {
                    view.unit_files_changed();
                }
            }
            Some(done) = flushes.recv() => {
                let _ = done.send(());
            }
        }
    }
    // Whoever waits for a flush need not any more.
    drop(flushes);
    view.disconnected();
}

fn note(signal: &Message, view: &View) -> Option<()> {
    let header = signal.header();
    let body = signal.body();
    match header.member()?.as_str() {
        "PropertiesChanged" => {
            let path = header.path()?;
            let (interface, changed): (&str, HashMap<&str, Variant<'_>>) =
                body.deserialize_ignore_signature().ok()?;
            if interface != UNIT {
                return Some(());
            }
            let text = |name| match changed.get(name) {
                Some(Variant::Str(text)) => Some(text.as_str()),
                _ => None,
            };
            let running = text("ActiveState").zip(text("SubState"));
            view.unit_changed(
                path.as_str(),
                running.map(|(active, sub)| is_running(active, sub)),
            );
        }
        "JobRemoved" => {
            let (_, job, unit, result): (u32, OwnedObjectPath, String, String) = body.deserialize().ok()?;
            let job = job.to_string();
            view.job_ended(&unit, EndedJob { job, result });
        }
        "UnitFilesChanged" => view.unit_files_changed(),
        // Twice: `true` before, `false` after.
        "Reloading" => match body.deserialize::<bool>().ok()? {
            true => {}
            false => view.unit_files_changed(),
        },
        // UnitNew, UnitRemoved: looking at a unit that is not loaded causes both. JobNew: it has only begun.
        _ => {}
    }
    Some(())
}

/// The body of a reply.
pub(super) fn read<T>(reply: &Message) -> Result<T, CallError>
where
    T: for<'d> serde::Deserialize<'d> + Type,
{
    Ok(reply.body().deserialize()?)
}
