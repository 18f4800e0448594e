//! dpkg and apt.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use protocol::Category;
use tokio::sync::OnceCell;

use super::cache::{Cache, Stamp};
use super::offers::Refreshes;
use super::outcome::judge;
use super::runs::{self, FailedRun, ask, run, run_in_turn};
use super::space::{self, Arrival};
use super::{Options, ROOT_VARIABLE, check_name, check_path, check_words, describe};
use crate::command::{Command, Overflow, OwnUnits, Runner};
use crate::{
    Applied, ApplyError, EarlierRuns, Family, HostError, InstalledPackages, PackageFile, Packages, Root,
    Simulation, Source, Transaction,
};

mod apt;
pub(super) mod database;
pub(super) mod package_file;
mod repositories;
mod stanzas;

use apt::simulation;
use database::{Breakage, DpkgDatabase};

/// A line for each file of a large package, or for each package of a large change.
const QUERY_CAP: usize = 64 * 1024 * 1024;
const ADMIN_FOLDER: &str = "/var/lib/dpkg";
/// Where apt keeps the lists of what repositories offer.
const APT_LISTS: &str = "/var/lib/apt/lists";
/// Makes dpkg restore configuration files that were deleted.
const RESTORE_CONFFILES: &str = "--force-confmiss";
/// The end of a package manager's output says why it failed.
const LOG_CAP: usize = 64 * 1024;
/// Queries: they read, and never wait.
const QUERY_DEADLINE: Duration = Duration::from_secs(60);

/// The database beside its packages, which are handed out.
type DpkgSnapshot = (Arc<DpkgDatabase>, Arc<InstalledPackages>);

/// A host or sandbox with dpkg.
pub struct Deb {
    root: Root,
    admin: PathBuf,
    deadline: Duration,
    cache: Cache<DpkgSnapshot>,
    units: Option<Arc<OwnUnits>>,
    runner: Option<Arc<Runner>>,
    native_arch: OnceCell<String>,
    /// Packages whose scripts have hung.
    hung: Mutex<BTreeSet<String>>,
    refreshes: Refreshes,
}

/// The program that makes a change on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChangeProgram {
    Apt,
    Dpkg,
}

/// Whether `root` has a dpkg database that holds packages.
pub(super) fn has_packages(root: &Root) -> bool {
    fs::metadata(root.join(ADMIN_FOLDER).join("status")).is_ok_and(|data| data.len() > 1)
}

impl Deb {
    /// `deadline`: for one run of dpkg or apt, maintainer scripts included.
    pub fn new(root: Root, options: Options) -> Self {
        let admin = root.join(ADMIN_FOLDER);
        Self {
            units: OwnUnits::of(&root),
            runner: options.runner,
            root,
            admin,
            deadline: options.deadline,
            cache: Cache::empty(),
            native_arch: OnceCell::new(),
            hung: Mutex::default(),
            refreshes: Refreshes::new(options.refresh_interval),
        }
    }

    fn locks(&self) -> [PathBuf; 2] {
        ["lock-frontend", "lock"].map(|lock| self.admin.join(lock))
    }

    /// The database; read anew only if its files have changed.
    fn database(&self) -> Result<DpkgSnapshot, HostError> {
        let stamp = Stamp::of(&self.database_paths());
        if let Some(snapshot) = self.cache.get(&stamp) {
            return Ok(snapshot);
        }
        let mut database = database::read(&self.admin).map_err(|error| {
            let admin = self.admin.display();
            HostError::new(
                Category::Host,
                format!("cannot read the dpkg database in {admin}: {error}"),
            )
        })?;
        let packages = Arc::new(InstalledPackages::from(&std::mem::take(&mut database.packages)));
        let snapshot = (Arc::new(database), packages);
        self.cache.keep(stamp, snapshot.clone());
        Ok(snapshot)
    }

    /// `dpkg` on this root.
    fn dpkg(&self) -> Command {
        let dpkg = |program| {
            self.prepare(Command::new(program))
                .args(["--force-confdef", "--force-confold"])
        };
        if self.root.is_host() {
            // As apt runs it, so that maintainer scripts find the same programs.
            return dpkg("/usr/bin/dpkg").env("PATH", apt::PATH);
        }
        let root = self.root.path().display();
        dpkg("dpkg")
            .arg(format!("--root={root}"))
            // The host's own dpkg.cfg may name the host's log.
            .arg(format!("--log={root}/var/log/dpkg.log"))
            .args(["--force-not-root", "--force-script-chrootless"])
            .env(ROOT_VARIABLE, self.root.path())
    }

