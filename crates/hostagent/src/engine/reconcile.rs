//! The daemon's loop: the only task that changes the host. It wakes on a new desired state, on drift, on a retry that is due
//! and on a broker that is reached again while one waits, and always does the same: one attempt to converge.

use std::sync::Arc;
use std::time::SystemTime;

use bus::LinkState;
use host::EarlierRuns;
use protocol::ErrorReport;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::Engine;
use super::bake::Bakes;
use super::book::ProgressBook;
use super::converge::{Convergence, End, Finished};
use super::failure::Failure;
use super::flaps::Flaps;
use super::forecast;
use super::progress::Event;
use super::report::error_reports;
use super::retry::retry_delay;
use super::signals::{Signal, Signals};
use crate::alarm;
use crate::host_state::{Board, Standing};
use crate::ledger::Desired;

pub struct Reconciler {
    engine: Arc<Engine>,
    board: Board,
    book: ProgressBook,
    bakes: Bakes,
    flaps: Flaps,
    signals: Signals,
    /// The operator requests a retry of what failed.
    retry_asked: Arc<Notify>,
    /// How many of the messages that ask for the same have been taken up.
    retries: u64,
    /// When the last turn of the last attempt began.
    seen: Instant,
    /// What the last attempt was for.
    last: Option<Arc<Desired>>,
    /// The newest accepted message that has had its final answer.
    answered: Option<u64>,
    /// The host could not be observed, or the agent's state not be written.
    blocked: Option<Blocked>,
    connection: Connection,
}

struct Blocked {
    failure: Failure,
    attempts: u32,
    retry_at: Instant,
}

enum Next {
    Wait,
    Again,
    Stop,
}

impl Reconciler {
    pub fn new(
        engine: Arc<Engine>,
        board: Board,
        book: ProgressBook,
        signals: Signals,
        retry_asked: Arc<Notify>,
        link: watch::Receiver<LinkState>,
    ) -> Self {
        Self {
            engine,
            board,
            book,
            bakes: Bakes::default(),
            flaps: Flaps::default(),
            signals,
            retry_asked,
            retries: 0,
            seen: Instant::now(),
            last: None,
            // Nobody knows whether the stored message had its final answer before the agent last ended: it gets one (again).
            answered: None,
            blocked: None,
            connection: Connection::new(link),
        }
    }

    /// Until told to stop. The first attempt is made at once, broker or not.
    pub async fn run(mut self) {
        let mut stop = self.signals.stop.clone();
        let desired = self.signals.desired.borrow().clone();
        let detail =
            "waiting for the package manager that an earlier run of the agent has started".to_owned();
        self.board.note(&desired, None, Standing::Converging { detail });
        let earlier = tokio::select! {
            earlier = earlier_runs_end(&self.engine) => earlier,
            _ = stop.wait_for(|stop| *stop) => {
                if let Err(error) = self.book.note_stop() {
                    tracing::warn!("cannot store that the agent was stopped; the next start counts this as a crash: {error}");
                }
                return;
            }
        };
        self.take_up(earlier).await;
        loop {
            let desired = self.signals.desired.borrow_and_update().clone();
            // From here on another one is news.
            self.connection.is_new();
            match self.attempt(&desired).await {
                Next::Again => continue,
                Next::Stop => return,
                Next::Wait => {}
            }
            if !self.wait(&desired).await {
                // Something may be in progress that could not go on.
                if let Err(error) = self.book.note_stop() {
                    tracing::warn!(
                        "cannot store that the agent was stopped; the next start counts this as a crash: {error}"
                    );
                }
                return;
            }
        }
    }

    /// On an rpm host what was in a transaction when the agent ended only looks installed, and is installed again; not so
    /// where it is known to have ended: an upgrade of the agent would otherwise be followed by another, for ever.
    async fn take_up(&mut self, earlier: EarlierRuns) {
        let packages = &self.engine.host.packages;
        if earlier == EarlierRuns::Succeeded
            && let Ok(installed) = packages.installed().await
        {
            self.book.trust_transactions(&installed);
        }
        if let Err(error) = packages.forget_earlier_runs().await {
            tracing::debug!(%error, "units of an earlier agent stay loaded");
        }
    }

    /// False: told to stop.
    async fn wait(&mut self, desired: &Arc<Desired>) -> bool {
        let retry_at = self.next_retry();
        // Each arm only waits; whatever wakes us, the host is observed anew.
        tokio::select! {
            signal = self.signals.next_of_any(desired) => match signal {
                Signal::Interrupt(super::signals::Interrupt::Stopped) => return false,
                Signal::Interrupt(super::signals::Interrupt::Superseded) | Signal::Wake => {}
                Signal::Question(question) => {
                    let mut stop = self.signals.stop.clone();
                    // A forecast only looks: it can be dropped.
                    tokio::select! {
                        () = forecast::answer(&self.engine, question) => {}
                        _ = stop.wait_for(|stop| *stop) => return false,
                    }
                }
            },
            () = self.retry_asked.notified() => self.release_all(),
            () = alarm::reached(retry_at) => {}
            // What keeps us from the broker keeps us from packages, too, as a rule.
            () = self.connection.is_made(), if retry_at.is_some() => self.retry_now(),
        }
        true
    }

