//! What applying a desired state would do, for whoever asks first: the plan, a hash to hold it to, and how
//! each step could be undone. Changes nothing.

use host::{HostError, hex};
use protocol::plan::{PlanFault, PlanStep, Undo};
use protocol::{AppName, Apps, HostId, PlanAnswer};
use sha2::{Digest, Sha256};

use super::Engine;
use super::observe::{Freshness, Observed};
use super::plan::{Fault, ShownAction, ShownStep, shown};
use super::signals::PlanQuestion;
use super::snapshot::UndoSource;
use super::undo;
use crate::ledger::Records;

/// A plan as it is shown, with how each step could be undone.
#[derive(Debug)]
pub struct Forecast {
    pub steps: Vec<ShownStep>,
    pub faults: Vec<Fault>,
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
        let observed = engine.observe(apps, Freshness::Full).await?;
        let plan = engine.plan(apps, &observed);
        let records = engine.ledger.records();
        let steps = shown(&plan);
        let mut undo = Vec::new();
        for step in &steps {
            undo.push(undo_of(engine, &observed, &records, step).await);
        }
        // A plan is made of strings, numbers and config values: this cannot fail.
        let bytes = serde_json::to_vec(&steps).unwrap_or_default();
        Ok(Self {
            steps,
            faults: plan.faults,
            undo,
            hash: hex(&Sha256::digest(bytes)),
        })
    }

    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.faults.is_empty()
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
            .steps
            .into_iter()
            .zip(self.undo)
            .map(|(step, undo)| PlanStep {
                app: step.app,
                action: step.action.name().to_owned(),
                text: step.text,
                undo,
            });
        let faults = self.faults.into_iter().map(|fault| PlanFault {
            app: fault.app,
            phase: fault.phase,
            category: fault.category,
            message: fault.message,
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

/// Answers whoever wants to hold a change to the plan that was shown. Changes nothing.
pub async fn answer(engine: &Engine, question: PlanQuestion) {
    let PlanQuestion { apps, hash, answer } = question;
    let verdict = match Forecast::of(engine, &apps).await {
        Ok(forecast) if forecast.is(&hash) => Ok(()),
        Ok(forecast) => Err(format!(
            "$.only_if_plan: the plan is {} by now, not {hash}: the host has changed since it was made. Nothing was done; \
             ask for the plan again",
            forecast.hash()
        )),
        Err(error) => Err(format!(
            "$.only_if_plan: cannot make a plan: {error}. Nothing was done"
        )),
    };
    // Whoever asked may have ended.
    let _ = answer.send(verdict);
}

async fn undo_of(engine: &Engine, observed: &Observed, records: &Records, step: &ShownStep) -> Undo {
    let possible = |how: &str| Undo {
        possible: true,
        how: how.to_owned(),
    };
    match &step.action {
        ShownAction::Adopt { .. } => possible("nothing on the host changes"),
        ShownAction::Install(install) if install.from.is_none() => possible("the package is removed again"),
        ShownAction::Install(_) | ShownAction::Remove { .. } => {
            let source = undo_source(engine, observed, records, &step.app).await;
            Undo {
                possible: source.exists(),
                how: source.to_string(),
            }
        }
        ShownAction::Configure { .. } if !observed.apps.contains_key(&step.app) => {
            possible("it goes with the package")
        }
        ShownAction::Configure { .. } | ShownAction::RestoreFile { .. } => {
            possible("the previous config is kept by the agent")
        }
        ShownAction::RunServices { .. } => possible("they go with the package"),
        ShownAction::StopForRemoval { .. }
        | ShownAction::Enable { .. }
        | ShownAction::Disable { .. }
        | ShownAction::Start { .. }
        | ShownAction::Stop { .. }
        | ShownAction::Restart { .. } => possible("the service goes back to its previous state"),
    }
}

async fn undo_source(engine: &Engine, observed: &Observed, records: &Records, app: &AppName) -> UndoSource {
    match observed.apps.get(app) {
        Some(there) => undo::undo_source(&engine.host, records, app, &there.package, &there.version).await,
        None => UndoSource::NotNeeded,
    }
}
