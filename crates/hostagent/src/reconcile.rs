//! The one loop that changes the host. It wakes on a new desired state, on drift and on a retry that is
//! due, and always does the same: one attempt to converge.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bus::backoff::Backoff;
use protocol::{AppName, Apps, ErrorReport};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::apply::{Failure, Failures};
use crate::converge::{End, Engine, Interrupts};
use crate::host_state::{Board, Standing};
use crate::ledger::{Desired, Outcome};
use crate::observe::{Freshness, Observed};

/// Base and longest delay between two attempts after a transient failure.
const RETRY_BASE: Duration = Duration::from_secs(5);
const RETRY_CAP: Duration = Duration::from_secs(300);

pub struct Reconciler {
    engine: Arc<Engine>,
    board: Board,
    interrupts: Interrupts,
    /// Somebody saw, or suspects, drift.
    wake: Arc<Notify>,
    errors: ErrorBook,
    /// The newest accepted message that has had its final answer.
    answered: u64,
    retry: Option<Retry>,
    backoff: Backoff,
}

#[derive(Debug, Clone, Copy)]
struct Retry {
    at: Instant,
}

impl Reconciler {
    pub fn new(engine: Arc<Engine>, board: Board, interrupts: Interrupts, wake: Arc<Notify>) -> Self {
        Self {
            engine,
            board,
            interrupts,
            wake,
            errors: ErrorBook::default(),
            answered: 0,
            retry: None,
            backoff: Backoff::new(RETRY_BASE, RETRY_CAP),
        }
    }

    /// Until told to stop. The first attempt is made at once, broker or not.
    pub async fn run(mut self) {
        loop {
            let desired = self.interrupts.desired.borrow_and_update().clone();
            match self.attempt(&desired).await {
                Next::Again => continue,
                Next::Stop => return,
                Next::Wait => {}
            }
            if !self.wait().await {
                return;
            }
        }
    }

