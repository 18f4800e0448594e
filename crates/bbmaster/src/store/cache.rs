//! What saves reading: what is kept here is only ever right or missing.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, MutexGuard, PoisonError};

use protocol::{Apps, HostId};

use super::Store;

#[derive(Default)]
pub(super) struct Cache {
    /// Hosts that have a row, less those that were deleted since by another master.
    rows: HashSet<HostId>,
    /// By host: generation, and what it holds.
    desired: HashMap<HostId, (u64, Arc<Apps>)>,
}

/// Desired states kept parsed; all are dropped when there are more.
const MAX_DESIRED: usize = 20_000;

impl Store {
    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that may have no row yet. Another master may have deleted one of the others.
    pub(super) fn without_row<'a>(&self, ids: impl Iterator<Item = &'a HostId>) -> Vec<&'a HostId> {
        let cache = self.cache();
        ids.filter(|id| !cache.rows.contains(*id)).collect()
    }

    /// These have a row, and it is committed.
    pub(super) fn remember_rows(&self, ids: impl Iterator<Item = HostId>) {
        self.cache().rows.extend(ids);
    }

    /// A desired state that is known here, if it is still of this generation.
    pub(super) fn recall_desired(&self, id: &str, generation: u64) -> Option<Arc<Apps>> {
        let cache = self.cache();
        let (kept, apps) = cache.desired.get(id)?;
        (*kept == generation).then(|| apps.clone())
    }

    pub(super) fn remember_desired(&self, id: HostId, generation: u64, apps: Arc<Apps>) {
        let mut cache = self.cache();
        if cache.desired.len() >= MAX_DESIRED {
            cache.desired.clear();
        }
        cache.desired.insert(id, (generation, apps));
    }

    /// The host was deleted: what is kept of it here is wrong.
    pub(super) fn forget(&self, id: &HostId) {
        let mut cache = self.cache();
        cache.rows.remove(id);
        cache.desired.remove(id);
    }
}
