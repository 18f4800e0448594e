//! Wakes the engine when the host changes externally: packages, services, the config of
//! applications.
//!
//! A change says what to read again, never what to do. Changes that come together are reported
//! together ([`DEBOUNCE`]). What changes all the time wakes the engine at a bounded rate ([`pace`])
//! and does not delay the rest.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::alarm;
use host::services::ServiceChanges;

mod files;
mod pace;

use files::WatchedFiles;
use pace::Pace;

/// From the first change until it is reported: others tend to follow.
const DEBOUNCE: Duration = Duration::from_millis(200);

/// Watched things that have changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drift {
    /// The package database.
    pub packages: bool,
    /// Services that started or stopped, or whose units were enabled, disabled or changed.
    pub services: BTreeSet<String>,
    /// Files that hold config.
    pub config: BTreeSet<PathBuf>,
}

/// One thing that changes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Subject {
    Packages,
    Service(String),
    Config(PathBuf),
}

impl Drift {
    fn of(subjects: impl IntoIterator<Item = Subject>) -> Self {
        let mut drift = Self::default();
        for subject in subjects {
            match subject {
                Subject::Packages => drift.packages = true,
                Subject::Service(name) => {
                    drift.services.insert(name);
                }
                Subject::Config(file) => {
                    drift.config.insert(file);
                }
            }
        }
        drift
    }
}

/// Watches one host until it is dropped.
pub struct Watch {
    /// `None`: the kernel allows no more inotify instances. Heartbeats find drift, too.
    files: Option<WatchedFiles>,
    databases: BTreeSet<PathBuf>,
    services: Option<Arc<ServiceChanges>>,
    /// What is to be reported, and when it changed first.
    pending: BTreeMap<Subject, Instant>,
    /// Of the things that have changed lately.
    paces: HashMap<Subject, Pace>,
    host: Pace,
}

impl Watch {
    /// `databases`: the files of the package database. `services`: where the init system reports
    /// changes. Must be called within a Tokio runtime.
    pub fn new(databases: impl IntoIterator<Item = PathBuf>, services: Option<Arc<ServiceChanges>>) -> Self {
        let files = match WatchedFiles::new() {
            Ok(files) => Some(files),
            Err(error) => {
                tracing::warn!(
                    "cannot watch files ({error}): changes of packages and config are noticed at heartbeats only; raise \
                     the sysctl fs.inotify.max_user_instances"
                );
                None
            }
        };
        let mut watch = Self {
            files,
            databases: databases.into_iter().collect(),
            services,
            pending: BTreeMap::new(),
            paces: HashMap::new(),
            host: Pace::of_host(Instant::now()),
        };
        watch.set_files(BTreeSet::new());
        watch
    }

    /// Sets the files (or folders) that hold config. They need not exist.
    pub fn set_files(&mut self, files: BTreeSet<PathBuf>) {
        if let Some(watched) = &mut self.files {
            watched.set_wanted(files.union(&self.databases).cloned().collect());
        }
    }

    /// Sets the services to watch.
    pub fn set_units(&mut self, services: BTreeSet<String>) {
        if let Some(changes) = &self.services {
            changes.set_watched(services);
        }
    }

    /// Waits for the next drift to report. Cancel-safe: the next call reports what was seen.
    pub async fn changed(&mut self) -> Drift {
        loop {
            let due = self.due();
            // Each arm is cancel-safe.
            tokio::select! {
                _ = self.seen() => {}
                () = alarm::reached(due) => return self.report(Instant::now()),
            }
        }
    }

    /// Waits until something changes, and returns it at once. [`Self::changed`] reports it later,
    /// too. Cancel-safe.
    pub async fn seen(&mut self) -> Drift {
        // Each arm is cancel-safe.
        let subjects: Vec<Subject> = tokio::select! {
            files = next_files(&mut self.files) => {
                let subject = |file| match self.databases.contains(&file) {
                    true => Subject::Packages,
                    false => Subject::Config(file),
                };
                files.into_iter().map(subject).collect()
            }
            services = next_services(self.services.as_deref()) => {
                services.into_iter().map(Subject::Service).collect()
            }
        };
        let now = Instant::now();
        for subject in &subjects {
            self.pending.entry(subject.clone()).or_insert(now);
        }
        Drift::of(subjects)
    }

    /// When the first pending change may be reported. All others are reported with it.
    fn due(&self) -> Option<Instant> {
        let each = self.pending.iter().map(|(subject, since)| {
            let rested = *since + DEBOUNCE;
            self.paces.get(subject).map_or(rested, |pace| pace.next(rested))
        });
        each.min().map(|due| self.host.next(due))
    }

