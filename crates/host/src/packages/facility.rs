//! The package manager, as the engine sees it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use super::{InstalledPackages, Relations, Stamp};
use crate::HostError;

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
