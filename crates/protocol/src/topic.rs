//! The exchange, routing keys and queue names of the protocol.

use crate::name::HostId;
pub use crate::name::{MASTER, SLAVES};

/// The one exchange of the protocol.
pub const EXCHANGE: &str = "pf9-bbone";

/// The queue that an agent consumes, unless `[amqp] queue_name` names another.
pub fn agent_queue(host: &HostId) -> String {
    format!("bbslave-q-{host}")
}
