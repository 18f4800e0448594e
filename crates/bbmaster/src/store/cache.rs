//! A cache of hosts' rows and desired states, which saves reads.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, MutexGuard, PoisonError};

use protocol::{Apps, HostId};

use super::Store;

#[derive(Default)]
pub(super) struct Cache {
    /// Hosts that have a row, unless another master has deleted them since.
    rows: HashSet<HostId>,
    /// By host: generation and applications.
    desired: HashMap<HostId, (u64, Arc<Apps>)>,
}

/// Cached desired states, at most. When there are more, all are dropped.
const MAX_DESIRED: usize = 20_000;

impl Store {
    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hosts that may have no row yet. Another master may have deleted the row of another one.
    pub(super) fn without_row<'a>(&self, ids: impl Iterator<Item = &'a HostId>) -> Vec<&'a HostId> {
        let cache = self.cache();
        ids.filter(|id| !cache.rows.contains(*id)).collect()
    }

    /// Adds hosts whose rows are committed.
    pub(super) fn remember_rows(&self, ids: impl Iterator<Item = HostId>) {
        self.cache().rows.extend(ids);
    }

    /// The cached desired state of a host, if it has this generation.
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

    /// Drops a host that was deleted.
    pub(super) fn forget_host(&self, id: &HostId) {
        let mut cache = self.cache();
        cache.rows.remove(id);
        cache.desired.remove(id);
    }
}
