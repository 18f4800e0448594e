//! What the parts of one connection must know about its deliveries.

use std::sync::atomic::{AtomicBool, AtomicUsize};

use tokio::sync::Notify;

/// The consumer writes `proven` and `unsettled`; the publisher notifies `outgoing`.
#[derive(Default)]
pub(super) struct Activity {
    /// The consumer works: a message was delivered, or the consumer has lasted for one period.
    pub(super) proven: AtomicBool,
    /// Number of messages that were delivered and are neither acknowledged nor returned.
    pub(super) unsettled: AtomicUsize,
    /// Notified when a message is about to be published.
    pub(super) outgoing: Notify,
}
