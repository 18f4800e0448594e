//! Brings the host to its desired state, and keeps it there. The same way forward and back: observe the host, make a plan
//! (pure), carry out its first part, and again, until the plan is empty; then watch what was changed.
//!
//! Read in this order: [`progress`] (all that is known of one application), [`converge`] (the loop), [`target`] and [`plan`]
//! (what to do), [`packages`] and [`settle`] (doing it), [`bake`] (is it good?). The daemon ([`reconcile`]), `hostagent apply`
//! and the guard of the agent's own upgrade are its callers.

use std::sync::Arc;
use std::time::Duration;

use host::{Host, HostError};
use protocol::Apps;

pub mod failure;
pub mod snapshot;
pub mod progress;
pub mod stored;
pub mod book;
mod takeover;

pub mod reconcile;
pub mod report;
pub mod signals;
pub mod converge;
pub mod observe;
pub mod hold;
pub mod target;
pub mod plan;
pub mod forecast;
pub mod together;
pub mod retry;

pub mod packages;
pub mod stage;
pub mod undo;
pub mod settle;
pub mod bake;
pub mod flaps;

use crate::guard::Guard;
use crate::ledger::Ledger;
use observe::{Freshness, Observed, Observer};
use plan::{Plan, Targets};

/// What converges: the host's facilities, and the agent's memory of what it installed.
pub struct Engine {
    pub host: Host,
    pub observer: Observer,
    pub ledger: Arc<Ledger>,
    /// How long a change must hold before it counts as done; zero: not at all.
    pub bake_period: Duration,
    /// Crashes in one change after which it is rolled back.
    pub max_crashes: u32,
    /// `None`: nobody watches over an upgrade of the agent itself, since none is running.
    pub guard: Option<Guard>,
}

impl Engine {
    pub async fn observe(&self, desired: &Apps, freshness: Freshness) -> Result<Observed, HostError> {
        self.observer
            .observe(desired, &self.ledger.records(), freshness)
            .await
    }

    /// Every application that is desired, and those that are managed and therefore go.
    pub fn targets(&self, desired: &Apps, observed: &Observed) -> Targets {
        plan::desired_targets(desired, observed, self.host.packages.family())
    }

    /// What there is to do to reach `desired`.
    pub fn plan(&self, desired: &Apps, observed: &Observed) -> Plan {
        plan::plan(
            &self.targets(desired, observed),
            observed,
            self.host.packages.family(),
        )
    }
}
