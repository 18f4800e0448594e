//! Wires the tasks together.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bus::{Link, LinkState};
use notify::Notifier;
use protocol::{HostId, Limits};
use tokio::sync::{Notify, mpsc, watch};

use crate::drift;
use crate::engine::Engine;
use crate::engine::book::ProgressBook;
use crate::engine::observe::Observer;
use crate::engine::reconcile::Reconciler;
use crate::engine::signals::Signals;
use crate::guard::Guard;
use crate::host_state::{Board, HostState};
use crate::inbox::Inbox;
use crate::ledger::Ledger;
use crate::report::Reporter;
use crate::state_file::StateFileError;
use host::{Facts, Host, Packages};

/// What an agent is made of.
pub struct Parts {
    pub host_id: HostId,
    pub host: Host,
    /// Folder of the ledger; must exist.
    pub state_dir: PathBuf,
    pub link: Link,
    pub limits: Limits,
    /// RabbitMQ users that may send `set_config`; empty: any.
    pub trusted_users: Vec<String>,
    pub heartbeat_period: Duration,
    /// How long a change must hold before it counts as done.
    pub bake_period: Duration,
    /// Crashes in one convergence after which it is rolled back.
    pub max_crashes: u32,
    pub collect_facts: Box<dyn Fn() -> Facts + Send + Sync>,
}

impl Parts {
    fn engine(&self, ledger: &Arc<Ledger>) -> Arc<Engine> {
        Arc::new(Engine {
            observer: Observer::new(self.host.clone()),
            guard: Some(Guard::new(&self.state_dir, &self.host)),
            host: self.host.clone(),
            ledger: ledger.clone(),
            bake_period: self.bake_period,
            max_crashes: self.max_crashes,
        })
    }
}

/// A running agent.
pub struct Agent {
    /// The state of the host.
    pub state: watch::Receiver<HostState>,
    packages: Arc<dyn Packages>,
    state_dir: PathBuf,
    ledger: Arc<Ledger>,
    retry_asked: Arc<Notify>,
    link: watch::Receiver<LinkState>,
    stop_reconciler: watch::Sender<bool>,
    stop_reporter: watch::Sender<bool>,
    reconciler: tokio::task::JoinHandle<()>,
    reporter: tokio::task::JoinHandle<()>,
    inbox: tokio::task::JoinHandle<()>,
    drift: tokio::task::JoinHandle<()>,
}

/// Bounded, so that a flood of messages waits in the broker and not in our memory.
const REQUESTS: usize = 64;

/// How long `stop` waits for the bus to close.
const BUS_END: Duration = Duration::from_secs(3);

impl Agent {
    /// Starts every task; converging to the stored desired state begins at once, even without a
    /// broker.
    pub fn start(parts: Parts) -> Result<Self, StateFileError> {
        let ledger = Arc::new(Ledger::open(&parts.state_dir, parts.host_id.clone())?);
        let engine = parts.engine(&ledger);
        let Parts {
            host_id,
            host,
            state_dir,
            link,
            limits,
            trusted_users,
            heartbeat_period,
            collect_facts,
            bake_period: _,
            max_crashes: _,
        } = parts;
        let Link {
            deliveries,
            publisher,
            topics,
            state: link_state,
        } = link;
        let book = ProgressBook::open(&state_dir, &engine.ledger)?;
        let (board, announcements) = Board::new(ledger.desired());
        let state = board.subscribe();
        let (stop_reconciler, reconciler_stops) = watch::channel(false);
        let (stop_reporter, reporter_stops) = watch::channel(false);
        let (requests, requests_in) = mpsc::channel(REQUESTS);
        let wake = Arc::new(Notify::new());
        let (questions, questions_in) = mpsc::channel(1);
        let signals = Signals {
            desired: ledger.subscribe(),
            stop: reconciler_stops,
            wake: wake.clone(),
            questions: questions_in,
        };

        let drift = tokio::spawn(drift::follow(engine.clone(), state.clone(), wake.clone()));
        let retry_asked = Arc::new(Notify::new());
        let reconciler = Reconciler::new(
            engine.clone(),
            board,
            book,
            signals,
            retry_asked.clone(),
            link_state.clone(),
        );
        let topics_of_apps = topics.subscribe();
        let reporter = Reporter {
            host_id: host_id.clone(),
            boot_id: boot_id(),
            engine,
            state: state.clone(),
            announcements,
            requests: requests_in,
            publisher,
            link: link_state.clone(),
            topics,
            wake,
            heartbeat_period,
            collect_facts,
            notifier: Notifier::of_process(),
            stop: reporter_stops,
        };
        let inbox = Inbox {
            host_id,
            topics: topics_of_apps,
            questions,
            limits,
            trusted_users,
            ledger: ledger.clone(),
            deliveries,
            requests,
        };
        Ok(Self {
            state,
            packages: host.packages,
            state_dir,
            ledger,
            retry_asked,
            link: link_state,
            stop_reconciler,
            stop_reporter,
            reconciler: tokio::spawn(reconciler.run()),
            reporter: tokio::spawn(reporter.run()),
            inbox: tokio::spawn(inbox.run()),
            drift,
        })
    }

    /// Asks every task to end at its next safe point, and waits for it. A running package manager
    /// is waited for, unless it continues without the agent: it may be about to restart the agent,
    /// and then it waits for this process to end.
    pub async fn stop(mut self) {
        // No new messages: the broker keeps those that are not acknowledged.
        self.inbox.abort();
        self.drift.abort();
        self.stop_reconciler.send_replace(true);
        tokio::select! {
            _ = &mut self.reconciler => {}
            // The reconciler stores its progress before it starts the package manager.
            () = self.packages.works_alone() => {
                tracing::info!("the package manager continues without the agent");
                self.reconciler.abort();
                if let Err(error) = ProgressBook::note_stop_in(&self.state_dir, &self.ledger) {
                    tracing::warn!("cannot store that the agent was stopped; the next start counts this as a crash: {error}");
                }
            }
        }
        self.stop_reporter.send_replace(true);
        let _ = self.reporter.await;
        // Without users the bus sends the last acknowledgements and closes.
        let mut link = self.link;
        let closed = async { while link.changed().await.is_ok() {} };
        if tokio::time::timeout(BUS_END, closed).await.is_err() {
            tracing::debug!("the broker is slow to close the connection; messages may be delivered again");
        }
    }

    /// Retries all applications that failed and are held.
    pub fn retry_failed(&self) {
        self.retry_asked.notify_one();
    }

    /// Pending while all tasks run; returns the name of a task that ended unexpectedly.
    pub async fn failed(&mut self) -> &'static str {
        tokio::select! {
            _ = &mut self.reconciler => "reconciler",
            _ = &mut self.reporter => "reporter",
            _ = &mut self.inbox => "inbox",
            _ = &mut self.drift => "drift",
        }
    }
}

/// 16 random hex digits.
fn boot_id() -> String {
    format!("{:016x}", fastrand::u64(..))
}

#[cfg(test)]
mod tests;
