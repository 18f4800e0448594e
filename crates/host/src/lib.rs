//! The host's facilities, one small trait each, holding only what the engine calls: a real one (or one
//! per package family and init system) and a scripted [`fake`].
//!
//! All paths hang off one [`Root`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use protocol::{AppName, Category, Config};

pub mod app_config;
pub mod atomic_file;
pub mod command;
pub mod download;
pub mod facts;
#[cfg(feature = "testing")]
pub mod fake;
mod hex;
mod installed;
mod open;
pub mod packages;
pub mod paths;
pub mod processes;
pub mod root;
pub mod services;

pub use app_config::manifest::Manifest;
pub use hex::hex;
pub use installed::{InstalledPackage, InstalledPackages, PackagesByName};
pub use open::{HostOptions, open};
pub use packages::{Relations, Stamp};
pub use root::Root;

/// Which package manager a host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Deb,
    Rpm,
}

impl Family {
    /// File extension of its packages, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Deb => "deb",
            Self::Rpm => "rpm",
        }
    }
}

/// A failure of a facility, ready for an operator: what, on what, why, what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct HostError {
    pub category: Category,
    pub message: String,
}

impl HostError {
    pub fn new(category: Category, message: impl Into<String>) -> Self {
        Self {
            category,
            message: message.into(),
        }
    }
}

/// What a package file says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageFile {
    pub path: PathBuf,
    pub name: String,
    /// Full version.
    pub version: String,
    pub arch: String,
    /// Whether this host takes packages of that architecture.
    pub arch_fits: bool,
    /// Bytes it takes up when installed.
    pub installed_size: u64,
    /// dpkg's configuration files in it, absolute paths without the root. rpm's are not looked for.
    pub conffiles: Vec<PathBuf>,
    /// Of a Debian package whose control archive is in every way as usual.
    pub relations: Option<Arc<Relations>>,
    /// Of an rpm package whose own digests are those of what is in it: the file as it was when they were worked out.
    pub verified: Option<Stamp>,
}

/// Where the package manager takes a package from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A local file, downloaded and verified. Never a URL: rpm and dnf would fetch it by themselves.
    File(PackageFile),
    /// The host's own repositories, at this full version.
    Repository { name: String, version: String },
}

impl Source {
    /// Of the package.
    pub fn name(&self) -> &str {
        match self {
            Self::File(file) => &file.name,
            Self::Repository { name, .. } => name,
        }
    }
}

/// Packages to come and go in one run of the package manager.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    pub install: Vec<Source>,
    pub remove: Vec<String>,
}

impl Transaction {
    pub fn is_empty(&self) -> bool {
        self.install.is_empty() && self.remove.is_empty()
    }
}

/// Runs of the package manager that an agent which is no more had started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlierRuns {
    None,
    /// Each came to its end, and nothing failed in it.
    Succeeded,
    /// One did not, or nobody can tell.
    Failed,
}

/// The package manager: dpkg/apt or rpm/dnf.
#[async_trait]
pub trait Packages: Send + Sync {
    fn family(&self) -> Family;

    /// The package database. Reads it only when its files have changed; starts a child process at most
    /// then (rpm), or never (dpkg).
    async fn installed(&self) -> Result<Arc<InstalledPackages>, HostError>;

    /// Reads a package file's own name, version and architecture.
    async fn inspect(&self, file: &Path) -> Result<PackageFile, HostError>;

    /// The full version under which the host's repositories offer `package` at `version` (which may lack
    /// its release part).
    async fn find_in_repositories(&self, package: &str, version: &str) -> Result<String, HostError>;

    /// Heals what a killed package manager left: `dpkg --configure -a`, duplicate rpm entries. Cheap if
    /// nothing is broken.
    async fn heal(&self) -> Result<(), HostError>;

    /// The package manager's own dry run. Changes nothing.
    async fn check(&self, transaction: &Transaction) -> Result<(), HostError>;

    /// Installs, upgrades, downgrades and removes; returns when the package database shows it. A lock
    /// held by someone else is [`Category::Locked`]: nothing was done.
    async fn apply(&self, transaction: &Transaction) -> Result<(), HostError>;

    /// Whether nothing of a package that is about to come is on this host: neither the package nor configuration
    /// files of it. Only then may [`Self::purge`] take all of it away again.
    async fn is_new_here(&self, source: &Source) -> Result<bool, HostError> {
        let _ = source;
        Ok(false)
    }

