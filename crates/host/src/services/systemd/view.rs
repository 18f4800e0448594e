//! The states of the host's units as last read, kept up to date by systemd's signals: on a steady
//! host an observation makes no call.
//!
//! A signal never changes a known state: it voids it, and the next observation reads it again.
//! Signals and replies are processed by different tasks, in no certain order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::unit::unit_name;
use crate::ServiceState;
use crate::services::ServiceChanges;
use crate::systemd::object_path;

/// A state is read again after this time, in case a signal was lost.
const VALID_FOR: Duration = Duration::from_secs(600);

/// A job of systemd that has ended.
#[derive(Debug, Clone)]
pub(super) struct EndedJob {
    /// Object path.
    pub(super) job: String,
    /// `done`, `failed`, `timeout`, ...
    pub(super) result: String,
}

pub(super) struct View {
    changes: Arc<ServiceChanges>,
    units: Mutex<KnownUnits>,
}

#[derive(Default)]
struct KnownUnits {
    /// By service.
    known: HashMap<String, KnownUnit>,
    /// Signals that may have voided a state.
    signals_seen: u64,
    /// What this agent is changing: no drift. `None`: unit files.
    busy: Vec<Option<String>>,
    /// Receivers of the ends of jobs.
    waiting: Vec<mpsc::UnboundedSender<EndedJob>>,
}

impl KnownUnits {
    fn void_all(&mut self) {
        self.signals_seen += 1;
        self.known.values_mut().for_each(|known| known.valid = false);
    }
}

struct KnownUnit {
    unit: String,
    /// The unit's object path.
    path: String,
    state: ServiceState,
    at: Instant,
    valid: bool,
}

impl View {
    pub(super) fn new(changes: Arc<ServiceChanges>) -> Self {
        Self {
            changes,
            units: Mutex::default(),
        }
    }

    /// The known state of `service`, if it is valid.
    pub(super) fn state(&self, service: &str) -> Option<ServiceState> {
        let inner = self.lock();
        let known = inner.known.get(service)?;
        (known.valid && known.at.elapsed() < VALID_FOR).then_some(known.state)
    }

    /// For [`Self::learn`].
    pub(super) fn signals_seen(&self) -> u64 {
        self.lock().signals_seen
    }

    /// Stores the state of `service`. `since`: [`Self::signals_seen`] before it was read; a later
    /// signal may be newer than the answer and had nothing to void yet.
    pub(super) fn learn(&self, service: &str, unit: &str, state: ServiceState, since: u64) {
        let mut inner = self.lock();
        let known = KnownUnit {
            unit: unit.to_owned(),
            path: object_path(unit),
            state,
            at: Instant::now(),
            valid: inner.signals_seen == since,
        };
        inner.known.insert(service.to_owned(), known);
    }

    /// `service` does not exist. (That is not stored: no signal says when it appears.)
    pub(super) fn forget(&self, service: &str) {
        self.lock().known.remove(service);
    }

    /// Until the returned value is dropped, changes of `service` are this agent's own; then its
    /// known state is void.
    pub(super) fn changing<'a>(&'a self, service: &str, unit: &str) -> Changing<'a> {
        let mut inner = self.lock();
        let known = inner.known.get(service).map(|known| known.unit.clone());
        let unit = known.unwrap_or_else(|| unit.to_owned());
        self.begin(&mut inner, Some(unit))
    }

    /// Until the returned value is dropped, changes of unit files are this agent's own.
    pub(super) fn rereading_units(&self) -> Changing<'_> {
        self.begin(&mut self.lock(), None)
    }

    fn begin(&self, inner: &mut KnownUnits, what: Option<String>) -> Changing<'_> {
        inner.busy.push(what.clone());
        Changing { view: self, what }
    }

    /// The jobs that end from now on.
    pub(super) fn ended_jobs(&self) -> mpsc::UnboundedReceiver<EndedJob> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.lock().waiting.push(sender);
        receiver
    }

    /// Signal: the unit at `path` has changed; `running` where the signal says so.
    pub(super) fn unit_changed(&self, path: &str, running: Option<bool>) {
        self.changed(
            |unit| object_path(unit) == path,
            |known| known.path == path,
            |known| match running {
                Some(running) => std::mem::replace(&mut known.state.running, running) != running,
                None => false,
            },
        );
    }

    /// Signal: a job of `unit` has ended. Always reported: nothing else signals the start of a unit
    /// that was not loaded.
    pub(super) fn job_ended(&self, unit: &str, job: EndedJob) {
        self.changed(|other| other == unit, |known| known.unit == unit, |_| true);
        self.lock()
            .waiting
            .retain(|waiter| waiter.send(job.clone()).is_ok());
    }

    /// Signal: unit files were reloaded, or links to them changed.
    pub(super) fn unit_files_changed(&self) {
        let mut inner = self.lock();
        inner.void_all();
        let own = !inner.busy.is_empty();
        drop(inner);
        if !own {
            self.changes.report_all();
        }
    }

    /// Signals may have been missed: every known state is void.
    pub(super) fn signals_lost(&self) {
        self.lock().void_all();
        self.changes.report_all();
    }

    /// No more signals: every known state is void, and the ends of jobs stay unknown.
    pub(super) fn disconnected(&self) {
        let mut inner = self.lock();
        inner.signals_seen += 1;
        inner.known.clear();
        inner.waiting.clear();
        drop(inner);
        self.changes.report_all();
    }

    fn changed(
        &self,
        is_unit: impl Fn(&str) -> bool,
        is_known: impl Fn(&KnownUnit) -> bool,
        is_change: impl Fn(&mut KnownUnit) -> bool,
    ) {
        let mut inner = self.lock();
        inner.signals_seen += 1;
        let own = inner.busy.iter().flatten().any(|unit| is_unit(unit));
        let mut changed = Vec::new();
        for (service, known) in inner.known.iter_mut().filter(|(_, known)| is_known(known)) {
            known.valid = false;
            if is_change(known) {
                changed.push(service.clone());
            }
        }
        if own {
            return;
        }
        // A unit that was not read yet: any signal may mean a change.
        changed.extend(self.changes.watched().into_iter().filter(|service| {
            !inner.known.contains_key(service) && unit_name(service).is_ok_and(|unit| is_unit(&unit))
        }));
        drop(inner);
        changed.iter().for_each(|service| self.changes.report(service));
    }

    // Every holder leaves the maps consistent, so a panic elsewhere does no harm.
    fn lock(&self) -> MutexGuard<'_, KnownUnits> {
        self.units.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lives while this agent changes a unit or unit files.