    /// False: told to stop.
    async fn wait(&mut self) -> bool {
        let retry_at = self.retry.map(|retry| retry.at);
        let retry_due = async {
            match retry_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        // Each arm only waits; whatever wakes us, the host is looked at anew.
        tokio::select! {
            changed = self.interrupts.desired.changed() => changed.is_ok(),
            changed = self.interrupts.stop.changed() => changed.is_ok() && !*self.interrupts.stop.borrow(),
            () = self.wake.notified() => true,
            () = retry_due => { self.errors.release_transient(); true }
        }
    }

    async fn attempt(&mut self, desired: &Arc<Desired>) -> Next {
        if self.errors.take_up(desired, &self.engine) {
            self.retry = None;
            self.backoff.reset();
        }
        let reply_to = if desired.serial == self.answered {
            None
        } else {
            desired.id.clone()
        };
        let observed = match self.engine.observe(desired, Freshness::Light).await {
            Ok(observed) => observed,
            Err(error) => {
                return self.stuck(desired, Failure::new(protocol::Phase::Observe, error), reply_to);
            }
        };
        let held = self.errors.held();
        let mut plan = self.engine.plan(desired, &observed);
        plan.steps.retain(|step| !held.contains_key(&step.app));
        plan.faults.retain(|fault| !held.contains_key(&fault.app));
        if plan.is_empty() {
            self.settle_answer(desired, &observed, reply_to);
            return Next::Wait;
        }
        if !matches!(self.board.standing(), Standing::Converging { .. }) || reply_to.is_some() {
            tracing::info!(steps = plan.steps.len(), "converging");
        }
        self.board.note(
            desired,
            Some(&observed),
            Standing::Converging {
                detail: "about to begin".into(),
            },
        );
        if !self.errors.is_retrying() {
            self.board.announce(reply_to.clone());
        }
        match self
            .engine
            .converge(desired, &held, &mut self.interrupts, &self.board)
            .await
        {
            End::Finished(failures) => self.finished(desired, failures, reply_to).await,
            End::Superseded => Next::Again,
            End::Stopped => Next::Stop,
            End::Stuck(failure) => self.stuck(desired, failure, reply_to),
        }
    }

    /// Nothing to do: reported if someone waits for an answer, or if the host stood otherwise before.
    fn settle_answer(&mut self, desired: &Arc<Desired>, observed: &Arc<Observed>, reply_to: Option<String>) {
        self.errors.forget_settled(desired, observed, &self.engine);
        let standing = self.errors.standing();
        let changed = standing != self.board.standing();
        let asked = desired.serial != self.answered;
        self.answered = desired.serial;
        self.board.note(desired, Some(observed), standing);
        if changed || asked {
            self.board.announce(reply_to);
        }
    }

    async fn finished(
        &mut self,
        desired: &Arc<Desired>,
        failures: Failures,
        reply_to: Option<String>,
    ) -> Next {
        let transient = failures.values().any(|failure| failure.category.is_transient());
        self.schedule_retry(transient);
        self.errors.replace(failures, self.retry_time());
        self.errors.persist(desired, &self.engine);
        let observed = match self.engine.observe(desired, Freshness::Light).await {
            Ok(observed) => observed,
            Err(error) => {
                return self.stuck(desired, Failure::new(protocol::Phase::Observe, error), reply_to);
            }
        };
        if let Standing::Ok = self.errors.standing() {
            tracing::info!("converged");
        }
        self.answered = desired.serial;
        self.board.note(desired, Some(&observed), self.errors.standing());
        self.board.announce(reply_to);
        Next::Wait
    }

    fn stuck(&mut self, desired: &Arc<Desired>, failure: Failure, reply_to: Option<String>) -> Next {
        tracing::error!(phase = ?failure.phase, "{}", failure.message);
        self.schedule_retry(true);
        let report = report(None, &failure, self.errors.next_host_attempt(), self.retry_time());
        let mut errors = self.errors.reports();
        errors.insert(0, report);
        self.answered = desired.serial;
        self.board.note(desired, None, Standing::Errors(errors));
        self.board.announce(reply_to);
        Next::Wait
    }

    fn schedule_retry(&mut self, transient: bool) {
        if transient {
            self.retry = Some(Retry {
                at: Instant::now() + self.backoff.next_delay(),
            });
        } else {
            self.retry = None;
            self.backoff.reset();
        }
    }

    /// Wall-clock time of the retry, for the status.
    fn retry_time(&self) -> Option<String> {
        let delay = self.retry?.at.saturating_duration_since(Instant::now());
        Some(humantime::format_rfc3339_micros(SystemTime::now() + delay).to_string())
    }
}

enum Next {
    Wait,
    Again,
    Stop,
}

/// What failed, how often, and what is therefore left alone until when.
#[derive(Debug, Default)]
struct ErrorBook {
    /// The desired state that the errors are about.
    apps: Option<Apps>,
    errors: BTreeMap<AppName, ErrorReport>,
    attempts: BTreeMap<AppName, u32>,
    host_attempts: u32,
    /// Transient failures are held too, until their retry is due.
    released: bool,
}

impl ErrorBook {
    /// A new desired state is a new chance for every application. True if it is new.
    fn take_up(&mut self, desired: &Desired, engine: &Engine) -> bool {
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

    fn held(&self) -> Failures {
        let held = self
            .errors
            .iter()
            .filter(|(_, error)| !(self.released && error.category.is_transient()));
        held.map(|(app, error)| {
            let failure = Failure {
                phase: error.phase,
                category: error.category,
                message: error.message.clone(),
            };
            (app.clone(), failure)
        })
        .collect()
    }

    fn release_transient(&mut self) {
        self.released = true;
    }

    /// Whether this attempt repeats one that failed transiently: the master has heard of it.
    fn is_retrying(&self) -> bool {
        self.released && self.errors.values().any(|error| error.category.is_transient())
    }

    /// The failures of an attempt that has ended. Those that were held before it keep their count.
    fn replace(&mut self, failures: Failures, next_retry: Option<String>) {
        let held = self.held();
        let before = std::mem::take(&mut self.errors);
        for (app, failure) in failures {
            let known = before.get(&app).filter(|_| held.contains_key(&app));
            let error = match known {
                Some(known) => known.clone(),
                None => {
                    let attempt = self.attempts.entry(app.clone()).or_insert(0);
                    *attempt += 1;
                    report(Some(app.clone()), &failure, *attempt, None)
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
        self.released = false;
        self.host_attempts = 0;
    }

    /// An application that failed, and is as desired all the same by now, has no error any more.
    fn forget_settled(&mut self, desired: &Desired, observed: &Observed, engine: &Engine) {
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

    fn next_host_attempt(&mut self) -> u32 {
        self.host_attempts += 1;
        self.host_attempts
    }

    fn reports(&self) -> Vec<ErrorReport> {
        self.errors.values().cloned().collect()
    }

    fn standing(&self) -> Standing {
        if self.errors.is_empty() {
            Standing::Ok
        } else {
            Standing::Errors(self.reports())
        }
    }

    fn persist(&self, desired: &Desired, engine: &Engine) {
        let outcome = Outcome {
            apps: desired.apps.clone(),
            errors: self.reports(),
        };
        if let Err(error) = engine.ledger.store_outcome(&outcome) {
            tracing::warn!(%error, "the outcome could not be kept; after a restart it is tried again");
        }
    }
}

fn report(app: Option<AppName>, failure: &Failure, attempt: u32, next_retry: Option<String>) -> ErrorReport {
    ErrorReport {
        app,
        phase: failure.phase,
        category: failure.category,
        message: failure.message.clone(),
        attempt,
        next_retry,
        rolled_back: false,
    }
}