    /// Deletes the configuration files that the removal of `package` has left, where the package manager leaves any.
    /// Does nothing to a package that is installed.
    async fn purge(&self, package: &str) -> Result<(), HostError> {
        let _ = package;
        Ok(())
    }

    /// Takes back the note, where the package manager makes any, that an installed package is to go: a removal that
    /// did not come to its end has left it.
    async fn keep(&self, package: &str) -> Result<(), HostError> {
        let _ = package;
        Ok(())
    }

    /// Returns as soon as the package manager is at work in a way that outlives the agent; never, where there is no such
    /// way. Cancel-safe.
    async fn works_alone(&self) {
        std::future::pending().await
    }

    /// Waits for the end of what an agent that is no more has left at work. Cancel-safe.
    async fn earlier_runs_end(&self) -> Result<EarlierRuns, HostError> {
        Ok(EarlierRuns::None)
    }

    /// How that ended need not be known any more.
    async fn forget_earlier_runs(&self) -> Result<(), HostError> {
        Ok(())
    }

    /// Absolute paths that an installed package ships, without the root.
    async fn shipped_files(&self, package: &str) -> Result<Vec<PathBuf>, HostError>;

    /// [`Self::shipped_files`] of those of `packages` that are cheaper to ask for together than one by one.
    async fn shipped_files_of(&self, packages: &[&str]) -> Result<BTreeMap<String, Vec<PathBuf>>, HostError> {
        let _ = packages;
        Ok(BTreeMap::new())
    }

    /// Files whose change means that the package database may have changed (for inotify), under the root.
    fn database_paths(&self) -> Vec<PathBuf>;
}

/// State of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceState {
    pub running: bool,
    /// Starts at boot; `None`: it can be neither enabled nor disabled (a static unit).
    pub enabled: Option<bool>,
    /// Changes whenever its main process is started anew; `None`: the init system can't tell.
    pub instance: Option<u64>,
}

/// The init system: systemd over D-Bus, or SysV scripts. Service names come without `.service`.
#[async_trait]
pub trait Services: Send + Sync {
    /// `None`: there is no such service. `fresh`: do not answer from a cache of SysV answers.
    async fn state(&self, service: &str, fresh: bool) -> Result<Option<ServiceState>, HostError>;
    /// Leaves those of `names` that may be services here, looking once at all: [`Self::state`] of the others is `None`.
    fn retain_possible(&self, names: &mut BTreeSet<&str>) {
        let _ = names;
    }
    /// The next answers come from the services themselves, however young the last ones are.
    fn forget_answers(&self) {}
    async fn start(&self, service: &str) -> Result<(), HostError>;
    async fn stop(&self, service: &str) -> Result<(), HostError>;
    async fn restart(&self, service: &str) -> Result<(), HostError>;
    /// Reloads its configuration without a stop; restarts where it can't; leaves a stopped one stopped.
    async fn reload(&self, service: &str) -> Result<(), HostError>;
    async fn enable(&self, service: &str) -> Result<(), HostError>;
    async fn disable(&self, service: &str) -> Result<(), HostError>;
    /// Whether it is systemd, which takes what is written to `/etc/systemd/system`.
    fn has_unit_files(&self) -> bool {
        false
    }
    /// The init system must read its unit files again (after packages changed).
    async fn reread_units(&self) -> Result<(), HostError>;
    /// The services that `files` (of one package) define: systemd units (no templates), or SysV scripts.
    fn services_in(&self, files: &[PathBuf]) -> BTreeSet<String>;
    /// Where it reports services that change by themselves; `None`: it does not notice.
    fn changes(&self) -> Option<Arc<services::ServiceChanges>> {
        None
    }
}

/// How an application's config is read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContractKind {
    Hook,
    Manifest,
    /// Neither: its config must be empty.
    None,
}

/// What the contract of an application says.
#[derive(Debug, Clone, PartialEq)]
pub struct Contract {
    pub kind: ContractKind,
    /// Where it is one.
    pub manifest: Option<Arc<Manifest>>,
    /// Services it names; `None`: it leaves that to the package.
    pub services: Option<BTreeSet<String>>,
    /// Files whose change may mean that the config has changed (for inotify), under the root.
    pub watched_files: Arc<[PathBuf]>,
}