pub(super) struct Changing<'a> {
    view: &'a View,
    what: Option<String>,
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        let mut inner = self.view.lock();
        if let Some(index) = inner.busy.iter().position(|what| *what == self.what) {
            inner.busy.swap_remove(index);
        }
        if let Some(unit) = &self.what {
            inner.known.retain(|_, known| known.unit != *unit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: ServiceState = ServiceState {
        running: true,
        enabled: Some(true),
        instance: None,
        masked: false,
    };

    /// A view of `app_foo`, which runs, is watched and was read.
    fn view() -> View {
        let changes = Arc::new(ServiceChanges::default());
        changes.set_watched(["app_foo".to_owned()].into());
        let view = View::new(changes);
        view.learn("app_foo", "app_foo.service", UP, view.signals_seen());
        view
    }

    /// Whether a change is pending.
    async fn has_news(view: &View) -> bool {
        let taken = tokio::time::timeout(Duration::ZERO, view.changes.take()).await;
        taken.is_ok_and(|services| services.contains("app_foo"))
    }

    #[tokio::test]
    async fn a_signal_voids_what_is_known_and_is_change_only_if_it_says_something_new() {
        let path = object_path("app_foo.service");
        for (path, running, known, news) in [
            (path.as_str(), Some(false), false, true),
            (path.as_str(), Some(true), false, false),
            (path.as_str(), None, false, false),
            (
                "/org/freedesktop/systemd1/unit/other_2eservice",
                Some(false),
                true,
                false,
            ),
        ] {
            let view = view();
            view.unit_changed(path, running);
            assert_eq!(view.state("app_foo").is_some(), known, "{path} {running:?}");
            assert_eq!(has_news(&view).await, news, "{path} {running:?}");
        }
    }

    #[tokio::test]
    async fn a_signal_during_a_look_voids_its_answer() {
        let view = view();
        let since = view.signals_seen();
        view.unit_changed(&object_path("app_foo.service"), Some(false));
        view.learn("app_foo", "app_foo.service", UP, since);
        assert_eq!(view.state("app_foo"), None);
    }

    #[tokio::test]
    async fn own_changes_are_no_news_but_void_what_is_known() {
        let view = view();
        {
            let _own = view.changing("app_foo", "app_foo.service");
            view.unit_changed(&object_path("app_foo.service"), Some(false));
            view.unit_files_changed();
        }
        assert!(!has_news(&view).await);
        assert_eq!(view.state("app_foo"), None);
    }

    #[tokio::test]
    async fn an_alias_is_known_by_its_units_signals() {
        let view = view();
        view.changes.set_watched(["app_alias".to_owned()].into());
        view.learn("app_alias", "app_foo.service", UP, view.signals_seen());
        view.unit_changed(&object_path("app_foo.service"), Some(false));
        assert_eq!(view.changes.take().await, ["app_alias".to_owned()].into());
    }

    #[tokio::test]
    async fn a_lost_connection_voids_everything_and_ends_all_waiting() {
        let view = view();
        let mut ended = view.ended_jobs();
        view.disconnected();
        assert_eq!(view.state("app_foo"), None);
        assert!(has_news(&view).await);
        assert!(ended.recv().await.is_none());
    }
}
