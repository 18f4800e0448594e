//! The package manager, as the engine sees it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use protocol::Category;

use super::InstalledPackages;
use crate::HostError;

/// Which package manager a host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Deb,
    Rpm,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Deb, Self::Rpm];

    /// Whether the database tells a package whose last script has not run, or has failed, from one that is whole. rpm enters
    /// a package before that.
    pub fn database_tells_whole(self) -> bool {
        match self {
            Self::Deb => true,
            Self::Rpm => false,
        }
    }

    /// Whether to heal half-installed packages runs scripts again that have failed or hung.
    pub fn healing_runs_scripts(self) -> bool {
        match self {
            Self::Deb => true,
            Self::Rpm => false,
        }
    }

    /// File extension of its packages, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Deb => "deb",
            Self::Rpm => "rpm",
        }
    }
}

/// The metadata of a package file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageFile {
    pub path: PathBuf,
    pub name: String,
    /// Full version.
    pub version: String,
    pub arch: String,
    /// Whether this host accepts packages of that architecture.
    pub arch_fits: bool,
    /// Bytes it takes up when installed.
    pub installed_size: u64,
}

/// Where the package manager takes a package from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A local file, downloaded and verified. Never a URL: rpm and dnf would fetch it by
    /// themselves.
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

    /// The full version that it brings.
    pub fn version(&self) -> &str {
        match self {
            Self::File(file) => &file.version,
            Self::Repository { version, .. } => version,
        }
    }
}

/// Packages to install and to remove in one run of the package manager.
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

/// A package at a full version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageVersion {
    pub name: String,
    pub version: String,
}

/// What the package manager would do besides what a transaction names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Simulation {
    /// Other packages that would be installed or change their version, at the new version.
    pub installs: Vec<PackageVersion>,
    /// Other packages that would be removed.
    pub removes: Vec<PackageVersion>,
}

impl Simulation {
    /// Refuses `transaction` where other packages would be removed for it.
    pub fn refuse_removals(&self, transaction: &Transaction) -> Result<(), HostError> {
        if self.removes.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = self.removes.iter().map(|package| &*package.name).collect();
        let message = format!(
            "{} would remove {} too: remove or replace that first",
            describe(transaction),
            names.join(", ")
        );
        Err(HostError::new(Category::Dependency, message))
    }
}

/// The package database shows all of a transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Failures that do not affect the transaction: a hook of apt, a trigger of another package, a
    /// script of the removed version.
    pub warnings: Vec<String>,
}

/// Why the package database does not show all of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Another process holds the package manager's lock. The same transaction can be applied later.
    #[error("{0}")]
    Locked(#[source] HostError),
    /// Refused before anything was changed.
    #[error("{0}")]
    Refused(#[source] HostError),
    /// Anything may have happened: the package database shows what.
    #[error("{0}")]
    Failed(#[source] HostError),
}

impl ApplyError {
    pub fn category(&self) -> Category {
        let (Self::Locked(error) | Self::Refused(error) | Self::Failed(error)) = self;
        error.category
    }
}

impl From<ApplyError> for HostError {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::Locked(error) | ApplyError::Refused(error) | ApplyError::Failed(error) => error,
        }
    }
}

/// Runs of the package manager that an earlier agent started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlierRuns {
    None,
    /// All ended, and none failed.
    Succeeded,
    /// One failed, or its result is unknown.
    Failed,
}

/// The package manager: dpkg/apt or rpm/dnf.
#[async_trait]
pub trait Packages: Send + Sync {
    fn family(&self) -> Family;

    /// The package database. Reads it only when its files have changed; starts a child process at
    /// most then (rpm), or never (dpkg).
    async fn installed(&self) -> Result<Arc<InstalledPackages>, HostError>;

    /// Reads a package file's own name, version and architecture.
    async fn inspect(&self, file: &Path) -> Result<PackageFile, HostError>;

    /// The full version that the host's repositories offer for `version` of `package`: exact,
    /// without its release part, or a pattern (`*`, `1.22.*`). Of several, the one that the package
    /// manager prefers, then the newest. If none is offered, package lists are refreshed, at most
    /// once per `refresh_interval`.
    async fn find_in_repositories(&self, package: &str, version: &str) -> Result<String, HostError>;

    /// [`Self::find_in_repositories`] by the package lists as they are: changes nothing.
    async fn find_in_lists(&self, package: &str, version: &str) -> Result<String, HostError>;

    /// When the host's package lists were last changed, whoever refreshed them. What the
    /// repositories did not offer before may be offered since. `None`: there are no lists.
    fn lists_stamp(&self) -> Option<SystemTime>;

    /// Repairs what a killed package manager left: `dpkg --configure -a`, duplicate rpm entries.
    /// Cheap if nothing is broken.
    async fn heal(&self) -> Result<(), HostError>;

    /// The package manager's own dry run. Changes nothing. Empty if the package manager cannot tell
    /// which other packages are affected. An error: the transaction would be refused, and why.
    async fn simulate(&self, transaction: &Transaction) -> Result<Simulation, HostError>;

    /// Whether [`Self::apply`] itself refuses an impossible transaction before it changes anything.
    /// Otherwise [`Self::simulate`] must be called first.
    fn refuses_untouched(&self) -> bool;

    /// Installs, upgrades, downgrades and removes. The result is judged by what the package
    /// database shows of the transaction's packages, and not by the exit code of the package
    /// manager.
    async fn apply(&self, transaction: &Transaction) -> Result<Applied, ApplyError>;

    /// Whether nothing of a package that is about to be installed is on this host: neither the
    /// package nor its configuration files. Only then may [`Self::purge`] delete all of it again.
    async fn is_new_here(&self, source: &Source) -> Result<bool, HostError>;

    /// Deletes the configuration files that the removal of `package` has left. Does nothing to a
    /// package that is installed, nor where the package manager leaves none.
    async fn purge(&self, package: &str) -> Result<(), HostError>;

    /// Clears the mark that an installed package is to be removed, which an interrupted removal has
    /// left. Does nothing where the package manager has no such mark.
    async fn keep(&self, package: &str) -> Result<(), HostError>;

    /// Returns when a package manager runs that can outlive the agent; never, if none can.
    /// Cancel-safe.
    async fn works_alone(&self);

    /// Waits for the end of the runs that an earlier agent started. Cancel-safe.
    async fn earlier_runs_end(&self) -> Result<EarlierRuns, HostError>;

    /// Deletes the results of the runs that an earlier agent started.
    async fn forget_earlier_runs(&self) -> Result<(), HostError>;

    /// Absolute paths that an installed package ships, without the root.
    async fn shipped_files(&self, package: &str) -> Result<Vec<PathBuf>, HostError>;

    /// [`Self::shipped_files`] of those of `packages` that are cheaper to ask for together than one
    /// by one.
    async fn shipped_files_of(&self, packages: &[&str]) -> Result<BTreeMap<String, Vec<PathBuf>>, HostError>;

    /// Files whose change means that the package database may have changed (for inotify), under the
    /// root.
    fn database_paths(&self) -> Vec<PathBuf>;
}

/// `app 1.0-1, other 2.0-1, removal of web`, for messages.
pub(super) fn describe(transaction: &Transaction) -> String {
    let installs = transaction.install.iter().map(|source| match source {
        Source::File(file) => format!("{} {}", file.name, file.version),
        Source::Repository { name, version } => format!("{name} {version}"),
    });
    let removals = transaction.remove.iter().map(|name| format!("removal of {name}"));
    installs.chain(removals).collect::<Vec<_>>().join(", ")
}
