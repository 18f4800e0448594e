//! Statuses on their way out.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bus::{PublishError, Publisher};
use protocol::{Status, topic};

type Publishing = Pin<Box<dyn Future<Output = (Status, Result<(), PublishError>)> + Send>>;

#[derive(Default)]
pub struct Outbox {
    waiting: VecDeque<Status>,
    /// One at a time, so that statuses arrive in order.
    publishing: Option<Publishing>,
    /// The newest that came back because no master was bound: it goes with the next one.
    returned: Option<Status>,
    seq: u64,
}

/// Statuses that wait for the broker, at most; beyond it the oldest are dropped: the newest says all that
/// they said.
const MAX_WAITING: usize = 32;

/// How long the agent's end waits for the broker to take the last status.
const LAST_WORDS: Duration = Duration::from_secs(2);

impl Outbox {
    pub fn queue(&mut self, status: Status) {
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.pop_front();
        }
        self.waiting.extend(self.returned.take());
        self.waiting.push_back(status);
    }

    /// After a time without the broker: drops what waits, since the status of the new connection says it
    /// all, and gives the newest message that still waits for its answer.
    pub fn merge_waiting(&mut self) -> Option<String> {
        self.returned = None;
        self.waiting.drain(..).rev().find_map(|status| status.reply_to)
    }

    pub fn publish_next(&mut self, publisher: &Publisher) {
        if self.publishing.is_some() {
            return;
        }
        if let Some(mut status) = self.waiting.pop_front() {
            self.seq += 1;
            status.seq = self.seq;
            let publisher = publisher.clone();
            self.publishing = Some(Box::pin(async move {
                let result = publisher.publish(topic::MASTER, status.encode()).await;
                (status, result)
            }));
        }
    }

    /// Pending while nothing is on its way. Cancel-safe: the future stays here.
    pub async fn published(&mut self) -> (Status, Result<(), PublishError>) {
        match &mut self.publishing {
            Some(publishing) => publishing.await,
            None => std::future::pending().await,
        }
    }

    pub fn settle(&mut self, status: Status, result: Result<(), PublishError>) {
        self.publishing = None;
        match result {
            Ok(()) => {}
            // Its turn comes with the next connection.
            Err(PublishError::Disconnected) => self.waiting.push_front(status),
            Err(error @ (PublishError::Unroutable | PublishError::Refused)) => {
                tracing::warn!(%error, "no master took a status; it goes with the next one");
                self.returned = Some(status);
            }
        }
    }

    /// What can be said before the agent ends, within a moment.
    pub async fn drain(&mut self, publisher: &Publisher) {
        let all = async {
            while self.publishing.is_some() || !self.waiting.is_empty() {
                self.publish_next(publisher);
                let (status, result) = self.published().await;
                let disconnected = result == Err(PublishError::Disconnected);
                self.settle(status, result);
                if disconnected {
                    return;
                }
            }
        };
        if tokio::time::timeout(LAST_WORDS, all).await.is_err() {
            tracing::debug!("the broker is away: the last status was not sent");
        }
    }
}
