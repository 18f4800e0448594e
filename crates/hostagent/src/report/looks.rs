//! Looks at the host that are under way: at most one light one (for pings) and one full one (for the
//! heartbeat), so that a flood of pings costs one look at a time, and a hook that hangs delays no ping.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::engine::observe::{Freshness, Observed};
use host::HostError;

/// What a look has shown.
pub struct Look {
    /// Announcements when the look began: if there are more by now, the look is stale.
    pub announced: u64,
    /// `None`: the host was being changed.
    pub observed: Option<Result<Arc<Observed>, HostError>>,
}

pub type Looking = Pin<Box<dyn Future<Output = Look> + Send>>;

#[derive(Default)]
pub struct Looks {
    light: Option<Looking>,
    full: Option<Looking>,
    /// Who the light look under way answers: `id`s of pings; one `None` for all that gave none.
    answering: Vec<Option<String>>,
    /// Who asked since: the next look answers them.
    asking: Vec<Option<String>>,
}

/// Pings with an `id` that wait for one look, at most; beyond it their answers are merged.
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

    /// False: the one before is still under way.
    pub fn start_full(&mut self, look: impl FnOnce() -> Looking) -> bool {
        let free = self.full.is_none();
        if free {
            self.full = Some(look());
        }
        free
    }

    /// The next look that is done. Pending while there is none; cancel-safe: looks stay here until then.
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
