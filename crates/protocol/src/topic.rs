//! Exchange, routing keys and queue names.

use crate::name::HostId;

/// The one exchange of the protocol.
pub const EXCHANGE: &str = "pf9-bbone";
/// Routing key that reaches every agent.
pub const SLAVES: &str = "slaves";
/// Routing key that reaches the master.
pub const MASTER: &str = "master";

/// The queue an agent consumes, unless `[amqp] queue_name` says otherwise.
pub fn agent_queue(host: &HostId) -> String {
    format!("bbslave-q-{host}")
}
