//! The services that have changed by themselves, on their way from the init system to the drift watch.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Meeting point of an init system that sees services change and the one task that wants to know
/// ([`crate::watch`]).
#[derive(Debug, Default)]
pub struct ServiceChanges {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    watched: BTreeSet<String>,
    changed: BTreeSet<String>,
}

impl ServiceChanges {
    /// From now on exactly these services matter.
    pub fn set_watched(&self, services: BTreeSet<String>) {
        let mut inner = self.lock();
        inner.changed.retain(|service| services.contains(service));
        inner.watched = services;
    }

    /// The services that matter.
    pub fn watched(&self) -> BTreeSet<String> {
        self.lock().watched.clone()
    }

    /// The init system saw `service` change.
    pub fn report(&self, service: &str) {
        let mut inner = self.lock();
        if inner.watched.contains(service) {
            inner.changed.insert(service.to_owned());
            self.changed.notify_one();
        }
    }

    /// The init system may have missed changes: any service may be other than it was.
    pub fn report_all(&self) {
        let mut inner = self.lock();
        inner.changed = inner.watched.clone();
        if !inner.changed.is_empty() {
            self.changed.notify_one();
        }
    }

    /// Waits until watched services have changed and takes their names; cancel-safe. For one waiter.
    pub async fn take(&self) -> BTreeSet<String> {
        loop {
            let changed = std::mem::take(&mut self.lock().changed);
            if !changed.is_empty() {
                return changed;
            }
            self.changed.notified().await;
        }
    }

    // Each holder leaves the sets whole, so a panic elsewhere does not spoil them.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
