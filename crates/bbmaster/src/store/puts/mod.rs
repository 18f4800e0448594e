//! PUTs of desired states. Those that arrive together share one transaction, because its commit is
//! the most expensive part of a PUT.
//!
//! One task at a time writes the PUTs that have arrived; it ends when there are none. Each PUT is
//! decided separately, in the order of arrival, and answered after the commit. The task belongs to
//! no request, so a request that is given up does not stop the others.

mod decide;
mod write;

use std::sync::{Arc, Mutex, PoisonError};

use protocol::HostId;
use tokio::sync::oneshot;

use self::decide::{GenerationMismatch, PendingPut, PutAnswers};
use super::desired::{NewDesired, PutError, StoredDesired};
use super::{Store, StoreError};

/// PUTs in one transaction, at most.
const BATCH: usize = 1000;

/// PUTs that are not written yet.
#[derive(Default)]
pub(super) struct PutQueue {
    waiting: Vec<PendingPut>,
    /// A task is writing them.
    is_writing: bool,
}

impl Store {
    /// Sets a host's desired state. A host that has never reported gets a row. A PUT of what is
    /// stored already changes nothing. The same applications with another `only_if_plan` are a new
    /// generation, because the host may have refused the stored one.
    pub async fn put_desired(&self, host: &HostId, new: NewDesired<'_>) -> Result<StoredDesired, PutError> {
        let (done, answer) = oneshot::channel();
        let put = PendingPut {
            host: host.clone(),
            apps: new.apps,
            only_if_plan: new.only_if_plan.map(str::to_owned),
            if_match: new.if_match.map(<[u64]>::to_vec),
            author: new.author,
            done,
        };
        let is_writing = {
            let mut puts = self.puts.lock().unwrap_or_else(PoisonError::into_inner);
            puts.waiting.push(put);
            std::mem::replace(&mut puts.is_writing, true)
        };
        if !is_writing {
            tokio::spawn(self.clone().write_puts());
        }
        answer.await.unwrap_or_else(|_| Err(StoreError::Stopping.into()))
    }

    /// Writes batch after batch, until no PUT is pending.
    async fn write_puts(self) {
        while let Some(batch) = next_batch(&self.puts) {
            match self.write_puts_together(&batch).await {
                Ok(answers) => answer(batch, answers),
                // The database refuses one of them. Written one by one, only that one fails.
                Err(error) if error.is_about_data() && batch.len() > 1 => {
                    for put in batch {
                        let put = vec![put];
                        match self.write_puts_together(&put).await {
                            Ok(answers) => answer(put, answers),
                            Err(error) => fail(put, error),
                        }
                    }
                }
                Err(error) => fail(batch, error),
            }
        }
    }
}

/// `None`: no PUT is pending, and the next one starts a task.
fn next_batch(puts: &Mutex<PutQueue>) -> Option<Vec<PendingPut>> {
    let mut puts = puts.lock().unwrap_or_else(PoisonError::into_inner);
    let many = puts.waiting.len().min(BATCH);
    puts.is_writing = many > 0;
    puts.is_writing.then(|| puts.waiting.drain(..many).collect())
}

fn answer(batch: Vec<PendingPut>, answers: PutAnswers) {
    for (put, answer) in batch.into_iter().zip(answers) {
        let answer = answer.map_err(|GenerationMismatch { current }| PutError::GenerationChanged { current });
        // An error means that the request was given up.
        let _ = put.done.send(answer);
    }
}

fn fail(batch: Vec<PendingPut>, error: StoreError) {
    let error = Arc::new(error);
    for put in batch {
        let _ = put.done.send(Err(StoreError::Shared(error.clone()).into()));
    }
}