    /// `apt-get` on this host.
    fn apt_get(&self) -> Command {
        self.prepare(Command::new("apt-get"))
            .args([
                "-q",
                "-y",
                "--allow-downgrades",
                "--reinstall",
                "--no-install-recommends",
            ])
            .args([
                "-o",
                "Dpkg::Options::=--force-confdef",
                "-o",
                "Dpkg::Options::=--force-confold",
            ])
            // With a terminal of its own dpkg would run in another session, out of the group's
            // reach.
            .args(["-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=3"])
    }

    fn prepare(&self, command: Command) -> Command {
        command
            .in_unit(self.units.as_ref())
            .deadline(self.deadline)
            .output_cap(LOG_CAP, Overflow::KeepTail)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("DEBCONF_NONINTERACTIVE_SEEN", "true")
            .env("APT_LISTCHANGES_FRONTEND", "none")
            .env("UCF_FORCE_CONFFOLD", "1")
            // It might restart the agent in the middle of the transaction.
            .env("NEEDRESTART_SUSPEND", "1")
            .env("NEEDRESTART_MODE", "l")
    }

    /// One run of apt-get for all of it. `mode`: nothing, or `--simulate`.
    async fn apt_transaction(&self, transaction: &Transaction, mode: &[&str]) -> Result<Command, HostError> {
        let mut apt_get = self.apt_get().args(mode);
        if self.restores_conffiles(transaction)? {
            apt_get = apt_get
                .arg("-o")
                .arg(format!("Dpkg::Options::={RESTORE_CONFFILES}"));
        }
        let installs = transaction.install.iter().map(|source| match source {
            Source::File(file) => file.path.clone().into_os_string(),
            Source::Repository { name, version } => format!("{name}={version}").into(),
        });
        let removals = self
            .removals(transaction)
            .await?
            .into_iter()
            .map(|name| format!("{name}-").into());
        Ok(apt_get.arg("install").arg("--").args(installs.chain(removals)))
    }

    /// One run of dpkg for all packages that come, one for all that go. `mode`: nothing, or
    /// `--no-act`.
    async fn run_dpkg(&self, transaction: &Transaction, mode: &[&str], doing: &str) -> Result<(), FailedRun> {
        let files = local_files(transaction).map_err(FailedRun::before_start)?;
        let removals = self
            .removals(transaction)
            .await
            .map_err(FailedRun::before_start)?;
        let removal = self.dpkg_remove(mode).args(removals);
        let mut install = self.dpkg().args(mode);
        if self
            .restores_conffiles(transaction)
            .map_err(FailedRun::before_start)?
        {
            install = install.arg(RESTORE_CONFFILES);
        }
        let install = install.args(["--install", "--"]).args(&files);
        let removal = (!transaction.remove.is_empty()).then_some(removal);
        run_in_turn(removal, (!files.is_empty()).then_some(install), doing).await
    }

    /// Removes even what is half-installed; configuration files stay.
    fn dpkg_remove(&self, mode: &[&str]) -> Command {
        self.dpkg()
            .args(mode)
            .args(["--force-remove-reinstreq", "--remove", "--"])
    }

    /// Without removals of packages that are not installed.
    fn still_to_do(&self, transaction: &Transaction) -> Result<Transaction, HostError> {
        let (_, installed) = self.database()?;
        let mut transaction = transaction.clone();
        transaction.remove.retain(|name| installed.contains(name));
        Ok(transaction)
    }

    /// apt's dry run.
    async fn simulate_apt(&self, transaction: &Transaction) -> Result<Simulation, FailedRun> {
        let doing = format!("dry run of {}", describe(transaction));
        let apt_get = self.apt_transaction(transaction, &["--simulate"]).await;
        // A query: after a crash of the agent its result is not needed.
        let apt_get = apt_get
            .map_err(FailedRun::before_start)?
            .by_runner(self.runner.as_ref())
            .output_cap(QUERY_CAP, Overflow::Kill);
        let output = run(apt_get, &doing).await?;
        Ok(simulation(&output.stdout_text(), transaction))
    }

    /// The program that makes this change on the host, and what else it would change.
    async fn resolve(&self, transaction: &Transaction) -> Result<(Simulation, ChangeProgram), FailedRun> {
        let refused = match self.simulate_apt(transaction).await {
            Ok(simulation) => return Ok((simulation, ChangeProgram::Apt)),
            Err(failed) => failed,
        };
        let is_refusal = refused.touched_nothing && refused.error.category != Category::Locked;
        if !transaction.install.is_empty() || !is_refusal {
            return Err(refused);
        }
        // apt refuses every change while any package is half-installed or lacks a dependency.
        let doing = format!("dry run of {}", describe(transaction));
        match self.run_dpkg(transaction, &["--no-act"], &doing).await {
            Ok(()) => {
                tracing::warn!(
                    "using dpkg for a removal that apt refuses because of other packages: {}",
                    refused.error
                );
                Ok((Simulation::default(), ChangeProgram::Dpkg))
            }
            Err(_) => Err(refused),
        }
    }

