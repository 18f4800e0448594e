//! The one loop that changes the host. It wakes on a new desired state, on drift, on a retry that is due and on a
//! broker that is reached again while one waits, and always does the same: one attempt to converge.

mod error_book;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bus::LinkState;
use bus::backoff::Backoff;
use protocol::Phase;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::alarm;
use crate::engine::Engine;
use crate::engine::converge::{self, End, Interrupts};
use crate::engine::failure::{Failure, Failures};
use crate::engine::journal::JournalFile;
use crate::engine::observe::{Freshness, Observed};
use crate::host_state::{Board, Standing};
use crate::ledger::Desired;
use host::EarlierRuns;

use error_book::ErrorBook;

/// Base and longest delay between two attempts after a transient failure.
const RETRY_BASE: Duration = Duration::from_secs(5);
const RETRY_CAP: Duration = Duration::from_secs(300);

pub struct Reconciler {
    engine: Arc<Engine>,
    board: Board,
    journal: JournalFile,
    interrupts: Interrupts,
    /// Somebody saw, or suspects, drift.
    wake: Arc<Notify>,
    /// The operator says that what is held is worth another try.
    second_chance: Arc<Notify>,
    /// How many of the messages that ask for the same have been heard.
    retries: u64,
    errors: ErrorBook,
    /// The newest accepted message that has had its final answer.
    answered: Option<u64>,
    retry: Option<Retry>,
    backoff: Backoff,
    connection: Connection,
}

#[derive(Debug, Clone, Copy)]
struct Retry {
    at: Instant,
}

impl Reconciler {
    pub fn new(
        engine: Arc<Engine>,
        board: Board,
        journal: JournalFile,
        interrupts: Interrupts,
        wake: Arc<Notify>,
        second_chance: Arc<Notify>,
        link: watch::Receiver<LinkState>,
    ) -> Self {
        Self {
            engine,
            board,
            journal,
            interrupts,
            wake,
            second_chance,
            retries: 0,
            errors: ErrorBook::default(),
            // Whether the stored message had its final answer before the agent last ended, nobody knows: it gets
            // one (again).
            answered: None,
            retry: None,
            backoff: Backoff::new(RETRY_BASE, RETRY_CAP),
            connection: Connection::new(link),
        }
    }

