//! The queue of outgoing messages: statuses, and answers to `plan`.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bus::{PublishError, Publisher};
use protocol::{PlanAnswer, Status, topic};
use tokio::time::Instant;

/// A message to the master.
#[derive(Debug, Clone)]
pub enum OutgoingMessage {
    Status(Box<Status>),
    Plan(PlanAnswer),
}

impl OutgoingMessage {
    /// Whether it answers a message by its `id`.
    fn is_answer(&self) -> bool {
        match self {
            Self::Status(status) => status.reply_to.is_some(),
            Self::Plan(_) => true,
        }
    }
}

impl From<Status> for OutgoingMessage {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

type Publishing = Pin<Box<dyn Future<Output = (OutgoingMessage, Result<(), PublishError>)> + Send>>;

pub struct Outbox {
    waiting: VecDeque<OutgoingMessage>,
    /// One at a time, so that statuses arrive in order.
    publishing: Option<Publishing>,
    /// Messages that no master was bound for, or that the broker refused: all answers, and the
    /// newest other message. They are sent with the next message, or at `retry`.
    returned: VecDeque<OutgoingMessage>,
    /// When returned messages are sent again without a new one.
    retry: Option<Instant>,
    /// Before that.
    pause: Duration,
    /// The last message was returned; logged once, until a master takes messages again.
    without_master: bool,
    seq: u64,
}

/// Maximum of messages that wait for the broker. Beyond it the oldest are dropped: the newest
/// status replaces them.
const MAX_WAITING: usize = 32;

/// Maximum of returned messages.
const MAX_RETURNED: usize = 8;

/// Pause before returned messages are sent again, if no new message is sent before. It doubles with
/// each attempt, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How long the agent waits at its end for the broker to take the last status.
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);

impl Default for Outbox {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            publishing: None,
            returned: VecDeque::new(),
            retry: None,
            pause: FIRST_PAUSE,
            without_master: false,
            seq: 0,
        }
    }
}

impl Outbox {
    pub fn queue(&mut self, message: impl Into<OutgoingMessage>) {
        self.retry_returned();
        self.waiting.push_back(message.into());
        let beyond = self.waiting.len().saturating_sub(MAX_WAITING);
        self.waiting.drain(..beyond);
    }

    /// When to send returned messages again, if there are any.
    pub fn retry_at(&self) -> Option<Instant> {
        self.retry
    }

    /// Queues returned messages first: they are older than those that wait.
    pub fn retry_returned(&mut self) {
        self.retry = None;
        for message in self.returned.drain(..).rev() {
            self.waiting.push_front(message);
        }
    }

    /// After a time without the broker: drops the waiting messages, because the status of the new
    /// connection replaces them. Returns the `id` of the newest message without an answer.
    pub fn merge_waiting(&mut self) -> Option<String> {
        self.retry_returned();
        let unanswered = |message| match message {
            OutgoingMessage::Status(status) => status.reply_to,
            OutgoingMessage::Plan(_) => None,
        };
        self.waiting.drain(..).rev().find_map(unanswered)
    }

    pub fn publish_next(&mut self, publisher: &Publisher) {
        if self.publishing.is_some() {
            return;
        }
        if let Some(mut message) = self.waiting.pop_front() {
            let body = match &mut message {
                OutgoingMessage::Status(status) => {
                    // A message that is sent again keeps its number.
                    if status.seq == 0 {
                        self.seq += 1;
                        status.seq = self.seq;
                    }
                    status.encode()
                }
                OutgoingMessage::Plan(answer) => answer.encode(),
            };
            let publisher = publisher.clone();
            self.publishing = Some(Box::pin(async move {
                let result = publisher.publish(topic::MASTER, body).await;
                (message, result)
            }));
        }
    }

    /// Pending while nothing is being published. Cancel-safe: the future stays here.
    pub async fn published(&mut self) -> (OutgoingMessage, Result<(), PublishError>) {
        match &mut self.publishing {
            Some(publishing) => publishing.await,
            None => std::future::pending().await,
        }
    }

    pub fn note_result(&mut self, message: OutgoingMessage, result: Result<(), PublishError>) {
        self.publishing = None;
        match result {
            Ok(()) => {
                if self.without_master {
                    tracing::info!("a master takes statuses again");
                }
                self.without_master = false;
                self.pause = FIRST_PAUSE;
                if matches!(message, OutgoingMessage::Status(_)) {
                    self.returned.retain(OutgoingMessage::is_answer);
                }
            }
            // It is sent on the next connection.
            Err(PublishError::Disconnected) => self.waiting.push_front(message),
            Err(error @ (PublishError::Unroutable | PublishError::Refused)) => {
                if !self.without_master {
                    tracing::warn!("no master takes statuses; they are sent again: {error}");
                    self.without_master = true;
                }
                self.keep_returned(message);
            }
        }
    }

    fn keep_returned(&mut self, message: OutgoingMessage) {
        self.returned.retain(OutgoingMessage::is_answer);
        self.returned.push_back(message);
        let beyond = self.returned.len().saturating_sub(MAX_RETURNED);
        self.returned.drain(..beyond);
        if self.retry.is_none() {
            self.retry = Some(Instant::now() + self.pause);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Sends what the broker takes within [`DRAIN_DEADLINE`], before the agent ends.
    pub async fn drain(&mut self, publisher: &Publisher) {
        self.retry_returned();
        let all = async {
            while self.publishing.is_some() || !self.waiting.is_empty() {
                self.publish_next(publisher);
                let (message, result) = self.published().await;
                let disconnected = result == Err(PublishError::Disconnected);
                self.note_result(message, result);
                if disconnected {
                    return;
                }
            }
        };
        if tokio::time::timeout(DRAIN_DEADLINE, all).await.is_err() {
            tracing::debug!("the broker is unavailable; the last status was not sent");
        }
    }
}
