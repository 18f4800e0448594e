//! Why a live connection was given up.

use std::future::Future;
use std::time::Duration;

use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::{Connection, ErrorKind};
use tokio::time::timeout;

/// Each of these ends the connection; the supervisor builds a new one.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{doing}: {source}")]
    Amqp {
        doing: &'static str,
        source: lapin::Error,
    },
    #[error("{doing}: no answer")]
    Unanswered { doing: &'static str },
    #[error(
        "exchange {exchange:?} does not exist, and this user may not declare it: declare it, or grant the permission to configure it"
    )]
    NoExchange { exchange: &'static str },
    #[error(
        "queue {queue:?} does not exist, and this user may not declare it: declare it, or grant the permission to configure it"
    )]
    NoQueue { queue: String },
    #[error("consumer cancelled by the broker: queue {queue:?} was deleted")]
    Cancelled { queue: String },
    #[error("connection closed")]
    Closed,
    #[error("the broker has been silent for nearly two heartbeats")]
    Silent,
    #[error("messages to this queue no longer reach it: its bindings are gone")]
    Unbound,
    #[error(
        "the broker has not confirmed what was published for {seconds} s: does the master's queue stand still?"
    )]
    Unconfirmed { seconds: u64 },
    #[error("consuming, but nothing is delivered")]
    Deaf,
    #[error("this user may not publish the probe")]
    ProbeRefused,
}

impl Failure {
    pub(super) fn amqp(doing: &'static str) -> impl FnOnce(lapin::Error) -> Self {
        move |source| Self::Amqp { doing, source }
    }
}

/// The code of an error that closed a channel, not the connection.
pub(super) fn channel_error(error: &lapin::Error) -> Option<&AMQPSoftError> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => match error.kind() {
            AMQPErrorKind::Soft(soft) => Some(soft),
            AMQPErrorKind::Hard(_) => None,
        },
        _ => None,
    }
}

/// Waits for the broker's answer for `patience`; for as long as it takes while the broker blocks
/// publishers, since lapin then holds back all that it would send.
pub(super) async fn answered<T>(
    connection: &Connection,
    patience: Duration,
    doing: &'static str,
    call: impl Future<Output = lapin::Result<T>>,
) -> Result<lapin::Result<T>, Failure> {
    let mut call = std::pin::pin!(call);
    loop {
        match timeout(patience, &mut call).await {
            Ok(answer) => return Ok(answer),
            Err(_) if connection.status().blocked() => {}
            Err(_) => return Err(Failure::Unanswered { doing }),
        }
    }
}
