//! rpm and dnf.
//!
//! Under a sandbox root rpm does not change its root (`--root` needs privileges, and a shell
//! inside) but relocates: `/` of every package becomes the root. Paths in the database are then
//! those of the real host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use protocol::Category;

use super::cache::{Cache, Stamp};
use super::messages;
use super::offers::Refreshes;
use super::outcome::judge;
use super::runs::{self, FailedRun, ask, run, run_in_turn};
use super::{Options, ROOT_VARIABLE, check_name, check_path, check_words, describe};
use crate::command::{Command, CommandError, Overflow, OwnUnits, Runner, last_lines};
use crate::{
    Applied, ApplyError, EarlierRuns, Family, HostError, InstalledPackages, PackageFile, Packages, Root,
    Simulation, Source, Transaction,
};

mod database;
mod dnf;
mod repositories;

use database::{ENTRY_FORMAT, RpmDatabase, without_zero_epoch};
use dnf::{DnfTool, argument, verb_for};

/// Where distributions keep the database: Fedora and SUSE, and all others.
const DATABASE_FOLDERS: [&str; 2] = ["/usr/lib/sysimage/rpm", "/var/lib/rpm"];
/// One of these is the database, by rpm's back ends: sqlite and its journal, ndb, Berkeley DB.
const DATABASE_FILES: [&str; 4] = ["rpmdb.sqlite", "rpmdb.sqlite-wal", "Packages.db", "Packages"];
/// In the database's folder; dnf itself reports the holder of its own lock.
const RPM_LOCKS: [&str; 1] = [".rpm.lock"];
/// First bytes of a package. rpm reads a file without them as a list of packages to fetch.
const MAGIC: [u8; 4] = [0xED, 0xAB, 0xEE, 0xDB];
/// Where dnf 4 and dnf 5 keep what repositories offer.
const METADATA_FOLDERS: [&str; 2] = ["/var/cache/dnf", "/var/cache/libdnf5"];
const LOG_CAP: usize = 64 * 1024;
/// A line for each of some thousand packages, or for each file of a large one.
const QUERY_CAP: usize = 16 * 1024 * 1024;
const QUERY_DEADLINE: Duration = Duration::from_secs(60);

/// The database beside its packages, which are handed out.
type RpmSnapshot = (Arc<RpmDatabase>, Arc<InstalledPackages>);

/// A host or sandbox with rpm.
pub struct Rpm {
    root: Root,
    folder: PathBuf,
    deadline: Duration,
    cache: Cache<RpmSnapshot>,
    units: Option<Arc<OwnUnits>>,
    runner: Option<Arc<Runner>>,
    refreshes: Refreshes,
}

/// The folder of `root` that holds an rpm database.
pub(super) fn database_folder(root: &Root) -> Option<PathBuf> {
    let folders = DATABASE_FOLDERS.map(|folder| root.join(folder));
    folders
        .into_iter()
        .find(|folder| DATABASE_FILES.iter().any(|file| folder.join(file).is_file()))
}

impl Rpm {
    /// `deadline`: for one run of rpm or dnf, scriptlets included.
    pub fn new(root: Root, options: Options) -> Self {
        let folder = database_folder(&root).unwrap_or_else(|| root.join(DATABASE_FOLDERS[1]));
        Self {
            units: OwnUnits::of(&root),
            runner: options.runner,
            root,
            folder,
            deadline: options.deadline,
            cache: Cache::empty(),
            refreshes: Refreshes::new(options.refresh_interval),
        }
    }

    /// The database; asked for anew only if its files have changed.
    async fn database(&self) -> Result<RpmSnapshot, HostError> {
        let stamp = Stamp::of(&self.database_paths());
        if let Some(snapshot) = self.cache.get(&stamp) {
            return Ok(snapshot);
        }
        let all = self.query().args(["--all", "--queryformat", ENTRY_FORMAT]);
        let (entries, applications) = tokio::try_join!(ask(&all), self.applications())?;
        let mut database = database::parse(&entries, &applications);
        let packages = Arc::new(InstalledPackages::from(&std::mem::take(&mut database.packages)));
        let snapshot = (Arc::new(database), packages);
        self.cache.keep(stamp, snapshot.clone());
        Ok(snapshot)
    }