/// The application contract: hook or manifest (docs/app-contract.md).
#[async_trait]
pub trait AppConfig: Send + Sync {
    async fn contract(&self, app: &AppName, package: &str) -> Result<Contract, HostError>;
    /// [`Self::contract`] of each of these (with its package), in their order: what they have in common is looked at once.
    async fn contracts(&self, apps: &[(&AppName, &str)]) -> Vec<Result<Arc<Contract>, HostError>> {
        let mut contracts = Vec::with_capacity(apps.len());
        for (app, package) in apps {
            contracts.push(self.contract(app, package).await.map(Arc::new));
        }
        contracts
    }
    /// The current config; empty where there is no contract.
    async fn read(&self, app: &AppName, package: &str) -> Result<Config, HostError>;
    /// [`Self::read`], by the contract that a look has just found. The very value of the time before, where it is known to
    /// be still so.
    async fn read_by(
        &self,
        contract: &Contract,
        app: &AppName,
        package: &str,
    ) -> Arc<Result<Config, HostError>> {
        let _ = contract;
        Arc::new(self.read(app, package).await)
    }
    /// Brings `desired` into the current config (a merge: other keys stay), then lets running services
    /// take it up (reload or restart). `running`: which of the application's services are running now.
    async fn write(
        &self,
        app: &AppName,
        package: &str,
        desired: &Config,
        running: &BTreeSet<String>,
    ) -> Result<(), HostError>;
    /// Applications of which an earlier `write` was cut short, so that services may still run with the old config
    /// though the new one reads back: `write` is then due even where nothing differs.
    async fn unfinished(&self) -> Result<BTreeSet<AppName>, HostError> {
        Ok(BTreeSet::new())
    }
    /// Runs its health checks for `period`, or until each has passed after it; [`Category::Unhealthy`] as soon as one
    /// keeps failing. Without checks (hooks have none) it is well at once. Cancel-safe.
    async fn stays_healthy(&self, app: &AppName, package: &str, period: Duration) -> Result<(), HostError> {
        let _ = (app, package, period);
        Ok(())
    }
    /// Makes each of its health checks once. Cancel-safe.
    async fn is_healthy(&self, app: &AppName, package: &str) -> Result<(), HostError> {
        let _ = (app, package);
        Ok(())
    }
    /// [`Self::is_healthy`], by the contract that a look has just found.
    async fn is_healthy_by(
        &self,
        contract: &Contract,
        app: &AppName,
        package: &str,
    ) -> Result<(), HostError> {
        let _ = contract;
        self.is_healthy(app, package).await
    }
}

/// What to download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// http, https or file URL, its extension already that of this host's family.
    pub url: String,
    /// Lower-case hex.
    pub sha256: Option<String>,
}

/// Downloads packages into the cache.
#[async_trait]
pub trait Downloads: Send + Sync {
    /// A complete local file (from the cache where it is there and, with a digest, verified). Resumes
    /// what an earlier try left. Ends early, transiently, when `cancel` is set.
    async fn fetch(&self, download: &Download, cancel: &Cancel) -> Result<PathBuf, HostError>;
    /// Deletes a file that turned out wrong, so that the next try fetches it anew.
    async fn discard(&self, file: &Path);
    /// Keeps the present content of a fetched file, whatever is fetched from the same URL later; gives the
    /// path to find it at. It stays until a call of [`Downloads::protect`] does not name it.
    async fn keep(&self, file: &Path) -> Result<PathBuf, HostError> {
        Ok(file.to_owned())
    }
    /// [`Self::keep`] of each, in their order.
    async fn keep_all(&self, files: &[&Path]) -> Vec<Result<PathBuf, HostError>> {
        let mut kept = Vec::with_capacity(files.len());
        for file in files {
            kept.push(self.keep(file).await);
        }
        kept
    }
    /// From now on the cache keeps `files`, however full it gets (those that a rollback needs), and no
    /// longer what was fetched before this call.
    fn protect(&self, _files: &BTreeSet<PathBuf>) {}
}

/// Set from outside to end a long operation at its next safe point. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<std::sync::atomic::AtomicBool>);

impl Cancel {
    pub fn set(&self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// The facilities of one host, as the engine holds them.
#[derive(Clone)]
pub struct Host {
    pub packages: Arc<dyn Packages>,
    pub services: Arc<dyn Services>,
    pub app_config: Arc<dyn AppConfig>,
    pub downloads: Arc<dyn Downloads>,
}

/// Facts for a status's `info`.
pub type Facts = BTreeMap<String, serde_json::Value>;
