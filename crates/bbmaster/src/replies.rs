//! Who asked a host something waits here for its answer, by the `id` that the answer repeats.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use protocol::PlanAnswer;
use protocol::rest::HostState;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// What a host answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    Status(HostState),
    Plan(Box<PlanAnswer>),
}

const PREFIX: &str = "ask-";

/// Questions under way of one master.
pub struct Waiters {
    /// Tells this master's questions from those of others.
    own: String,
    count: AtomicU64,
    waiting: Mutex<HashMap<String, oneshot::Sender<Reply>>>,
}

/// ReplyOwner question an answer belongs to.
#[derive(Debug, PartialEq, Eq)]
pub enum ReplyOwner {
    Own,
    /// Another master's, or one from before this one's restart.
    Other,
    /// No master asked: a `set_config`, or someone else's ping.
    Nobody,
}

impl Default for Waiters {
    fn default() -> Self {
        Self {
            own: format!("{PREFIX}{:016x}-", fastrand::u64(..)),
            count: AtomicU64::new(0),
            waiting: Mutex::default(),
        }
    }
}

/// A question under way; dropped, it is no longer waited for.
pub struct Question<'a> {
    pub id: String,
    pub answer: oneshot::Receiver<Reply>,
    waiters: &'a Waiters,
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.waiters.take(&self.id);
    }
}

impl Waiters {
    pub fn ask(&self) -> Question<'_> {
        let id = format!("{}{}", self.own, self.count.fetch_add(1, Ordering::Relaxed));
        let (tell, answer) = oneshot::channel();
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id.clone(), tell);
        Question {
            id,
            answer,
            waiters: self,
        }
    }

    fn take(&self, id: &str) -> Option<oneshot::Sender<Reply>> {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id)
    }

    pub fn whose(&self, id: &str) -> ReplyOwner {
        match id {
            id if id.starts_with(&self.own) => ReplyOwner::Own,
            id if id.starts_with(PREFIX) => ReplyOwner::Other,
            _ => ReplyOwner::Nobody,
        }
    }

    /// Hands an answer to who waits for it, if anyone still does.
    pub fn answer(&self, id: &str, reply: Reply) {
        if let Some(waiting) = self.take(id) {
            // Gone in this instant: nobody waits.
            let _ = waiting.send(reply);
        }
    }
}