    /// Names of the packages that provide the mark, one a line.
    async fn applications(&self) -> Result<String, HostError> {
        let query = self
            .query()
            .args(["--whatprovides", "--queryformat", "%{NAME}\\n", "--"]);
        let query = query.arg(super::APPLICATION_MARK);
        let output = query.run_any_exit().await.map_err(HostError::from)?;
        match output.success() {
            true => Ok(output.stdout_text()),
            false if output.stdout_text().starts_with("no package provides") => Ok(String::new()),
            // Without this answer, applications would be taken for other packages.
            false => {
                let failure = query.failure(&output);
                Err(HostError::new(Category::Host, failure.to_string()).with_source(failure))
            }
        }
    }

    /// `rpm --query` on this root's database.
    fn query(&self) -> Command {
        let rpm = Command::new("rpm")
            .deadline(QUERY_DEADLINE)
            .output_cap(QUERY_CAP, Overflow::Kill);
        self.on_root(rpm).arg("--query")
    }

    /// `rpm` in a way that changes this root.
    fn rpm(&self) -> Command {
        self.on_root(self.prepare(Command::new("rpm")))
    }

    fn on_root(&self, rpm: Command) -> Command {
        match self.root.is_host() {
            true => rpm,
            false => rpm
                .arg("--dbpath")
                .arg(&self.folder)
                .env(ROOT_VARIABLE, self.root.path()),
        }
    }

    /// A path of the database, as the host's programs name it.
    fn without_root(&self, file: &Path) -> PathBuf {
        match file.strip_prefix(self.root.path()) {
            Ok(inside) => Path::new("/").join(inside),
            Err(_) => file.to_owned(),
        }
    }

    fn prepare(&self, command: Command) -> Command {
        command
            .in_unit(self.units.as_ref())
            .deadline(self.deadline)
            .output_cap(LOG_CAP, Overflow::KeepTail)
            // Scriptlets may call programs made for both families.
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("NEEDRESTART_SUSPEND", "1")
            .env("NEEDRESTART_MODE", "l")
    }

    /// Installs all `files` in one run: newer, older or the same version. `mode`: nothing, or
    /// `--test`.
    fn rpm_install(&self, mode: &[&str], files: Vec<PathBuf>) -> Command {
        let rpm = self
            .rpm()
            .args(["--upgrade", "--oldpackage", "--replacepkgs"])
            .args(mode);
        // Otherwise rpm would fetch the packages of a list, and read a file's name as a pattern.
        let rpm = rpm.args(["--nomanifest", "--noglob"]);
        let rpm = match self.root.is_host() {
            true => rpm,
            false => rpm
                .args(["--badreloc", "--relocate"])
                .arg(format!("/={}", self.root.path().display())),
        };
        rpm.arg("--").args(files)
    }

    /// Fails if another package depends on a removed one; dnf would remove that as well.
    fn rpm_remove(&self, mode: &[&str], names: &[String]) -> Command {
        self.rpm()
            .args(["--erase", "--allmatches"])
            .args(mode)
            .arg("--")
            .args(names)
    }

    fn removal(&self, mode: &[&str], transaction: &Transaction) -> Option<Command> {
        (!transaction.remove.is_empty()).then(|| self.rpm_remove(mode, &transaction.remove))
    }

    /// Without removals of packages that are not installed.
    fn still_to_do(transaction: &Transaction, installed: &InstalledPackages) -> Transaction {
        let mut transaction = transaction.clone();
        transaction.remove.retain(|name| installed.contains(name));
        transaction
    }

    /// Runs of dnf, which fetches dependencies: one for packages that change version, one for
    /// packages to reinstall. yum, its predecessor, needs a separate run for downgrades.
    fn dnf_runs(
        &self,
        tool: DnfTool,
        transaction: &Transaction,
        installed: &InstalledPackages,
        answer: &str,
    ) -> Vec<Command> {
        let verbs = ["install", "downgrade", "reinstall"].map(|verb| {
            let sources = transaction.install.iter();
            let sources = sources.filter(|source| verb_for(tool, source, installed) == verb);
            (verb, sources.map(argument).collect::<Vec<_>>())
        });
        let needed = verbs.into_iter().filter(|(_, arguments)| !arguments.is_empty());
        needed
            .map(|(verb, arguments)| self.dnf(tool).args([answer, verb, "--"]).args(arguments))
            .collect()
    }

    /// Dependencies of `names` stay installed.
    fn dnf_remove(&self, tool: DnfTool, names: &[String]) -> Command {
        let dnf = self.dnf(tool).arg("--setopt=clean_requirements_on_remove=False");
        dnf.args(["--assumeyes", "remove", "--"]).args(names)
    }

