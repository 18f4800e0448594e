//! Looks: observations of the host for the reporter. At most one light look (for pings) and one
//! full look (for the heartbeat) run at a time, so that a flood of pings costs one look at a time,
//! and a hook that hangs delays no ping.

use std::future::Future;
use std::pin::Pin;

use crate::engine::observe::{Freshness, Observed};
use host::HostError;

/// The result of a look.
pub struct Look {
    /// Number of announcements when the look began. If there are more now, the look is outdated.
    pub announced: u64,
    /// `None`: the host was being changed.
    pub observed: Option<Result<Observed, HostError>>,
}

pub type Looking = Pin<Box<dyn Future<Output = Look> + Send>>;

#[derive(Default)]
pub struct Looks {
    light: Option<Looking>,
    full: Option<Looking>,
    /// Pings that the running light look answers, by `id`; one `None` for all without an `id`.
    answering: Vec<Option<String>>,
    /// Pings received since it began: the next look answers them.
    asking: Vec<Option<String>>,
}

/// Maximum of pings that wait for one look; further ones get no answer of their own.
const MAX_ASKING: usize = 64;

impl Looks {
    pub fn ask_light(&mut self, id: Option<String>, look: impl FnOnce() -> Looking) {
        if !self.asking.contains(&id) && self.asking.len() < MAX_ASKING {
            self.asking.push(id);
        }
        self.start_light_if_asked(look);
    }

    pub fn start_light_if_asked(&mut self, look: impl FnOnce() -> Looking) {
        if self.light.is_none() && !self.asking.is_empty() {
            self.answering = std::mem::take(&mut self.asking);
            self.light = Some(look());
        }
    }

    pub fn take_answers(&mut self) -> Vec<Option<String>> {
        std::mem::take(&mut self.answering)
    }

    /// False: the previous one is still running.
    pub fn start_full(&mut self, look: impl FnOnce() -> Looking) -> bool {
        let free = self.full.is_none();
        if free {
            self.full = Some(look());
        }
        free
    }

    /// The next finished look. Pending while there is none. Cancel-safe: running looks stay here.
    pub async fn next(&mut self) -> (Freshness, Look) {
        tokio::select! {
            look = done(&mut self.light) => (Freshness::Light, look),
            look = done(&mut self.full) => (Freshness::Full, look),
        }
    }
}

async fn done(slot: &mut Option<Looking>) -> Look {
    match slot {
        Some(looking) => {
            let look = looking.await;
            *slot = None;
            look
        }
        None => std::future::pending().await,
    }
}
