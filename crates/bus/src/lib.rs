//! The way of bytes between a host and its master.
//!
//! One [`Link`], two ends: [`amqp`] (RabbitMQ, AMQP 0-9-1) and [`local`] (in-process, the same
//! direct-exchange routing, for the demo and tests). One supervisor task owns the connection; whatever
//! goes wrong with it, it drops the connection, waits ([`backoff`]) and rebuilds everything. What it
//! consumes, and how, is a [`Queue`]: an agent's own, or the master's shared one.

pub mod amqp;
pub mod backoff;
pub mod local;
mod log;
mod queue;
pub mod slack;

pub use log::levels_of_lapin;
pub use queue::Queue;

use std::collections::BTreeSet;

use tokio::sync::{mpsc, oneshot, watch};

/// One side's use of the bus.
///
/// Its parts may be moved apart into tasks. Dropping `deliveries` ends the supervisor: it sends the
/// acknowledgements given so far, closes the connection and drops the other end of `state`, so that
/// whoever waits for [`watch::Receiver::changed`] to fail knows that all is flushed.
pub struct Link {
    /// Messages in, in the queue's order; sent by the supervisor. Closed only when the supervisor ends.
    pub deliveries: mpsc::Receiver<Delivery>,
    /// Messages out.
    pub publisher: Publisher,
    /// The routing keys to be bound beyond the fixed ones; the supervisor binds and unbinds to match, now
    /// and after each reconnect.
    pub topics: watch::Sender<BTreeSet<String>>,
    /// How the connection is; changed by the supervisor.
    pub state: watch::Receiver<LinkState>,
}

/// One message, to be acknowledged when it is safe. Dropped without [`Delivery::ack`], it is requeued.
pub struct Delivery {
    pub routing_key: String,
    pub body: Vec<u8>,
    /// The publisher's AMQP `user_id`, which RabbitMQ has validated.
    pub user_id: Option<String>,
    pub redelivered: bool,
    acker: Option<oneshot::Sender<()>>,
}

impl Delivery {
    /// For ends of the bus, and tests: `acker` is told when the message is acknowledged.
    pub fn new(routing_key: String, body: Vec<u8>, acker: oneshot::Sender<()>) -> Self {
        Self {
            routing_key,
            body,
            user_id: None,
            redelivered: false,
            acker: Some(acker),
        }
    }

    /// The same, said to come from this (validated) AMQP user.
    pub fn from_user(mut self, user_id: Option<String>) -> Self {
        self.user_id = user_id;
        self
    }

    /// The same, said to have been delivered before.
    pub fn redelivered(mut self, redelivered: bool) -> Self {
        self.redelivered = redelivered;
        self
    }

    /// The message is safe here: the broker may forget it. After a reconnect this has no effect, and the
    /// broker delivers again.
    pub fn ack(mut self) {
        if let Some(acker) = self.acker.take() {
            let _ = acker.send(());
        }
    }
}

/// Sends messages through the supervisor's channel. Cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    outbox: mpsc::Sender<Outgoing>,
}

/// A message on its way out; `done` is told how it went.
pub struct Outgoing {
    pub routing_key: String,
    pub body: Vec<u8>,
    pub done: oneshot::Sender<Result<(), PublishError>>,
}

impl Publisher {
    pub fn new(outbox: mpsc::Sender<Outgoing>) -> Self {
        Self { outbox }
    }

    /// Publishes and waits until the broker has confirmed and routed the message.
    ///
    /// Fails at once with [`PublishError::Disconnected`] while there is no connection. While the broker
    /// blocks publishers (`connection.blocked`: it is short of memory or disk) this stays pending, so a
    /// caller whose newer message replaces an older one should have one call under way and hold the rest.
    pub async fn publish(&self, routing_key: &str, body: Vec<u8>) -> Result<(), PublishError> {
        let (done, confirmed) = oneshot::channel();
        let outgoing = Outgoing {
            routing_key: routing_key.to_owned(),
            body,
            done,
        };
        self.outbox
            .send(outgoing)
            .await
            .map_err(|_| PublishError::Disconnected)?;
        confirmed.await.unwrap_or(Err(PublishError::Disconnected))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The broker has no queue bound for this key (a `mandatory` message came back).
    #[error("no queue is bound for this routing key")]
    Unroutable,
    #[error("the broker refused the message")]
    Refused,
    #[error("not connected to the broker")]
    Disconnected,
}

/// How the connection is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// Not (yet, or any more) consuming; `reason` is empty before the first try.
    Down { reason: String },
    /// Consuming. `epoch` counts connections from 1, so that a reconnect between two looks is seen.
    Up { epoch: u64 },
    /// Consuming, as [`Self::Up`], but another agent has said that it wants this queue as well and is refused: it has
    /// our host id.
    Contested { epoch: u64, reason: String },
    /// Another consumer has held this queue for longer than a dead connection of our own could. Nothing
    /// is delivered, but publishing works, so that it can be reported; the queue is tried again and again.
    Clone { reason: String },
}

impl LinkState {
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Up { .. } | Self::Contested { .. })
    }
}
