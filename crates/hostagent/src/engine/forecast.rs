//! What applying a desired state would do, for whoever asks first: the plan, a hash to hold it to, and how
//! each step could be undone. Changes nothing.

use std::sync::Arc;

use protocol::plan::{PlanFault, PlanStep, Undo};
use protocol::{AppName, Apps, HostId, PlanAnswer};
use sha2::{Digest, Sha256};

use crate::engine::Engine;
use crate::engine::journal::WayBack;
use crate::engine::observe::{Freshness, Observed};
use crate::engine::plan::{Action, Plan, Step};
use crate::engine::undo;
use crate::ledger::{Desired, Records};
use host::{HostError, hex};

/// A plan, looked at from all sides.
#[derive(Debug)]
pub struct Forecast {
    pub plan: Plan,
    /// One for each step.
    pub undo: Vec<Undo>,
    /// Hex SHA-256 of the steps.
    hash: String,
}

/// Digits of the hash that are shown.
const SHOWN: usize = 12;

impl Forecast {
    /// What would be done for `apps` now.
    pub async fn of(engine: &Engine, apps: &Apps) -> Result<Self, HostError> {
        let desired = Arc::new(Desired {
            stated: true,
            apps: apps.clone(),
            ..Desired::default()
        });
        let observed = engine.observe(&desired, Freshness::Full).await?;
        let plan = engine.plan(&desired, &observed);
        let records = engine.ledger.records();
        let mut ways = Vec::new();
        for step in &plan.steps {
            ways.push(undo_of(engine, &observed, &records, step).await);
        }
        // A plan is made of strings, numbers and config values: this cannot fail.
        let bytes = serde_json::to_vec(&plan.steps).unwrap_or_default();
        Ok(Self {
            plan,
            undo: ways,
            hash: hex(&Sha256::digest(bytes)),
        })
    }

    pub fn hash(&self) -> &str {
        &self.hash[..SHOWN]
    }

    /// Whether `hash`, as somebody was told it, is that of this plan.
    pub fn is(&self, hash: &str) -> bool {
        hash.len() >= *protocol::inbound::PLAN_HASH_LEN.start() && self.hash.starts_with(hash)
    }

    /// As the answer to a `plan` message.
    pub fn answer(self, host_id: HostId, reply_to: Option<String>) -> PlanAnswer {
        let hash = self.hash().to_owned();
        let steps = self
            .plan
            .steps
            .iter()
            .zip(self.undo)
            .map(|(step, undo)| PlanStep {
                app: step.app.clone(),
                action: step.action.name().to_owned(),
                text: step.action.to_string(),
                undo,
            });
        let faults = self.plan.faults.iter().map(|fault| PlanFault {
            app: fault.app.clone(),
            phase: fault.phase,
            category: fault.category,
            message: fault.message.clone(),
        });
        PlanAnswer {
            host_id,
            reply_to,
            hash,
            steps: steps.collect(),
            faults: faults.collect(),
            error: None,
        }
    }
}

/// The answer to a `plan` message of a host that could not be looked at.
pub fn no_answer(host_id: HostId, reply_to: Option<String>, error: &HostError) -> PlanAnswer {
    PlanAnswer {
        host_id,
        reply_to,
        hash: String::new(),
        steps: Vec::new(),
        faults: Vec::new(),
        error: Some(error.to_string()),
    }
}

async fn undo_of(engine: &Engine, observed: &Observed, records: &Records, step: &Step) -> Undo {
    let possible = |how: &str| Undo {
        possible: true,
        how: how.to_owned(),
    };
    match &step.action {
        Action::Adopt { .. } => possible("nothing on the host changes"),
        Action::Install(install) if install.from.is_none() => possible("the package is removed again"),
        Action::Install(_) | Action::Remove { .. } => {
            let way = way_back(engine, observed, records, &step.app).await;
            Undo {
                possible: way.exists(),
                how: way.to_string(),
            }
        }
        Action::Configure { .. } if !observed.apps.contains_key(&step.app) => {
            possible("it goes with the package")
        }
        Action::Configure { .. } => possible("the previous config is kept in the journal"),
        Action::RunServices { .. } => possible("they go with the package"),
        Action::StopForRemoval { .. }
        | Action::Enable { .. }
        | Action::Disable { .. }
        | Action::Start { .. }
        | Action::Stop { .. } => possible("the service goes back to its previous state"),
    }
}

async fn way_back(engine: &Engine, observed: &Observed, records: &Records, app: &AppName) -> WayBack {
    match observed.apps.get(app) {
        Some(there) => undo::way_back(&engine.host, records, app, &there.package, &there.version).await,
        None => WayBack::NotNeeded,
    }
}
