//! One attempt to bring the host to its desired state: observe, plan, carry out the first stage of the
//! plan, and again, until the plan is empty; then bake what was changed, and roll back what failed.
//!
//! Every turn of the loop ends at a safe point: what is done shows in the next observation, what is not is
//! planned again. What undo needs is in the journal before the first change.

mod attempt;
mod fallback;
mod packages;
mod restart;
mod settle;
pub(crate) mod together;

use std::collections::BTreeSet;
use std::sync::Arc;

use protocol::Category;
use tokio::sync::watch;

use crate::engine::Engine;
use crate::engine::failure::{Failure, Failures};
use crate::engine::journal::{Before, JournalFile, WayBack};
use crate::host_state::Board;
use crate::ledger::Desired;
use host::HostError;

use attempt::Attempt;

/// How an attempt ended.
#[derive(Debug)]
pub enum End {
    /// Nothing is left to do but for the applications that failed.
    Finished(Failures),
    /// The desired state has changed: start over with the new one.
    Superseded,
    /// The agent is to stop; the next start goes on.
    Stopped,
    /// The host could not be looked at, or the agent's own state not be written.
    Stuck(Failure),
}

/// What ends an attempt at its next safe point.
pub struct Interrupts {
    pub desired: watch::Receiver<Arc<Desired>>,
    pub stop: watch::Receiver<bool>,
}

impl Interrupts {
    fn pending(&self, attempt: &Desired) -> Option<End> {
        if *self.stop.borrow() {
            Some(End::Stopped)
        } else if !self.desired.borrow().same_state(attempt) {
            Some(End::Superseded)
        } else {
            None
        }
    }

    /// Returns when there is one. Cancel-safe: it only waits on watches.
    async fn wait(&mut self, attempt: &Desired) {
        while self.pending(attempt).is_none() {
            let ended = tokio::select! {
                changed = self.desired.changed() => changed.is_err(),
                changed = self.stop.changed() => changed.is_err(),
            };
            if ended {
                // Nobody is left who could interrupt.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Brings the host to `desired`. `held`: applications that are not to be touched in this attempt. The journal stays open: close it when
/// the outcome is durable.
pub async fn converge(
    engine: &Engine,
    desired: &Arc<Desired>,
    held: &Failures,
    journal: &mut JournalFile,
    interrupts: &mut Interrupts,
    board: &Board,
) -> End {
    let end = Attempt::new(engine, desired, held, journal, board)
        .run(interrupts)
        .await;
    if let Err(error) = tidy(engine, desired, journal).await {
        tracing::warn!(%error, "could not bring the records of installed applications up to date");
    }
    end
}

/// An application that is neither desired nor installed is nobody's business any more; one that is
/// desired goes, when it goes, by its newest rank. Package files that no way back needs are let go.
async fn tidy(engine: &Engine, desired: &Desired, journal: &JournalFile) -> Result<(), HostError> {
    let packages = engine.host.packages.installed().await?;
    engine
        .ledger
        .change_records(|records| {
            records.retain(|app, record| {
                let spec = desired.apps.get(app);
                record.rank = spec.map_or(record.rank, |spec| spec.rank);
                spec.is_some() || packages.contains(&record.package)
            });
        })
        .map_err(|error| HostError::new(Category::Host, error.to_string()))?;
    let records = engine.ledger.records();
    let installed = records.values().filter_map(|record| {
        record
            .provenance_of(packages.get(&record.package)?.version)?
            .file
            .clone()
    });
    let entries = journal
        .get()
        .into_iter()
        .flat_map(|journal| journal.entries.values());
    let ways_back = entries.filter_map(|entry| match &entry.before {
        Before::Installed(snapshot) => match &snapshot.way_back {
            WayBack::File { path } => Some(path.clone()),
            WayBack::NotNeeded | WayBack::Url { .. } | WayBack::Repository | WayBack::Nowhere { .. } => None,
        },
        Before::Absent => None,
    });
    engine
        .host
        .downloads
        .protect(&installed.chain(ways_back).collect::<BTreeSet<_>>());
    Ok(())
}

/// The failure of the whole attempt for want of `what`.
fn stuck(error: impl Into<Failure>) -> End {
    End::Stuck(error.into())
}