    fn next_retry(&self) -> Option<Instant> {
        let blocked = self.blocked.as_ref().map(|blocked| blocked.retry_at);
        let flaps = self.flaps.next_change(Instant::now());
        self.book
            .next_retry(self.seen)
            .into_iter()
            .chain(blocked)
            .chain(flaps)
            .min()
    }

    fn release_all(&mut self) {
        tracing::info!("retrying what failed: the operator requested it");
        self.blocked = None;
        self.book.release_all();
    }

    fn retry_now(&mut self) {
        self.book.tell_all(&Event::RetryDue);
    }

    async fn attempt(&mut self, desired: &Arc<Desired>) -> Next {
        if desired.retries != self.retries {
            self.retries = desired.retries;
            self.release_all();
        }
        // What is desired now may be the way out for all that failed.
        if self.last.as_ref().is_some_and(|last| !last.same_state(desired)) {
            self.retry_now();
        }
        self.last = Some(desired.clone());
        let reply_to = match self.answered == Some(desired.serial) {
            true => None,
            false => desired.id.clone(),
        };
        let attempt = Convergence::new(
            &self.engine,
            desired,
            &mut self.book,
            &mut self.bakes,
            &mut self.flaps,
            &self.board,
            reply_to.clone(),
        );
        match attempt.run(&mut self.signals).await {
            End::Finished(finished) => self.finished(desired, finished, reply_to),
            End::Superseded => return Next::Again,
            End::Stopped => return Next::Stop,
            End::Blocked(failure) => self.blocked(desired, failure, reply_to),
        }
        Next::Wait
    }

    /// Reported where something was done, where somebody waits for an answer, or where the host stood otherwise before.
    fn finished(&mut self, desired: &Arc<Desired>, finished: Finished, reply_to: Option<String>) {
        self.blocked = None;
        self.seen = finished.turn_at;
        let errors = match desired.stated {
            true => error_reports(self.book.apps(), &finished.faults, rfc3339_of),
            // Nothing is desired, so nothing is wrong.
            false => Vec::new(),
        };
        let standing = match errors.is_empty() {
            true => Standing::Ok,
            false => Standing::Errors(errors),
        };
        if finished.worked && standing == Standing::Ok {
            tracing::info!("converged");
        }
        let changed = standing != self.board.standing();
        let asked = self.answered != Some(desired.serial);
        self.answered = Some(desired.serial);
        self.board.note(desired, Some(&finished.observed), standing);
        if finished.worked || changed || asked {
            self.announce(desired, reply_to);
        }
    }

    fn blocked(&mut self, desired: &Arc<Desired>, failure: Failure, reply_to: Option<String>) {
        tracing::error!(phase = %failure.phase, "{}", failure.message);
        // Everything is tried again then.
        self.seen = Instant::now();
        let attempts = self.blocked.take().map_or(1, |blocked| blocked.attempts + 1);
        let blocked = Blocked {
            retry_at: Instant::now() + retry_delay(attempts),
            attempts,
            failure,
        };
        let report = ErrorReport {
            next_retry: Some(rfc3339_of(blocked.retry_at)),
            ..blocked.failure.report(None, attempts)
        };
        self.blocked = Some(blocked);
        let mut errors = error_reports(self.book.apps(), &Default::default(), rfc3339_of);
        errors.insert(0, report);
        self.answered = Some(desired.serial);
        self.board.note(desired, None, Standing::Errors(errors));
        self.board.announce(reply_to);
    }

    /// Only the newest desired state is reported: a status of an older one would look as if the newest was reached. Whoever
    /// waits for an older one gets the status of the newest.
    fn announce(&self, desired: &Desired, reply_to: Option<String>) {
        if self.signals.desired.borrow().same_state(desired) {
            self.board.announce(reply_to);
        }
    }
}

/// Wall-clock time, for the status.
fn rfc3339_of(at: Instant) -> String {
    let delay = at.saturating_duration_since(Instant::now());
    humantime::format_rfc3339_micros(SystemTime::now() + delay).to_string()
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

/// A package manager that an earlier agent has started may still be running: what is observed before its end is not what
/// will be.
async fn earlier_runs_end(engine: &Engine) -> EarlierRuns {
    engine
        .host
        .packages
        .earlier_runs_end()
        .await
        .unwrap_or_else(|error| {
            tracing::warn!("cannot tell whether an earlier package transaction is still running: {error}");
            EarlierRuns::Failed
        })
}