    async fn run(&self, transaction: &Transaction) -> Result<(), FailedRun> {
        let doing = describe(transaction);
        let program = if !self.root.is_host() || self.avoids_hung_script(transaction).await? {
            ChangeProgram::Dpkg
        } else if transaction.remove.is_empty() {
            ChangeProgram::Apt
        } else {
            let (simulation, program) = self.resolve(transaction).await?;
            simulation
                .refuse_removals(transaction)
                .map_err(FailedRun::before_start)?;
            program
        };
        match program {
            ChangeProgram::Apt => {
                // Otherwise apt may remove other packages to satisfy dependencies.
                let mode: &[&str] = if transaction.remove.is_empty() {
                    &["--no-remove"]
                } else {
                    &[]
                };
                let apt_get = self.apt_transaction(transaction, mode).await;
                run(apt_get.map_err(FailedRun::before_start)?, &doing)
                    .await
                    .map(|_| ())
            }
            ChangeProgram::Dpkg => self.run_dpkg(transaction, &[], &doing).await,
        }
    }

    /// Whether dpkg has to do this. apt configures all unconfigured packages, and so would run a
    /// script again that has hung in another package.
    async fn avoids_hung_script(&self, transaction: &Transaction) -> Result<bool, FailedRun> {
        let hung = self.hung.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if hung.is_empty() || local_files(transaction).is_err() {
            return Ok(false);
        }
        let (database, _) = self.database().map_err(FailedRun::before_start)?;
        let is_named = |name: &String| {
            transaction.remove.contains(name)
                || transaction.install.iter().any(|source| source.name() == name)
        };
        if !hung
            .iter()
            .any(|name| database.broken.contains_key(name) && !is_named(name))
        {
            return Ok(false);
        }
        let doing = format!("dry run of {}", describe(transaction));
        Ok(self.run_dpkg(transaction, &["--no-act"], &doing).await.is_ok())
    }

    /// Remembers the packages whose scripts ran when a run was killed at its deadline.
    fn note_hung(&self, database: &DpkgDatabase) {
        let ran = database
            .broken
            .iter()
            .filter(|(_, breakage)| **breakage != Breakage::Unpacked);
        let mut hung = self.hung.lock().unwrap_or_else(PoisonError::into_inner);
        hung.extend(ran.map(|(name, _)| name.clone()));
    }

    /// `NAME`, or `NAME:ARCH` where the package is installed for a foreign architecture: by the
    /// name alone apt means the host's own.
    async fn qualified(&self, name: &str, installed: &InstalledPackages) -> Result<String, HostError> {
        match installed.get(name) {
            Some(package) if package.arch != "all" && package.arch != *self.native_arch().await? => {
                Ok(format!("{name}:{}", package.arch))
            }
            _ => Ok(name.to_owned()),
        }
    }

    /// Names of the packages to remove, as dpkg and apt accept them.
    async fn removals(&self, transaction: &Transaction) -> Result<Vec<String>, HostError> {
        let (_, installed) = self.database()?;
        let mut names = Vec::new();
        for name in &transaction.remove {
            names.push(self.qualified(name, &installed).await?);
        }
        Ok(names)
    }

    /// Whether to restore configuration files that were deleted: those of a package that is removed
    /// but for its configuration files, unless an installed package changes in the same run and
    /// lacks one. That one was deleted on purpose.
    fn restores_conffiles(&self, transaction: &Transaction) -> Result<bool, HostError> {
        let (database, installed) = self.database()?;
        let names = || transaction.install.iter().map(Source::name);
        let lacks_one = |name: &str| {
            let list = self.admin.join("info").join(format!("{name}.conffiles"));
            let list = fs::read_to_string(list).unwrap_or_default();
            let mut conffiles = package_file::listed_conffiles(&list).into_iter();
            conffiles.any(|path| fs::symlink_metadata(self.root.join(path)).is_err())
        };
        Ok(names().any(|name| database.remains.contains(name))
            && !names().any(|name| installed.contains(name) && lacks_one(name)))
    }

