//! Questions to hosts. Whoever asked waits here for the answer, which repeats the question's `id`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use protocol::PlanAnswer;
use protocol::rest::HostState;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// The answer of a host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    Status(HostState),
    Plan(Box<PlanAnswer>),
}

const PREFIX: &str = "ask-";

/// The open questions of one master.
pub struct Waiters {
    /// Prefix of the ids of this master's questions.
    own: String,
    count: AtomicU64,
    waiting: Mutex<HashMap<String, oneshot::Sender<Reply>>>,
}

/// Who asked the question that an answer repeats.
#[derive(Debug, PartialEq, Eq)]
pub enum ReplyOwner {
    Own,
    /// Another master, or this one before a restart.
    Other,
    /// No master: the answer is to a `set_config`, or to a ping of somebody else.
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

/// An open question. Dropped, its answer is no longer waited for.
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

    /// Delivers an answer to whoever waits for it.
    pub fn answer(&self, id: &str, reply: Reply) {
        if let Some(waiting) = self.take(id) {
            // An error means that nobody waits for it.
            let _ = waiting.send(reply);
        }
    }
}