    fn dnf(&self, tool: DnfTool) -> Command {
        match tool {
            DnfTool::Yum => self.prepare(Command::new("yum")),
            DnfTool::Dnf => self
                .prepare(Command::new("dnf"))
                .arg("--setopt=install_weak_deps=False")
                // Ends at once, with a message, instead of waiting without end.
                .arg("--setopt=exit_on_lock=True"),
        }
    }

    /// Fails if the database cannot be opened (Berkeley DB after a kill), after trying to rebuild
    /// it.
    async fn readable(&self) -> Result<Arc<RpmDatabase>, HostError> {
        match self.database().await {
            Ok((database, _)) => Ok(database),
            Err(error) if is_damaged_database(&error) => {
                tracing::warn!("rebuilding the rpm database: {error}");
                run(self.rpm().arg("--rebuilddb"), "rebuilding the rpm database").await?;
                Ok(self.database().await?.0)
            }
            Err(error) => Err(error),
        }
    }

    async fn run(&self, transaction: &Transaction, installed: &InstalledPackages) -> Result<(), FailedRun> {
        let doing = describe(transaction);
        if self.root.is_host() {
            return self.run_dnf(transaction, installed, &doing).await;
        }
        let files = local_files(transaction).map_err(FailedRun::before_start)?;
        let removal = self.removal(&[], transaction);
        let install = (!files.is_empty()).then(|| self.rpm_install(&[], files));
        match run_in_turn(removal.clone(), install.clone(), &doing).await {
            Err(failed) if messages::reports_name_clash(&failed.said) => {
                let error = failed.error;
                tracing::warn!(
                    "a killed run left a temporary file of the name that rpm uses in this second; retrying in the next second: {error}"
                );
                tokio::time::sleep(Duration::from_secs(1)).await;
                run_in_turn(removal, install, &doing).await
            }
            result => result,
        }
    }

    /// dnf on the host. It would remove every package that depends on a removed one, so rpm's dry
    /// run must first show that there is none. If there is one that the installation replaces, the
    /// installation comes first.
    async fn run_dnf(
        &self,
        transaction: &Transaction,
        installed: &InstalledPackages,
        doing: &str,
    ) -> Result<(), FailedRun> {
        let tool = DnfTool::of_host();
        let removal = (!transaction.remove.is_empty()).then(|| self.dnf_remove(tool, &transaction.remove));
        let mut removal_comes_last = false;
        if let Some(removal) = &removal {
            match run(self.rpm_remove(&["--test"], &transaction.remove), doing).await {
                Ok(_) => drop(run(removal.clone(), doing).await?),
                Err(failed)
                    if failed.error.category == Category::Dependency && !transaction.install.is_empty() =>
                {
                    removal_comes_last = true;
                }
                Err(failed) => return Err(failed),
            }
        }
        for dnf in self.dnf_runs(tool, transaction, installed, "--assumeyes") {
            run(dnf, doing).await?;
        }
        if let Some(removal) = removal.filter(|_| removal_comes_last) {
            run(self.rpm_remove(&["--test"], &transaction.remove), doing).await?;
            run(removal, doing).await?;
        }
        Ok(())
    }

    /// dnf's dry run: it prints its plan, and is told not to continue.
    async fn simulate_dnf(
        &self,
        transaction: &Transaction,
        installed: &InstalledPackages,
        doing: &str,
    ) -> Result<Simulation, FailedRun> {
        let tool = DnfTool::of_host();
        if let Some(removal) = self.removal(&["--test"], transaction)
            && let Err(failed) = run(removal, doing).await
            && (failed.error.category != Category::Dependency || transaction.install.is_empty())
        {
            return Err(failed);
        }
        let mut simulation = Simulation::default();
        for dnf in self.dnf_runs(tool, transaction, installed, "--assumeno") {
            // A query: after a crash of the agent its result is not needed.
            let dnf = dnf
                .by_runner(self.runner.as_ref())
                .output_cap(QUERY_CAP, Overflow::Kill);
            let plan = match run(dnf, doing).await {
                Ok(output) => output.stdout_text(),
                Err(failed) if dnf::is_plan(&failed.printed) => failed.printed,
                Err(failed) => return Err(failed),
            };
            dnf::add_plan(&plan, transaction, &mut simulation);
        }
        Ok(simulation)
    }
}

/// Whether the error is rpm's message that it cannot read its database.
fn is_damaged_database(error: &HostError) -> bool {
    let command = error.source.as_ref().and_then(|source| source.downcast_ref());
    matches!(command, Some(CommandError::Failed { output, .. }) if output.contains("database"))
}