    /// Refuses packages that do not fit on the disk. Their file lists are read only if that is
    /// uncertain.
    async fn check_free_space(&self, transaction: &Transaction) -> Result<(), HostError> {
        let files = transaction.install.iter().filter_map(|source| match source {
            Source::File(file) => Some(file),
            Source::Repository { .. } => None,
        });
        if space::is_ample(&self.root, files.clone().map(|file| file.installed_size).sum()) {
            return Ok(());
        }
        let mut arrivals = Vec::new();
        for file in files {
            let contents = Command::new("dpkg-deb").arg("--contents").arg(&file.path);
            let contents = contents
                .deadline(self.deadline)
                .output_cap(QUERY_CAP, Overflow::Kill);
            arrivals.push(Arrival {
                name: file.name.clone(),
                new: space::contents(&ask(&contents).await?),
                old: self.shipped_files(&file.name).await.unwrap_or_default(),
            });
        }
        space::check(&self.root, &arrivals)
    }

    async fn native_arch(&self) -> Result<&String, HostError> {
        let dpkg = Command::new("dpkg")
            .arg("--print-architecture")
            .deadline(QUERY_DEADLINE);
        let native = || async { Ok(ask(&dpkg).await?.trim().to_owned()) };
        self.native_arch.get_or_try_init(native).await
    }
}

#[async_trait]
impl Packages for Deb {
    fn family(&self) -> Family {
        Family::Deb
    }

    async fn installed(&self) -> Result<Arc<InstalledPackages>, HostError> {
        Ok(self.database()?.1)
    }

    async fn inspect(&self, file: &Path) -> Result<PackageFile, HostError> {
        check_path(file)?;
        let said = package_file::read(file).await?;
        let arch = said.arch;
        let foreign = fs::read_to_string(self.admin.join("arch")).unwrap_or_default();
        let arch_fits =
            arch == "all" || arch == *self.native_arch().await? || foreign.lines().any(|other| other == arch);
        Ok(PackageFile {
            path: file.to_owned(),
            name: said.name,
            version: said.version,
            arch,
            arch_fits,
            installed_size: said.installed_size,
        })
    }

    async fn find_in_repositories(&self, package: &str, version: &str) -> Result<String, HostError> {
        self.find(package, version, true).await
    }

    async fn find_in_lists(&self, package: &str, version: &str) -> Result<String, HostError> {
        self.find(package, version, false).await
    }

    fn lists_stamp(&self) -> Option<SystemTime> {
        // Lists are renamed into this folder; their own times are those of the server.
        fs::metadata(self.root.join(APT_LISTS)).ok()?.modified().ok()
    }

    async fn heal(&self) -> Result<(), HostError> {
        let (before, _) = self.database()?;
        if before.broken.is_empty() && !before.interrupted {
            return Ok(());
        }
        // No warning yet: another dpkg may be running, which holds the lock.
        tracing::info!(packages = ?before.broken, interrupted = before.interrupted, "repairing dpkg's database");
        // Packages that only wait to be configured come first: a script that hangs must not delay
        // them.
        let waiting: Vec<_> = before
            .broken
            .iter()
            .filter(|(_, breakage)| **breakage == Breakage::Unpacked)
            .map(|(name, _)| name)
            .collect();
        let mut runs = Vec::new();
        if !waiting.is_empty() && waiting.len() < before.broken.len() {
            runs.push(self.dpkg().args(["--configure", "--"]).args(waiting));
        }
        runs.push(self.dpkg().args(["--configure", "--pending"]));
        for dpkg in runs {
            let run = run(dpkg, "repairing the package database").await;
            match run.map_err(|failed| HostError::from(failed.naming_holder(&self.locks()))) {
                Ok(_) => {}
                Err(locked) if locked.category == Category::Locked => return Err(locked),
                // The script would hang again until the next deadline.
                Err(error) if error.category == Category::Timeout => {
                    tracing::warn!("package still broken; pending packages may be affected: {error}");
                    return Ok(());
                }
                // The database shows which packages stay broken; they must not block the others.
                Err(error) => tracing::warn!("package still broken: {error}"),
            }
        }
        if self.root.is_host() && !self.database()?.0.broken.is_empty() {
            let fix = self.apt_get().args(["--fix-broken", "--no-remove", "install"]);
            if let Err(error) = run(fix, "installing missing dependencies")
                .await
                .map_err(HostError::from)
            {
                tracing::warn!("package still broken: {error}");
            }
        }
        Ok(())
    }

    async fn simulate(&self, transaction: &Transaction) -> Result<Simulation, HostError> {
        check_words(transaction)?;
        self.check_free_space(transaction).await?;
        let transaction = self.still_to_do(transaction)?;
        let doing = format!("dry run of {}", describe(&transaction));
        match self.root.is_host() {
            _ if transaction.is_empty() => Ok(Simulation::default()),
            true => Ok(self.resolve(&transaction).await?.0),
            false => {
                self.run_dpkg(&transaction, &["--no-act"], &doing).await?;
                Ok(Simulation::default())
            }
        }
    }

