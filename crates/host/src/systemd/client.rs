//! A connection to systemd over the system bus.

use std::time::Duration;

use serde::Serialize;
use zbus::wire::{DynamicType, Type, Variant};
use zbus::{Connection, MatchRule, Message, MessageStream};

use super::SystemdError;
use crate::Root;

const SOCKET: &str = "/run/dbus/system_bus_socket";
const SYSTEMD: &str = "org.freedesktop.systemd1";
pub(crate) const MANAGER: &str = "org.freedesktop.systemd1.Manager";
pub(crate) const UNIT: &str = "org.freedesktop.systemd1.Unit";
pub(crate) const SERVICE: &str = "org.freedesktop.systemd1.Service";
pub(crate) const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// For a connection, and for calls that only ask or queue.
const CALL_DEADLINE: Duration = Duration::from_secs(30);

/// For calls that may be repeated. A call that reaches systemd while it reloads its units may never be answered.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(5);
const ATTEMPTS: u32 = 6;

/// Clones share the connection.
#[derive(Clone)]
pub(crate) struct SystemdClient {
    connection: Connection,
}

impl SystemdClient {
    pub async fn connect(root: &Root) -> Result<Self, SystemdError> {
        let address = format!("unix:path={}", root.join(SOCKET).display());
        let connecting = async { zbus::connection::Builder::address(&*address).build().await };
        let connection = tokio::time::timeout(CALL_DEADLINE, connecting)
            .await
            .map_err(|_| SystemdError::Unreachable(format!("no answer at {address}")))?
            .map_err(|error| SystemdError::Unreachable(format!("{address}: {error}")))?;
        Ok(Self { connection })
    }

    pub fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    /// The signals of `path` and of all objects below it, in the order in which systemd sends them.
    pub async fn signals(&self, path: &str) -> Result<MessageStream, SystemdError> {
        let subscribing = async {
            let rule = MatchRule::builder()
                .msg_type(zbus::message::Type::Signal)
                .sender(SYSTEMD)
                .path_namespace(path)
                .build()?;
            MessageStream::for_match_rule(rule, &self.connection, None).await
        };
        let signals = tokio::time::timeout(CALL_DEADLINE, subscribing)
            .await
            .map_err(|_| SystemdError::Unreachable("no answer to AddMatch".into()))??;
        self.subscribe().await?;
        Ok(signals)
    }

    /// Without a subscriber systemd sends no signals.
    async fn subscribe(&self) -> Result<(), SystemdError> {
        match self.ask(MANAGER_PATH, MANAGER, "Subscribe", &()).await {
            Ok(_) => Ok(()),
            // An earlier attempt, whose answer was lost.
            Err(error) if error.is_already_subscribed() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Calls a method that may be repeated, as one that only reads.
    pub async fn ask<B>(
        &self,
        path: &str,
        interface: &str,
        method: &str,
        body: &B,
    ) -> Result<Message, SystemdError>
    where
        B: Serialize + DynamicType,
    {
        for _ in 1..ATTEMPTS {
            match self.call(path, interface, method, body, ATTEMPT_DEADLINE).await {
                Err(SystemdError::Unreachable(_)) if !self.is_closed() => {}
                answer => return answer,
            }
        }
        self.call(path, interface, method, body, ATTEMPT_DEADLINE).await
    }

    /// Calls a method of systemd's manager.
    pub async fn manager<B>(&self, method: &str, body: &B) -> Result<Message, SystemdError>
    where
        B: Serialize + DynamicType,
    {
        self.call(MANAGER_PATH, MANAGER, method, body, CALL_DEADLINE)
            .await
    }

    pub async fn call<B>(
        &self,
        path: &str,
        interface: &str,
        method: &str,
        body: &B,
        deadline: Duration,
    ) -> Result<Message, SystemdError>
    where
        B: Serialize + DynamicType,
    {
        let call = self
            .connection
            .call_method(Some(SYSTEMD), path, Some(interface), method, body);
        match tokio::time::timeout(deadline, call).await {
            Ok(reply) => Ok(reply?),
            Err(_) => Err(SystemdError::Unreachable(format!(
                "no answer to {method} within {deadline:?}"
            ))),
        }
    }

    pub async fn property<T>(&self, path: &str, interface: &str, name: &str) -> Result<T, SystemdError>
    where
        T: for<'v> TryFrom<Variant<'v>>,
    {
        let reply = self.ask(path, PROPERTIES, "Get", &(interface, name)).await?;
        let body = reply.body();
        let value: Variant<'_> = body.deserialize()?;
        T::try_from(value)
            .map_err(|_| SystemdError::Unreachable(format!("property {name} has an unexpected type")))
    }
}

/// The body of a reply.
pub(crate) fn body_of<T>(reply: &Message) -> Result<T, SystemdError>
where
    T: for<'d> serde::Deserialize<'d> + Type,
{
    Ok(reply.body().deserialize()?)
}
