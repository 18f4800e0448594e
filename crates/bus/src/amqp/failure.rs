//! Why an open connection was ended.

use std::future::Future;
use std::time::Duration;

use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::{Connection, ErrorKind};
use tokio::time::timeout;

/// Each of these ends the connection. The supervisor then opens a new one.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{doing}: {source}")]
    Amqp {
        doing: &'static str,
        source: lapin::Error,
    },
    #[error("{doing}: the broker did not answer")]
    Unanswered { doing: &'static str },
    #[error(
        "exchange {exchange:?} does not exist and this user has no permission to declare it: declare it, \
         or grant the configure permission"
    )]
    NoExchange { exchange: &'static str },
    #[error(
        "queue {queue:?} does not exist and this user has no permission to declare it: declare it, or \
         grant the configure permission"
    )]
    NoQueue { queue: String },
    #[error("the broker cancelled the consumer: queue {queue:?} was deleted")]
    Cancelled { queue: String },
    #[error("connection closed")]
    Closed,
    #[error("no data from the broker for nearly two heartbeats")]
    Silent,
    #[error("the queue's bindings are missing, so messages no longer reach it")]
    Unbound,
    #[error(
        "no publisher confirm from the broker for {seconds} s; check whether the master's queue is blocked"
    )]
    Unconfirmed { seconds: u64 },
    #[error("consuming, but a test message to this queue was not delivered")]
    NotDelivered,
    #[error("this user has no permission to publish test messages to its own queue")]
    ProbeRefused,
}

impl Failure {
    pub(super) fn amqp(doing: &'static str) -> impl FnOnce(lapin::Error) -> Self {
        move |source| Self::Amqp { doing, source }
    }
}

/// The code of an error that closed only a channel, not the connection.
pub(super) fn channel_error(error: &lapin::Error) -> Option<&AMQPSoftError> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => match error.kind() {
            AMQPErrorKind::Soft(soft) => Some(soft),
            AMQPErrorKind::Hard(_) => None,
        },
        _ => None,
    }
}

/// Waits for the broker's answer for up to `limit`. While the broker blocks publishers there is no
/// limit, because lapin then sends nothing.
pub(super) async fn answered<T>(
    connection: &Connection,
    limit: Duration,
    doing: &'static str,
    call: impl Future<Output = lapin::Result<T>>,
) -> Result<lapin::Result<T>, Failure> {
    let mut call = std::pin::pin!(call);
    loop {
        match timeout(limit, &mut call).await {
            Ok(answer) => return Ok(answer),
            Err(_) if connection.status().blocked() => {}
            Err(_) => return Err(Failure::Unanswered { doing }),
        }
    }
}
