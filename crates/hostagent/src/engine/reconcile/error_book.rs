//! What failed, how often, and what is therefore left alone until when.

use std::collections::{BTreeMap, BTreeSet};

use protocol::{AppName, Apps, ErrorReport, Phase};

use crate::engine::Engine;
use crate::engine::converge::together;
use crate::engine::failure::{Failure, Failures};
use crate::engine::observe::Observed;
use crate::host_state::Standing;
use crate::ledger::{Desired, Outcome};

/// What failed, how often, and what is therefore left alone until when.
#[derive(Debug, Default)]
pub struct ErrorBook {
    /// The desired state that the errors are about.
    apps: Option<Apps>,
    errors: BTreeMap<AppName, ErrorReport>,
    attempts: BTreeMap<AppName, u32>,
    /// The version that each was at when it failed; `None`: not installed.
    versions: BTreeMap<AppName, Option<String>>,
    host_attempts: u32,
    /// Transient failures are held too, until their retry is due.
    released: bool,
}

impl ErrorBook {
    /// A new desired state is a new chance for every application. True if it is new.
    pub fn take_up(&mut self, desired: &Desired, engine: &Engine) -> bool {
        if self.apps.as_ref() == Some(&desired.apps) {
            return false;
        }
        let first = self.apps.is_none();
        *self = Self {
            apps: Some(desired.apps.clone()),
            ..Self::default()
        };
        if first {
            // A failure that was held when the agent stopped is still held; a transient one is tried at once.
            let outcome = engine.ledger.outcome_for(&desired.apps).unwrap_or_else(|error| {
                tracing::warn!(%error, "the outcome of earlier attempts is not known");
                Outcome::default()
            });
            for error in outcome
                .errors
                .into_iter()
                .filter(|error| !error.category.is_transient())
            {
                if let Some(app) = error.app.clone() {
                    self.attempts.insert(app.clone(), error.attempt);
                    self.errors.insert(app, error);
                }
            }
        }
        true
    }

    pub fn held(&self) -> Failures {
        let held = self
            .errors
            .iter()
            .filter(|(_, error)| !(self.released && error.category.is_transient()));
        held.map(|(app, error)| {
            let failure = Failure {
                phase: error.phase,
                category: error.category,
                message: error.message.clone(),
                rolled_back: error.rolled_back,
            };
            (app.clone(), failure)
        })
        .collect()
    }

    pub fn release_transient(&mut self) {
        self.released = true;
    }

    /// Whether this attempt repeats one that failed transiently: the master has heard of it.
    pub fn is_retrying(&self) -> bool {
        self.released && self.errors.values().any(|error| error.category.is_transient())
    }

    /// The failures of an attempt that has ended. Those that were held before it keep their count.
    pub fn replace(&mut self, failures: Failures, next_retry: Option<String>) {
        let held = self.held();
        let before = std::mem::take(&mut self.errors);
        for (app, failure) in failures {
            let known = before.get(&app).filter(|_| held.contains_key(&app));
            let error = match known {
                Some(known) => known.clone(),
                None => {
                    let attempt = self.attempts.entry(app.clone()).or_insert(0);
                    *attempt += 1;
                    failure.report(Some(app.clone()), *attempt, None)
                }
            };
            let next_retry = if error.category.is_transient() {
                next_retry.clone()
            } else {
                None
            };
            self.errors.insert(app, ErrorReport { next_retry, ..error });
        }
        self.attempts.retain(|app, _| self.errors.contains_key(app));
        self.versions.retain(|app, _| held.contains_key(app));
        self.released = false;
        self.host_attempts = 0;
    }

    /// Takes down what those that have just failed were at: `after` the attempt where it changed their packages itself, else
    /// `before` it.
    pub fn note_versions(&mut self, before: &Observed, after: &Observed, changed: &BTreeSet<AppName>) {
        for app in self.errors.keys() {
            let seen = if changed.contains(app) { after } else { before };
            self.versions
                .entry(app.clone())
                .or_insert_with(|| version_of(app, seen));
        }
    }

    /// What failed is not what is there any more, once somebody else has put the package at another version, or away: it
    /// has another chance, with all that stand or fall with it. It may have failed because that was being done. True if there is
    /// any.
    pub fn release_overtaken(&mut self, observed: &Observed) -> bool {
        let mut overtaken = BTreeSet::new();
        for (app, error) in &self.errors {
            let now = version_of(app, observed);
            let then = self.versions.entry(app.clone()).or_insert_with(|| now.clone());
            if *then != now && !error.category.is_transient() {
                tracing::info!(%app, "what failed was changed by somebody else; it is tried again");
                overtaken.insert(app.clone());
            }
        }
        let apps = self.apps.clone().unwrap_or_default();
        let tied: Vec<AppName> = overtaken
            .iter()
            .flat_map(|app| together::with(&apps, app))
            .collect();
        let any = !overtaken.is_empty();
        overtaken.extend(tied);
        self.errors.retain(|app, _| !overtaken.contains(app));
        self.attempts.retain(|app, _| !overtaken.contains(app));
        self.versions.retain(|app, _| !overtaken.contains(app));
        any
    }

    /// An application that failed, and is as desired all the same by now, has no error any more.
    pub fn forget_settled(&mut self, desired: &Desired, observed: &Observed, engine: &Engine) {
        if self.errors.is_empty() {
            return;
        }
        let plan = engine.plan(desired, observed);
        let count = self.errors.len();
        self.errors.retain(|app, _| {
            plan.steps.iter().any(|step| step.app == *app)
                || plan.faults.iter().any(|fault| fault.app == *app)
        });
        if self.errors.len() != count {
            self.persist(desired, engine);
        }
    }

    /// Applications whose rollback did not go through: what undo needs must be kept.
    pub fn not_brought_back(&self) -> Vec<AppName> {
        let failed = self
            .errors
            .iter()
            .filter(|(_, error)| error.phase == Phase::Rollback);
        failed.map(|(app, _)| app.clone()).collect()
    }

    pub fn forget_all(&mut self) {
        self.errors.clear();
        self.attempts.clear();
        self.versions.clear();
    }

    pub fn next_host_attempt(&mut self) -> u32 {
        self.host_attempts += 1;
        self.host_attempts
    }

    pub fn reports(&self) -> Vec<ErrorReport> {
        self.errors.values().cloned().collect()
    }

    pub fn standing(&self) -> Standing {
        if self.errors.is_empty() {
            Standing::Ok
        } else {
            Standing::Errors(self.reports())
        }
    }

    pub fn persist(&self, desired: &Desired, engine: &Engine) {
        let outcome = Outcome {
            apps: desired.apps.clone(),
            errors: self.reports(),
        };
        if let Err(error) = engine.ledger.store_outcome(&outcome) {
            tracing::warn!(%error, "the outcome could not be kept; after a restart it is tried again");
        }
    }
}

fn version_of(app: &AppName, observed: &Observed) -> Option<String> {
    observed.apps.get(app).map(|there| there.version.clone())
}
