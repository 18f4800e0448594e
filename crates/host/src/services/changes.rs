//! Services that have changed externally, reported by the init system to the drift watch.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A set of changed services, with one writer (the init system) and one reader (the agent's drift
/// watch).
#[derive(Debug, Default)]
pub struct ServiceChanges {
    sets: Mutex<ServiceSets>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct ServiceSets {
    watched: BTreeSet<String>,
    changed: BTreeSet<String>,
}

impl ServiceChanges {
    /// Sets the services to report.
    pub fn set_watched(&self, services: BTreeSet<String>) {
        let mut sets = self.lock();
        sets.changed.retain(|service| services.contains(service));
        sets.watched = services;
    }

    /// The services to report.
    pub fn watched(&self) -> BTreeSet<String> {
        self.lock().watched.clone()
    }

    /// The init system has noticed a change of `service`.
    pub fn report(&self, service: &str) {
        let mut sets = self.lock();
        if sets.watched.contains(service) {
            sets.changed.insert(service.to_owned());
            self.changed.notify_one();
        }
    }

    /// The init system may have missed changes: any service may have changed.
    pub fn report_all(&self) {
        let mut sets = self.lock();
        sets.changed = sets.watched.clone();
        if !sets.changed.is_empty() {
            self.changed.notify_one();
        }
    }

    /// Waits until watched services have changed and returns their names. Cancel-safe. For one
    /// waiter.
    pub async fn take(&self) -> BTreeSet<String> {
        loop {
            let changed = std::mem::take(&mut self.lock().changed);
            if !changed.is_empty() {
                return changed;
            }
            self.changed.notified().await;
        }
    }

    // Every holder leaves the sets consistent, so a panic elsewhere does no harm.
    fn lock(&self) -> MutexGuard<'_, ServiceSets> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
