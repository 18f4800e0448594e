//! Wires the tasks together.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bus::Link;
use protocol::{HostId, Limits};
use tokio::sync::{Notify, mpsc, watch};

use crate::converge::{Engine, Interrupts};
use crate::drift;
use crate::host::{Facts, Host};
use crate::host_state::{Board, HostState};
use crate::inbox::Inbox;
use crate::ledger::Ledger;
use crate::observe::Observer;
use crate::reconcile::Reconciler;
use crate::report::Reporter;
use crate::state_file::StateFileError;

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
    pub collect_facts: Box<dyn Fn() -> Facts + Send + Sync>,
}

/// An agent that runs.
pub struct Agent {
    /// How the host stands.
    pub state: watch::Receiver<HostState>,
    stop_reconciler: watch::Sender<bool>,
    stop_reporter: watch::Sender<bool>,
    reconciler: tokio::task::JoinHandle<()>,
    reporter: tokio::task::JoinHandle<()>,
    inbox: tokio::task::JoinHandle<()>,
    drift: tokio::task::JoinHandle<()>,
}

/// Bounded, so that a flood of messages waits in the broker and not in our memory.
const REQUESTS: usize = 64;

impl Agent {
    /// Starts every task; converging to the stored desired state begins at once, broker or not.
    pub fn start(parts: Parts) -> Result<Self, StateFileError> {
        let Parts {
            host_id,
            host,
            state_dir,
            link,
            limits,
            trusted_users,
            heartbeat_period,
            collect_facts,
        } = parts;
        let ledger = Arc::new(Ledger::open(&state_dir, host_id.clone())?);
        let Link {
            deliveries,
            publisher,
            topics,
            state: link_state,
        } = link;
        let engine = Arc::new(Engine {
            observer: Observer::new(host.clone()),
            host,
            ledger: ledger.clone(),
        });
        let (board, announcements) = Board::new(ledger.desired());
        let state = board.subscribe();
        let (stop_reconciler, reconciler_stops) = watch::channel(false);
        let (stop_reporter, reporter_stops) = watch::channel(false);
        let (requests, requests_in) = mpsc::channel(REQUESTS);
        let wake = Arc::new(Notify::new());
        let interrupts = Interrupts {
            desired: ledger.subscribe(),
            stop: reconciler_stops,
        };

        let drift = tokio::spawn(drift::follow(engine.clone(), state.clone(), wake.clone()));
        let reconciler = Reconciler::new(engine.clone(), board, interrupts, wake.clone());
        let reporter = Reporter {
            host_id: host_id.clone(),
            boot_id: boot_id(),
            engine,
            state: state.clone(),
            announcements,
            requests: requests_in,
            publisher,
            link: link_state,
            topics,
            wake,
            heartbeat_period,
            collect_facts,
            stop: reporter_stops,
        };
        let inbox = Inbox {
            host_id,
            limits,
            trusted_users,
            ledger,
            deliveries,
            requests,
        };
        Ok(Self {
            state,
            stop_reconciler,
            stop_reporter,
            reconciler: tokio::spawn(reconciler.run()),
            reporter: tokio::spawn(reporter.run()),
            inbox: tokio::spawn(inbox.run()),
            drift,
        })
    }

    /// Asks every task to end at its next safe point, and waits for it. A package manager that is at work
    /// is left to end first.
    pub async fn stop(self) {
        // Nothing new is taken in: what is not acknowledged, the broker keeps.
        self.inbox.abort();
        self.drift.abort();
        self.stop_reconciler.send_replace(true);
        let _ = self.reconciler.await;
        self.stop_reporter.send_replace(true);
        let _ = self.reporter.await;
    }

    /// Pending while all is well; returns when a task has ended that should not have.
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