    fn report(&mut self, now: Instant) -> Drift {
        self.host.take(now);
        self.paces.retain(|_, pace| !pace.is_full(now));
        let reported = std::mem::take(&mut self.pending);
        for (subject, since) in &reported {
            let pace = self
                .paces
                .entry(subject.clone())
                .or_insert_with(|| Pace::of_one(now));
            // Otherwise it is reported together with another one, and costs nothing.
            if pace.next(*since + DEBOUNCE) <= now {
                pace.take(now);
            }
        }
        Drift::of(reported.into_keys())
    }
}

async fn next_files(files: &mut Option<WatchedFiles>) -> BTreeSet<PathBuf> {
    let failure = match files {
        Some(watched) => match watched.changed().await {
            Ok(changed) => return changed,
            Err(error) => error,
        },
        None => return std::future::pending().await,
    };
    tracing::warn!("cannot continue to watch files; changes are noticed at heartbeats only: {failure}");
    *files = None;
    std::future::pending().await
}

async fn next_services(services: Option<&ServiceChanges>) -> BTreeSet<String> {
    match services {
        Some(changes) => changes.take().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    async fn next(watch: &mut Watch) -> Drift {
        tokio::time::timeout(SOON, watch.changed()).await.unwrap()
    }

    #[tokio::test]
    async fn each_kind_of_drift_is_told_and_what_comes_together_is_told_together() {
        let folder = tempfile::tempdir().unwrap();
        let (database, config) = (folder.path().join("status"), folder.path().join("app.conf"));
        let services = Arc::new(ServiceChanges::default());
        let mut watch = Watch::new([database.clone()], Some(services.clone()));
        watch.set_files([config.clone()].into());
        watch.set_units(["app_foo".to_owned()].into());

        services.report("app_foo");
        services.report("app_bar");
        let only_services = Drift {
            services: ["app_foo".to_owned()].into(),
            ..Drift::default()
        };
        assert_eq!(next(&mut watch).await, only_services);

        fs::write(&database, "x").unwrap();
        fs::write(&config, "x").unwrap();
        services.report("app_foo");
        let all = Drift {
            packages: true,
            services: ["app_foo".to_owned()].into(),
            config: [config].into(),
        };
        assert_eq!(next(&mut watch).await, all);
    }

    #[tokio::test]
    async fn a_cancelled_wait_loses_nothing() {
        let services = Arc::new(ServiceChanges::default());
        let mut watch = Watch::new([], Some(services.clone()));
        watch.set_units(["app_foo".to_owned()].into());
        services.report("app_foo");
        let too_short = tokio::time::timeout(DEBOUNCE / 2, watch.changed()).await;
        assert!(too_short.is_err());
        assert!(next(&mut watch).await.services.contains("app_foo"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flapping_service_wakes_at_a_bounded_rate() {
        let services = Arc::new(ServiceChanges::default());
        let mut watch = Watch::new([], Some(services.clone()));
        watch.set_units(["app_foo".to_owned()].into());
        let began = Instant::now();
        let mut wakes = 0;
        while began.elapsed() < Duration::from_secs(3) {
            services.report("app_foo");
            let wake = tokio::time::timeout(Duration::from_millis(250), watch.changed()).await;
            wakes += u32::from(wake.is_ok());
        }
        assert_eq!(
            wakes,
            pace::BURST,
            "3 s would have been enough for {}",
            3000 / 200
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_flaps_does_not_hold_up_what_does_not() {
        let services = Arc::new(ServiceChanges::default());
        let mut watch = Watch::new([], Some(services.clone()));
        watch.set_units(["flaps".to_owned(), "dies".to_owned()].into());
        for _ in 0..pace::BURST {
            services.report("flaps");
            next(&mut watch).await;
        }
        services.report("flaps");
        let held = tokio::time::timeout(Duration::from_secs(1), watch.changed()).await;
        assert!(held.is_err());
        services.report("dies");
        let began = Instant::now();
        let both = next(&mut watch).await.services;
        assert_eq!(both, ["dies".to_owned(), "flaps".to_owned()].into());
        assert_eq!(began.elapsed().as_millis(), DEBOUNCE.as_millis());
    }

    #[tokio::test(start_paused = true)]
    async fn many_that_flap_wake_at_a_bounded_rate_all_together() {
        let services = Arc::new(ServiceChanges::default());
        let mut watch = Watch::new([], Some(services.clone()));
        let names: Vec<String> = (0..100).map(|number| format!("app-{number}")).collect();
        watch.set_units(names.iter().cloned().collect());
        let began = Instant::now();
        let mut wakes = 0;
        let mut flapping = names.iter().cycle();
        while began.elapsed() < Duration::from_secs(60) {
            services.report(flapping.next().unwrap());
            let wake = tokio::time::timeout(Duration::from_millis(210), watch.changed()).await;
            wakes += u32::from(wake.is_ok());
        }
        assert!((70..=85).contains(&wakes), "{wakes} in a minute");
    }
}