    /// Until told to stop. The first attempt is made at once, broker or not.
    pub async fn run(mut self) {
        let mut stop = self.interrupts.stop.clone();
        let desired = self.interrupts.desired.borrow().clone();
        let detail =
            "waiting for the package manager that an earlier run of the agent has started".to_owned();
        self.board.note(&desired, None, Standing::Converging { detail });
        let earlier = tokio::select! {
            earlier = earlier_runs_end(&self.engine) => earlier,
            _ = stop.wait_for(|stop| *stop) => {
                if let Err(error) = self.journal.note_stop() {
                    tracing::warn!(%error, "this stop will count as a crash");
                }
                return;
            }
        };
        self.take_up(earlier).await;
        loop {
            let desired = self.interrupts.desired.borrow_and_update().clone();
            // From here on another one is news.
            self.connection.is_new();
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

    /// On an rpm host what was in a transaction when the agent ended only looks installed, and is installed again; not so
    /// where it is known to have come to its end: an upgrade of the agent would else be followed by another, for ever.
    async fn take_up(&mut self, earlier: EarlierRuns) {
        let packages = &self.engine.host.packages;
        if earlier == EarlierRuns::Succeeded
            && self.journal.get().is_some()
            && let Ok(installed) = packages.installed().await
            && let Err(error) = self.journal.trust_transaction(&installed)
        {
            tracing::warn!(%error, "what an earlier agent has installed is installed again");
        }
        if let Err(error) = packages.forget_earlier_runs().await {
            tracing::debug!(%error, "units of an earlier agent stay loaded");
        }
    }

    /// False: told to stop.
    async fn wait(&mut self) -> bool {
        let retry_at = self.retry.map(|retry| retry.at);
        // Each arm only waits; whatever wakes us, the host is looked at anew.
        tokio::select! {
            changed = self.interrupts.desired.changed() => changed.is_ok(),
            changed = self.interrupts.stop.changed() => changed.is_ok() && !*self.interrupts.stop.borrow(),
            () = self.wake.notified() => true,
            () = self.second_chance.notified() => { self.give_second_chance(); true }
            () = alarm::reached(retry_at) => { self.errors.release_transient(); true }
            // What keeps us from the broker keeps us from packages, too, as a rule; and tries have moved apart by now.
            () = self.connection.is_made(), if retry_at.is_some() => { self.errors.release_transient(); true }
        }
    }

    fn give_second_chance(&mut self) {
        tracing::info!("the operator asks for another try of all that failed");
        self.errors.forget_all();
        self.backoff.reset();
        if let Err(error) = self.journal.pardon() {
            tracing::warn!(%error, "what was being rolled back is still being rolled back");
        }
    }

    async fn attempt(&mut self, desired: &Arc<Desired>) -> Next {
        if self.errors.take_up(desired, &self.engine) {
            self.retry = None;
            self.backoff.reset();
        }
        if desired.retries != self.retries {
            self.retries = desired.retries;
            self.give_second_chance();
        }
        let reply_to = if self.answered == Some(desired.serial) {
            None
        } else {
            desired.id.clone()
        };
        let observed = match self.engine.observe(desired, Freshness::Light).await {
            Ok(observed) => observed,
            Err(error) => {
                return self.stuck(desired, Failure::new(Phase::Observe, error), reply_to);
            }
        };
        if self.errors.release_overtaken(&observed) {
            self.errors.persist(desired, &self.engine);
        }
        let held = self.errors.held();
        let mut plan = self.engine.plan(desired, &observed);
        plan.steps.retain(|step| !held.contains_key(&step.app));
        plan.faults.retain(|fault| !held.contains_key(&fault.app));
        // What could not be brought back is held with its entry in the journal, and waits with it.
        let unfinished = self
            .journal
            .get()
            .is_some_and(|journal| journal.entries.keys().any(|app| !held.contains_key(app)));
        if plan.is_empty() && !unfinished {
            self.settle_answer(desired, &observed, reply_to);
            self.close_journal();
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
        match converge::converge(
            &self.engine,
            desired,
            &held,
            &mut self.journal,
            &mut self.interrupts,
            &self.board,
        )
        .await
        {
            End::Finished(failures) => self.finished(desired, &observed, failures, reply_to).await,
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
        let asked = self.answered != Some(desired.serial);
        self.answered = Some(desired.serial);
        self.board.note(desired, Some(observed), standing);
        if changed || asked {
            self.announce(desired, reply_to);
        }
    }

    async fn finished(
        &mut self,
        desired: &Arc<Desired>,
        before: &Observed,
        failures: Failures,
        reply_to: Option<String>,
    ) -> Next {
        let changed = self.journal.changed_packages();
        let transient = failures.values().any(|failure| failure.category.is_transient());
        self.schedule_retry(transient);
        self.errors.replace(failures, self.retry_time());
        self.errors.persist(desired, &self.engine);
        self.close_journal();
        let observed = match self.engine.observe(desired, Freshness::Light).await {
            Ok(observed) => observed,
            Err(error) => {
                return self.stuck(desired, Failure::new(Phase::Observe, error), reply_to);
            }
        };
        self.errors.note_versions(before, &observed, &changed);
        if self.errors.release_overtaken(&observed) {
            self.errors.persist(desired, &self.engine);
            return Next::Again;
        }
        if let Standing::Ok = self.errors.standing() {
            tracing::info!("converged");
        }
        self.answered = Some(desired.serial);
        self.board.note(desired, Some(&observed), self.errors.standing());
        self.announce(desired, reply_to);
        Next::Wait
    }

    /// How the host stands with what was desired before the newest message is no news any more: it would look
    /// as if the newest was reached. Whoever waits for an older one hears of the newest.
    fn announce(&self, desired: &Desired, reply_to: Option<String>) {
        if self.interrupts.desired.borrow().same_state(desired) {
            self.board.announce(reply_to);
        }
    }

    fn close_journal(&mut self) {
        if let Err(error) = self.journal.close_but_for(&self.errors.not_brought_back()) {
            tracing::warn!(%error, "the journal could not be closed; it is gone through again");
        }
    }

    fn stuck(&mut self, desired: &Arc<Desired>, failure: Failure, reply_to: Option<String>) -> Next {
        tracing::error!(phase = %failure.phase, "{}", failure.message);
        self.schedule_retry(true);
        let report = failure.report(None, self.errors.next_host_attempt(), self.retry_time());
        let mut errors = self.errors.reports();
        errors.insert(0, report);
        self.answered = Some(desired.serial);
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

/// To the broker, as far as it says something of the network.
struct Connection {
    link: watch::Receiver<LinkState>,
    /// Of the one that there was when the last attempt began.
    epoch: u64,
}

impl Connection {
    fn new(link: watch::Receiver<LinkState>) -> Self {
        Self { link, epoch: 0 }
    }

    /// Whether it is another one than was noted last; notes it.
    fn is_new(&mut self) -> bool {
        match &*self.link.borrow_and_update() {
            LinkState::Up { epoch } | LinkState::Contested { epoch, .. } => {
                std::mem::replace(&mut self.epoch, *epoch) != *epoch
            }
            LinkState::Down { .. } | LinkState::Clone { .. } => false,
        }
    }

    /// Returns when there is another one than was noted last. Cancel-safe.
    async fn is_made(&mut self) {
        while !self.is_new() {
            if self.link.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

/// A package manager that an earlier agent has started may still be at work: what is looked at before its end is not what
/// will be.
async fn earlier_runs_end(engine: &Engine) -> EarlierRuns {
    engine.host.packages.earlier_runs_end().await.unwrap_or_else(|error| {
        tracing::warn!(%error, "whether an earlier agent's package manager is still at work is not known");
        EarlierRuns::Failed
    })
}

enum Next {
    Wait,
    Again,
    Stop,
}
