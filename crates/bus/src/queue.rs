//! What a link consumes, and how.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::{HostId, topic};

/// A queue on the exchange `pf9-bbone`. It is declared as said here, or, where it exists already with
/// other arguments or may not be declared, used as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    pub name: String,
    /// Routing keys that are always bound; [`Link::topics`](crate::Link::topics) come on top.
    pub topics: BTreeSet<String>,
    /// Refuse to share the queue: a second consumer is a clone of this host.
    pub exclusive_consumer: bool,
    /// The broker deletes the queue when it has had no consumer for so long.
    pub expires: Option<Duration>,
    pub durable: bool,
    /// How many messages may be unacknowledged at a time; at least 1. Above 1, messages go on coming in
    /// while the broker is short of memory and takes no acknowledgements.
    pub prefetch: u16,
    /// A routing key that leads to this queue and to no other. The link sends itself an empty message
    /// over it from time to time (never delivered to the caller): only so does it notice that it has gone
    /// deaf because someone deleted the exchange and someone else made it anew, without our bindings.
    /// `None` (a shared queue): all bindings are made again from time to time instead.
    pub probe: Option<String>,
    /// How long an acknowledgement may wait for a message that goes out, to travel with it: what is acknowledged is
    /// answered as a rule, and who waits for the answer should not wait for the acknowledgement's own way first.
    pub ack_patience: Duration,
}

impl Queue {
    /// An agent's: its own (`name` where the operator chose one), exclusive, gone after a day without it.
    pub fn of_agent(host: &HostId, name: Option<String>) -> Self {
        Self {
            name: name.unwrap_or_else(|| topic::agent_queue(host)),
            topics: [topic::SLAVES, host.as_str()].map(str::to_owned).into(),
            exclusive_consumer: true,
            expires: Some(Duration::from_secs(24 * 60 * 60)),
            durable: true,
            prefetch: 16,
            probe: Some(host.as_str().to_owned()),
            ack_patience: Duration::from_millis(5),
        }
    }

    /// A master's: durable and shared with other masters, so that statuses wait for it and are divided.
    pub fn of_master(name: impl Into<String>, prefetch: u16) -> Self {
        Self {
            name: name.into(),
            topics: [topic::MASTER.to_owned()].into(),
            exclusive_consumer: false,
            expires: None,
            durable: true,
            prefetch,
            probe: None,
            ack_patience: Duration::ZERO,
        }
    }
}
