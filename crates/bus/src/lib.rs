//! Messages between hosts and masters.
//!
//! A [`Link`] is one program's connection to the bus. There are two implementations: [`amqp`]
//! (RabbitMQ, AMQP 0-9-1) and [`local`] (in this process, with the same routing, for the demo and
//! tests). One supervisor task owns the connection. After any failure it drops the connection,
//! waits and connects again.
//!
//! | module | job |
//! |---|---|
//! | `queue` | what a link consumes: an agent's own queue, or the shared queue of masters |
//! | [`backoff`] | delays between attempts to connect |
//! | [`amqp`] | links to RabbitMQ |
//! | [`local`] | a broker in this process |
//! | [`slack`] | timers with fewer wake-ups |
//! | `log` | log levels of the AMQP library |

mod queue;
pub mod backoff;
pub mod amqp;
pub mod local;
pub mod slack;
mod log;

pub use log::levels_of_lapin;
pub use queue::Queue;

use std::collections::BTreeSet;

use tokio::sync::{mpsc, oneshot, watch};

/// One program's connection to the bus.
///
/// Its parts may be moved to different tasks. Dropping `deliveries` ends the supervisor: it sends
/// the acknowledgements given so far, closes the connection and drops its end of `state`. So when
/// [`watch::Receiver::changed`] fails, everything has been sent.
pub struct Link {
    /// Received messages, in the order of the queue. Closed only when the supervisor ends.
    pub deliveries: mpsc::Receiver<Delivery>,
    /// Sends messages.
    pub publisher: Publisher,
    /// Routing keys to bind in addition to the fixed ones. The supervisor binds and unbinds to
    /// match them, also after each reconnect.
    pub topics: watch::Sender<BTreeSet<String>>,
    /// The state of the connection, changed by the supervisor.
    pub state: watch::Receiver<LinkState>,
}

/// One received message, to be acknowledged when it has been processed or stored. A message that is
/// dropped without [`Delivery::ack`] is requeued.
pub struct Delivery {
    pub routing_key: String,
    pub body: Vec<u8>,
    /// The publisher's AMQP `user_id`, which RabbitMQ has validated.
    pub user_id: Option<String>,
    pub redelivered: bool,
    acker: Option<oneshot::Sender<()>>,
}

impl Delivery {
    /// For implementations of the bus, and for tests. `acker` receives a value when the message is
    /// acknowledged.
    pub fn new(routing_key: String, body: Vec<u8>, acker: oneshot::Sender<()>) -> Self {
        Self {
            routing_key,
            body,
            user_id: None,
            redelivered: false,
            acker: Some(acker),
        }
    }

    /// Sets the (validated) AMQP user that sent it.
    pub fn from_user(mut self, user_id: Option<String>) -> Self {
        self.user_id = user_id;
        self
    }

    /// Sets whether it was delivered before.
    pub fn redelivered(mut self, redelivered: bool) -> Self {
        self.redelivered = redelivered;
        self
    }

    /// Tells the broker that it may delete the message. After a reconnect this has no effect: the
    /// broker delivers the message again.
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

/// An outgoing message. `done` receives the result.
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
    /// Fails at once with [`PublishError::Disconnected`] while there is no connection. While the
    /// broker blocks publishers (`connection.blocked`: it is short of memory or disk) this stays
    /// pending. If a newer message replaces an older one, the caller should have only one call in
    /// progress.
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
    /// The broker has no queue bound for this key (it returned a `mandatory` message).
    #[error("no queue is bound for this routing key")]
    Unroutable,
    #[error("the broker refused the message")]
    Refused,
    #[error("not connected to the broker")]
    Disconnected,
}

/// The state of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// Not consuming. `reason` is empty before the first attempt.
    Down { reason: String },
    /// Consuming. `epoch` counts connections from 1, so that every reconnect changes the state.
    Up { epoch: u64 },
    /// Consuming, as [`Self::Up`]. But another agent has reported that it cannot consume this
    /// queue: it has the same host id.
    Contested { epoch: u64, reason: String },
    /// Duplicate host id: another consumer has had this queue for longer than a dead connection of
    /// this agent could. Nothing is delivered. Publishing works, so that this can be reported.
    /// Consuming is retried.
    Clone { reason: String },
}

impl LinkState {
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Up { .. } | Self::Contested { .. })
    }
}
