//! The queue that a link consumes.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::{HostId, topic};

/// A queue on the exchange `pf9-bbone`. It is declared with these properties. If it already exists
/// with others, or this user may not declare it, it is used as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    pub name: String,
    /// Routing keys that are always bound, in addition to [`Link::topics`](crate::Link::topics).
    pub topics: BTreeSet<String>,
    /// Do not share the queue. A second consumer means a duplicate host id.
    pub exclusive_consumer: bool,
    /// The broker deletes the queue when it has had no consumer for this long.
    pub expires: Option<Duration>,
    pub durable: bool,
    /// Largest number of unacknowledged messages, at least 1. Above 1, messages still arrive while
    /// the broker is short of memory and accepts no acknowledgements.
    pub prefetch: u16,
    /// A routing key that leads only to this queue. The link sends itself an empty message with it
    /// at intervals (never delivered to the caller). This is the only way to notice that the
    /// exchange was deleted and declared again by others, without our bindings. `None` (a shared
    /// queue): all bindings are made again at intervals instead.
    pub probe: Option<String>,
    /// Longest time that an acknowledgement waits for an outgoing message, to be sent together with
    /// it. Most messages are answered, and the answer should not be delayed by a separate
    /// acknowledgement.
    pub ack_patience: Duration,
}

impl Queue {
    /// The queue of an agent (with the operator's `name`, if any): exclusive, deleted after one day
    /// without a consumer.
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

    /// The queue of masters: durable, so that statuses are kept while no master runs, and shared,
    /// so that several masters divide them.
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
