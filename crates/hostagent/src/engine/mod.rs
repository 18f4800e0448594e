//! What the parts of a convergence work with: the host, what is known of it, and the agent's own memory.

pub mod reconcile;
pub mod converge;
pub mod observe;
pub mod plan;
pub mod forecast;
pub mod stage;
pub mod journal;
pub mod undo;
pub mod apply;
pub mod bake;
pub mod rollback;
pub mod failure;

use std::sync::Arc;
use std::time::Duration;

use crate::engine::observe::{Freshness, Observed, Observer};
use crate::guard::Guard;
use crate::ledger::{Desired, Ledger};
use host::{Host, HostError};
use plan::Plan;

/// What converges: the host's facilities, and the agent's memory of what it did.
pub struct Engine {
    pub host: Host,
    pub observer: Observer,
    pub ledger: Arc<Ledger>,
    /// How long a change must hold before it counts as done; zero: not at all.
    pub bake_period: Duration,
    /// Crashes in one convergence after which it is rolled back.
    pub max_crashes: u32,
    /// `None`: nobody watches over an upgrade of the agent itself, since none is running.
    pub guard: Option<Guard>,
}

impl Engine {
    pub async fn observe(
        &self,
        desired: &Arc<Desired>,
        freshness: Freshness,
    ) -> Result<Arc<Observed>, HostError> {
        self.observer
            .observe(desired, &self.ledger.records(), freshness)
            .await
    }

    /// What there is to do; nothing, as long as nothing was ever desired.
    pub fn plan(&self, desired: &Desired, observed: &Observed) -> Plan {
        if !desired.stated {
            return Plan::default();
        }
        plan::plan(&desired.apps, observed, self.host.packages.family())
    }
}