#[async_trait]
impl Packages for Rpm {
    fn family(&self) -> Family {
        Family::Rpm
    }

    async fn installed(&self) -> Result<Arc<InstalledPackages>, HostError> {
        Ok(self.database().await?.1)
    }

    async fn inspect(&self, file: &Path) -> Result<PackageFile, HostError> {
        check_path(file)?;
        let not_usable = |why: &str| {
            HostError::new(
                Category::Verification,
                format!("{} is not an rpm package: {why}", file.display()),
            )
        };
        if !begins_with_magic(file).map_err(|error| not_usable(&error.to_string()))? {
            return Err(not_usable("it does not begin with the magic bytes of one"));
        }
        let arch_fits = |arch: &str| arch_fits(arch, &rustix::system::uname().machine().to_string_lossy());
        let format = "%{NAME}\\n%{EPOCHNUM}:%{VERSION}-%{RELEASE}\\n%{ARCH}\\n%{LONGSIZE}\\n%|SOURCERPM?{binary}:{source}|\\n";
        // On the root's database: rpm looks for keys even here, and makes a database where it finds
        // none.
        let query = self.query().args([
            "--package",
            "--nomanifest",
            "--noglob",
            "--queryformat",
            format,
            "--",
        ]);
        let output = query.arg(file).run_any_exit().await.map_err(HostError::from)?;
        if !output.success() {
            return Err(not_usable(&last_lines(&output.stderr_text())));
        }
        let text = output.stdout_text();
        let mut fields = text.lines();
        let mut field = || fields.next().unwrap_or_default().to_owned();
        let (name, version, arch, size, kind) = (field(), field(), field(), field(), field());
        if kind != "binary" {
            return Err(not_usable("it is a source package"));
        }
        let version = without_zero_epoch(&version).to_owned();
        check_name(&name).map_err(|error| not_usable(&error.message))?;
        super::check_version(&version).map_err(|error| not_usable(&error.message))?;
        Ok(PackageFile {
            path: file.to_owned(),
            name,
            version,
            arch_fits: arch_fits(&arch),
            arch,
            installed_size: size.parse().unwrap_or(0),
        })
    }

    async fn find_in_repositories(&self, package: &str, version: &str) -> Result<String, HostError> {
        self.find(package, version, true).await
    }

    async fn find_in_lists(&self, package: &str, version: &str) -> Result<String, HostError> {
        self.find(package, version, false).await
    }

    fn lists_stamp(&self) -> Option<SystemTime> {
        METADATA_FOLDERS
            .iter()
            .filter_map(|folder| newest_metadata(&self.root.join(folder)))
            .max()
    }

    async fn heal(&self) -> Result<(), HostError> {
        let database = self.readable().await?;
        if database.superseded.is_empty() {
            return Ok(());
        }
        // Packages that are not applications are left to their owner; they stay `broken`.
        let (_, installed) = self.database().await?;
        let is_ours = |name: &str| installed.get(name).is_some_and(|package| package.is_application);
        let ours = database.superseded.iter().filter(|entry| is_ours(&entry.name));
        let labels: Vec<_> = ours
            .map(|entry| format!("{}-{}", entry.name, entry.label))
            .collect();
        if labels.is_empty() {
            return Ok(());
        }
        tracing::warn!(packages = ?labels, "removing duplicate rpm entries that a killed upgrade has left");
        // Its scripts would stop the services of the version that has replaced it.
        let rpm = self
            .rpm()
            .args(["--erase", "--nodeps", "--noscripts", "--notriggers", "--"]);
        run(rpm.args(labels), "removing superseded packages").await?;
        Ok(())
    }

    async fn simulate(&self, transaction: &Transaction) -> Result<Simulation, HostError> {
        check_words(transaction)?;
        let (_, installed) = self.database().await?;
        let transaction = Self::still_to_do(transaction, &installed);
        let doing = format!("dry run of {}", describe(&transaction));
        if transaction.is_empty() {
            return Ok(Simulation::default());
        }
        if self.root.is_host() {
            return Ok(self.simulate_dnf(&transaction, &installed, &doing).await?);
        }
        let files = local_files(&transaction)?;
        let removal = self.removal(&["--test"], &transaction);
        let install = (!files.is_empty()).then(|| self.rpm_install(&["--test"], files));
        run_in_turn(removal, install, &doing).await?;
        Ok(Simulation::default())
    }

    fn refuses_untouched(&self) -> bool {
        self.root.is_host()
    }