    fn refuses_untouched(&self) -> bool {
        self.root.is_host()
    }

    async fn apply(&self, transaction: &Transaction) -> Result<Applied, ApplyError> {
        check_words(transaction).map_err(ApplyError::Refused)?;
        self.check_free_space(transaction)
            .await
            .map_err(ApplyError::Refused)?;
        let transaction = self.still_to_do(transaction).map_err(ApplyError::Refused)?;
        if transaction.is_empty() {
            return Ok(Applied::default());
        }
        let (_, before) = self.database().map_err(ApplyError::Refused)?;
        let run = self
            .run(&transaction)
            .await
            .map_err(|failed| failed.naming_holder(&self.locks()));
        let (database, after) = self.database().map_err(ApplyError::Failed)?;
        if matches!(&run, Err(failed) if failed.error.category == Category::Timeout) {
            self.note_hung(&database);
        }
        judge(Family::Deb, &transaction, run, &before, &after)
    }

    async fn is_new_here(&self, source: &Source) -> Result<bool, HostError> {
        // The files of a package that apt has not fetched yet are unknown.
        let Source::File(file) = source else {
            return Ok(false);
        };
        let (database, installed) = self.database()?;
        if installed.contains(&file.name) || database.remains.contains(&file.name) {
            return Ok(false);
        }
        let conffiles = package_file::conffiles(&file.path).await?;
        Ok(!conffiles.iter().any(|path| self.root.join(path).exists()))
    }

    async fn purge(&self, package: &str) -> Result<(), HostError> {
        check_name(package)?;
        if !self.database()?.0.remains.contains(package) {
            return Ok(());
        }
        let purge = self.dpkg().args(["--purge", "--", package]);
        run(purge, &format!("purging {package}")).await?;
        Ok(())
    }

    async fn keep(&self, package: &str) -> Result<(), HostError> {
        check_name(package)?;
        if !self.database()?.0.unwanted.contains(package) {
            return Ok(());
        }
        let select = self
            .dpkg()
            .arg("--set-selections")
            .stdin(format!("{package} install\n"));
        run(select, &format!("clearing the removal mark of {package}")).await?;
        Ok(())
    }

    async fn works_alone(&self) {
        runs::work_alone(self.units.as_ref()).await;
    }

    async fn earlier_runs_end(&self) -> Result<EarlierRuns, HostError> {
        runs::earlier_end(self.units.as_ref(), self.deadline).await
    }

    async fn forget_earlier_runs(&self) -> Result<(), HostError> {
        runs::forget_earlier(self.units.as_ref()).await
    }

    async fn shipped_files(&self, package: &str) -> Result<Vec<PathBuf>, HostError> {
        check_name(package)?;
        let (_, installed) = self.database()?;
        let Some(found) = installed.get(package) else {
            return Err(HostError::new(
                Category::NotFound,
                format!("package {package} is not installed"),
            ));
        };
        // The list of a multi-arch package has the architecture in its name.
        let info = self.admin.join("info");
        let lists = [
            info.join(format!("{package}.list")),
            info.join(format!("{package}:{}.list", found.arch)),
        ];
        let list = lists
            .iter()
            .find_map(|list| fs::read_to_string(list).ok())
            .ok_or_else(|| {
                let path = lists[0].display();
                HostError::new(
                    Category::Host,
                    format!("cannot read the files of package {package}: no {path}"),
                )
            })?;
        Ok(list
            .lines()
            .filter(|line| *line != "/." && !line.is_empty())
            .map(PathBuf::from)
            .collect())
    }

    /// File lists are read without a child process, so reading them together is not cheaper.
    async fn shipped_files_of(
        &self,
        _packages: &[&str],
    ) -> Result<BTreeMap<String, Vec<PathBuf>>, HostError> {
        Ok(BTreeMap::new())
    }

    fn database_paths(&self) -> Vec<PathBuf> {
        vec![self.admin.join("status"), self.admin.join("updates")]
    }
}

fn local_files(transaction: &Transaction) -> Result<Vec<PathBuf>, HostError> {
    let file = |source: &Source| match source {
        Source::File(file) => Ok(file.path.clone()),
        Source::Repository { name, .. } => Err(HostError::new(
            Category::NotFound,
            format!("package {name} needs a URL: a sandbox root has no repositories"),
        )),
    };
    transaction.install.iter().map(file).collect()
}
