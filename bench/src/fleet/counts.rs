//! Counts of a fleet, over all its hosts.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        #[derive(Debug, Default)]
        pub struct Counts {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        /// The counts at one time.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
        pub struct Snapshot {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counts {
            pub fn snapshot(&self) -> Snapshot {
                Snapshot { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counts! {
    /// Statuses that the broker has confirmed.
    statuses,
    /// Statuses for which no queue was bound.
    unroutable,
    /// Statuses in flight when the connection was lost; sent again after the reconnect.
    interrupted,
    pings,
    set_configs,
    /// Changes that ended in `ok`.
    converged,
    /// Changes that ended in `errors`.
    failed,
    /// Restarts of agents.
    restarts,
    /// Messages that cannot be decoded.
    invalid,
}

pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