    async fn apply(&self, transaction: &Transaction) -> Result<Applied, ApplyError> {
        check_words(transaction).map_err(ApplyError::Refused)?;
        let before = self.installed().await.map_err(ApplyError::Refused)?;
        let transaction = Self::still_to_do(transaction, &before);
        if transaction.is_empty() {
            return Ok(Applied::default());
        }
        let locks = RPM_LOCKS.map(|lock| self.folder.join(lock));
        let run = self.run(&transaction, &before).await;
        let run = run.map_err(|failed| failed.naming_holder(&locks));
        let after = self.installed().await.map_err(ApplyError::Failed)?;
        judge(Family::Rpm, &transaction, run, &before, &after)
    }

    /// Files of a failed rpm installation cannot be told apart from earlier ones.
    async fn is_new_here(&self, _source: &Source) -> Result<bool, HostError> {
        Ok(false)
    }

    /// rpm leaves configuration files only where somebody changed them, and then they are not its
    /// own any longer.
    async fn purge(&self, _package: &str) -> Result<(), HostError> {
        Ok(())
    }

    /// rpm has no such mark.
    async fn keep(&self, _package: &str) -> Result<(), HostError> {
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
        if !self.database().await?.1.contains(package) {
            return Err(HostError::new(
                Category::NotFound,
                format!("package {package} is not installed"),
            ));
        }
        let text = ask(&self.query().args(["--list", "--", package])).await?;
        let files = text.lines().filter(|line| line.starts_with('/'));
        Ok(files.map(|file| self.without_root(Path::new(file))).collect())
    }

    async fn shipped_files_of(&self, packages: &[&str]) -> Result<BTreeMap<String, Vec<PathBuf>>, HostError> {
        let (_, installed) = self.database().await?;
        let installed = |name: &&&str| installed.contains(name) && check_name(name).is_ok();
        let names: Vec<&str> = packages.iter().filter(installed).copied().collect();
        let mut files: BTreeMap<String, Vec<PathBuf>> = names
            .iter()
            .map(|name| ((*name).to_owned(), Vec::new()))
            .collect();
        if names.is_empty() {
            return Ok(files);
        }
        let format = "[%{=NAME} %{FILENAMES}\\n]";
        let text = ask(&self.query().args(["--queryformat", format, "--"]).args(names)).await?;
        for (name, file) in text.lines().filter_map(|line| line.split_once(' ')) {
            if file.starts_with('/')
                && let Some(files) = files.get_mut(name)
            {
                files.push(self.without_root(Path::new(file)));
            }
        }
        Ok(files)
    }

    fn database_paths(&self) -> Vec<PathBuf> {
        DATABASE_FILES.iter().map(|file| self.folder.join(file)).collect()
    }
}

/// When the metadata of any repository in dnf's cache was last changed: each has a folder with a
/// `repodata` in it.
fn newest_metadata(cache: &Path) -> Option<SystemTime> {
    let repositories = std::fs::read_dir(cache).ok()?.filter_map(Result::ok);
    let metadata = repositories.filter_map(|entry| std::fs::metadata(entry.path().join("repodata")).ok());
    metadata.filter_map(|metadata| metadata.modified().ok()).max()
}

fn begins_with_magic(file: &Path) -> std::io::Result<bool> {
    use std::io::Read;
    let mut beginning = Vec::new();
    std::fs::File::open(file)?
        .take(MAGIC.len() as u64)
        .read_to_end(&mut beginning)?;
    Ok(beginning == MAGIC)
}

/// Whether a machine (`uname -m`) takes packages for `arch`.
fn arch_fits(arch: &str, machine: &str) -> bool {
    let also: &[&str] = match machine {
        "x86_64" => &["x86_64_v2", "i386", "i486", "i586", "i686", "amd64"],
        "i686" => &["i386", "i486", "i586"],
        "armv7l" => &["armv7hl", "armv7hnl", "armhfp"],
        _ => &[],
    };
    arch == "noarch" || arch == machine || also.contains(&arch)
}

fn local_files(transaction: &Transaction) -> Result<Vec<PathBuf>, HostError> {
    let file = |source: &Source| match source {
        Source::File(file) => Ok(file.path.clone()),
        Source::Repository { name, .. } => Err(HostError::new(
            Category::NotFound,
            format!("package {name} needs a url: a sandbox root has no repositories"),
        )),
    };
    transaction.install.iter().map(file).collect()
}

#[cfg(test)]
mod tests;
