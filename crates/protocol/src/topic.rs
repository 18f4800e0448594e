//! Exchange, routing keys and queue names.

use crate::name::HostId;
pub use crate::name::{MASTER, SLAVES};

/// The one exchange of the protocol.
pub const EXCHANGE: &str = "pf9-bbone";

/// The queue an agent consumes, unless `[amqp] queue_name` says otherwise.
pub fn agent_queue(host: &HostId) -> String {
    format!("bbslave-q-{host}")
}
