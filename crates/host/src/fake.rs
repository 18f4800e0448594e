//! A scripted host for unit tests of the engine: packages, services, config and downloads in
//! memory, a log of operations, and failures on demand. Tests of the real facilities use real
//! hosts.

#![allow(clippy::unwrap_used)] // For tests only: to panic is to fail the test.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use protocol::satisfied::version_satisfied;
use protocol::{AppName, Category, Config};

use super::packages::compare_versions;
use super::services::ServiceChanges;
use super::{
    AppConfig, Applied, ApplyError, Cancel, Contract, ContractKind, Download, Downloads, EarlierRuns, Family,
    Host, HostError, InstalledPackage, InstalledPackages, PackageFile, Packages, PackagesByName,
    ServiceState, Services, Simulation, Source, Transaction,
};

/// One application that can be downloaded from `http://fake/NAME-VERSION.deb`.
#[derive(Debug, Clone)]
pub struct Offer {
    pub package: String,
    pub version: String,
    pub services: BTreeSet<String>,
}

#[derive(Debug, Default)]
pub struct FakeState {
    pub offers: BTreeMap<String, Offer>,
    pub packages: PackagesByName,
    /// The last answer; returned again while nothing has changed, as the real facility does.
    pub handed_out: Arc<InstalledPackages>,
    pub shipped: BTreeMap<String, BTreeSet<String>>,
    pub services: BTreeMap<String, ServiceState>,
    /// The last answers; returned again, as SysV does, unless the caller asks for a fresh one.
    pub answers: BTreeMap<String, ServiceState>,
    pub configs: BTreeMap<String, Config>,
    /// The config file of a package, for the drift watch.
    pub watched_files: BTreeMap<String, PathBuf>,
    /// Where a test reports changed services.
    pub changes: Arc<ServiceChanges>,
    /// Packages without hook or manifest.
    pub without_contract: BTreeSet<String>,
    /// The operations in order: `apply +a=1 -b`, `start a`, `config a`, ...
    pub log: Vec<String>,
    /// Operations that fail, by their line in the log. Each entry makes one run fail.
    pub failures: Vec<(String, HostError)>,
    /// Operations, by their line in the log, during which a package is removed externally.
    pub removed_externally: Vec<(String, String)>,
    /// Operations, by their line in the log, during which a service is started externally.
    pub started_externally: Vec<(String, String)>,
    /// How long it takes to read a config.
    pub read_takes: Duration,
    /// Manifests with an error in them, by package.
    pub broken_contracts: BTreeMap<String, HostError>,
    /// Transactions that change the packages although they fail.
    pub half_done: Vec<String>,
    /// What a transaction ends with besides being done, by its line in the log.
    pub warnings: BTreeMap<String, Vec<String>>,
    /// Which other packages a dry run says would come or go, by its line in the log (`check +a=1`).
    pub simulations: BTreeMap<String, Simulation>,
    /// Versions that the host's repositories offer, by package.
    pub repository: BTreeMap<String, Vec<String>>,
    /// When the package lists were last changed.
    pub lists_stamp: Option<SystemTime>,
    /// Transactions that fail are refused before anything is touched.
    pub refuses: bool,
    /// Applications whose health checks fail.
    pub unhealthy: BTreeSet<String>,
    /// How long the start of a service takes.
    pub start_takes: Duration,
    /// Services that end right after their start.
    pub dying: BTreeSet<String>,
    /// A transaction waits for a permit, if a test sets this.
    pub gate: Option<Arc<tokio::sync::Semaphore>>,
}

impl FakeState {
    pub fn remove(&mut self, package: &str) {
        self.packages.remove(package);
        for service in self.shipped.remove(package).unwrap_or_default() {
            self.services.remove(&service);
        }
    }
}

#[derive(Clone, Default)]
pub struct FakeHost(pub Arc<Mutex<FakeState>>);

impl FakeHost {
    pub fn host(&self) -> Host {
        Host {
            packages: Arc::new(self.clone()),
            services: Arc::new(self.clone()),
            app_config: Arc::new(self.clone()),
            downloads: Arc::new(self.clone()),
        }
    }

    /// Offers `package` at `version`, with one service of its own name.
    pub fn offer(&self, package: &str, version: &str) -> String {
        let url = format!("http://fake/{package}-{version}.deb");
        let services = BTreeSet::from([package.to_owned()]);
        let offer = Offer {
            package: package.into(),
            version: version.into(),
            services,
        };
        self.with(|state| state.offers.insert(url.clone(), offer));
        url
    }

    pub fn with<T>(&self, change: impl FnOnce(&mut FakeState) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn take_log(&self) -> Vec<String> {
        self.with(|state| std::mem::take(&mut state.log))
    }

    /// Logs an operation, and fails if it is in `failures`.
    fn act(&self, line: String) -> Result<(), HostError> {
        self.with(|state| {
            let failure = state.failures.iter().position(|(failing, _)| *failing == line);
            if let Some(index) = state
                .removed_externally
                .iter()
                .position(|(during, _)| *during == line)
            {
                let (_, package) = state.removed_externally.remove(index);
                state.remove(&package);
            }
            if let Some(index) = state
                .started_externally
                .iter()
                .position(|(during, _)| *during == line)
            {
                let (_, service) = state.started_externally.remove(index);
                if let Some(service) = state.services.get_mut(&service) {
                    service.running = true;
                }
            }
            state.log.push(line);
            match failure {
                Some(index) => Err(state.failures.remove(index).1),
                None => Ok(()),
            }
        })
    }
}

fn describe(transaction: &Transaction) -> String {
    let installs = transaction.install.iter().map(|source| match source {
        Source::File(file) => format!("+{}={}", file.name, file.version),
        Source::Repository { name, version } => format!("+{name}={version}"),
    });
    let removals = transaction.remove.iter().map(|name| format!("-{name}"));
    installs.chain(removals).collect::<Vec<_>>().join(" ")
}

#[async_trait]
impl Packages for FakeHost {
    fn family(&self) -> Family {
        Family::Deb
    }

    async fn installed(&self) -> Result<Arc<InstalledPackages>, HostError> {
        Ok(self.with(|state| {
            let packages = InstalledPackages::from(&state.packages);
            if *state.handed_out != packages {
                state.handed_out = Arc::new(packages);
            }
            state.handed_out.clone()
        }))
    }

    async fn inspect(&self, file: &Path) -> Result<PackageFile, HostError> {
        let offers = self.with(|state| state.offers.clone());
        let offer = offers
            .iter()
            .find(|(url, _)| url.ends_with(&*file.file_name().unwrap_or_default().to_string_lossy()))
            .map(|(_, offer)| offer.clone())
            .ok_or_else(|| HostError::new(Category::Verification, "not a package"))?;
        Ok(PackageFile {
            path: file.to_owned(),
            name: offer.package,
            version: offer.version,
            arch: "all".into(),
            arch_fits: true,
            installed_size: 1,
        })
    }

    async fn find_in_repositories(&self, package: &str, version: &str) -> Result<String, HostError> {
        let offered = self.with(|state| state.repository.get(package).cloned().unwrap_or_default());
        let satisfying = offered
            .into_iter()
            .filter(|offer| version_satisfied(version, offer));
        satisfying
            .max_by(|a, b| compare_versions(Family::Deb, a, b))
            .ok_or_else(|| {
                let message = format!("no repository offers {package} {version}");
                HostError::new(Category::NotFound, message)
            })
    }

    async fn find_in_lists(&self, package: &str, version: &str) -> Result<String, HostError> {
        self.find_in_repositories(package, version).await
    }

    fn lists_stamp(&self) -> Option<SystemTime> {
        self.with(|state| state.lists_stamp)
    }

    async fn heal(&self) -> Result<(), HostError> {
        self.act("heal".into())?;
        self.with(|state| {
            state
                .packages
                .values_mut()
                .for_each(|package| package.broken = false)
        });
        Ok(())
    }

    async fn simulate(&self, transaction: &Transaction) -> Result<Simulation, HostError> {
        let line = format!("check {}", describe(transaction));
        let found = self.with(|state| state.simulations.get(&line).cloned());
        self.act(line)?;
        Ok(found.unwrap_or_default())
    }

    fn refuses_untouched(&self) -> bool {
        false
    }

    async fn apply(&self, transaction: &Transaction) -> Result<Applied, ApplyError> {
        if let Some(gate) = self.with(|state| state.gate.clone()) {
            let closed = || ApplyError::Failed(HostError::new(Category::Host, "gate closed"));
            gate.acquire().await.map_err(|_| closed())?.forget();
        }
        let line = format!("apply {}", describe(transaction));
        let half_done = self.with(|state| state.half_done.contains(&line));
        let warnings = self.with(|state| state.warnings.get(&line).cloned().unwrap_or_default());
        let result = match self.act(line) {
            Ok(()) => Ok(Applied { warnings }),
            Err(error) if error.category == Category::Locked => return Err(ApplyError::Locked(error)),
            Err(error) if self.with(|state| state.refuses) => return Err(ApplyError::Refused(error)),
            Err(error) => Err(ApplyError::Failed(error)),
        };
        if result.is_err() && !half_done {
            return result;
        }
        self.with(|state| {
            transaction.remove.iter().for_each(|name| state.remove(name));
            for source in &transaction.install {
                let package = InstalledPackage {
                    version: source.version().to_owned(),
                    arch: "all".into(),
                    broken: false,
                    waits: false,
                    is_application: false,
                };
                state.packages.insert(source.name().to_owned(), package);
                let services = state
                    .offers
                    .values()
                    .find(|o| o.package == source.name())
                    .map(|o| o.services.clone());
                for service in services.iter().flatten() {
                    let stopped = ServiceState {
                        running: false,
                        enabled: Some(false),
                        instance: None,
                        masked: false,
                    };
                    state.services.entry(service.clone()).or_insert(stopped);
                }
                state
                    .shipped
                    .insert(source.name().to_owned(), services.unwrap_or_default());
            }
        });
        result
    }

    async fn is_new_here(&self, _source: &Source) -> Result<bool, HostError> {
        Ok(false)
    }

    async fn purge(&self, _package: &str) -> Result<(), HostError> {
        Ok(())
    }

    async fn keep(&self, _package: &str) -> Result<(), HostError> {
        Ok(())
    }

    async fn works_alone(&self) {
        std::future::pending().await
    }

    async fn earlier_runs_end(&self) -> Result<EarlierRuns, HostError> {
        Ok(EarlierRuns::None)
    }

    async fn forget_earlier_runs(&self) -> Result<(), HostError> {
        Ok(())
    }

    async fn shipped_files_of(
        &self,
        _packages: &[&str],
    ) -> Result<BTreeMap<String, Vec<PathBuf>>, HostError> {
        Ok(BTreeMap::new())
    }

    async fn shipped_files(&self, package: &str) -> Result<Vec<PathBuf>, HostError> {
        let services = self.with(|state| state.shipped.get(package).cloned().unwrap_or_default());
        Ok(services
            .into_iter()
            .map(|name| PathBuf::from(format!("/etc/init.d/{name}")))
            .collect())
    }

    fn database_paths(&self) -> Vec<PathBuf> {
        Vec::new()
    }
}

impl FakeHost {
    fn set_service(
        &self,
        verb: &str,
        service: &str,
        change: impl FnOnce(&mut ServiceState),
    ) -> Result<(), HostError> {
        self.act(format!("{verb} {service}"))?;
        self.with(|state| {
            state.answers.remove(service);
            let known = state.services.get_mut(service);
            let known =
                known.ok_or_else(|| HostError::new(Category::NotFound, format!("no service {service}")))?;
            change(known);
            if state.dying.contains(service) {
                known.running = false;
            }
            Ok(())
        })
    }
}

#[async_trait]
impl Services for FakeHost {
    fn changes(&self) -> Option<Arc<ServiceChanges>> {
        Some(self.with(|state| state.changes.clone()))
    }
    async fn state(&self, service: &str, fresh: bool) -> Result<Option<ServiceState>, HostError> {
        Ok(self.with(|state| {
            let there = state.services.get(service).copied()?;
            let kept = state.answers.get(service).copied().filter(|_| !fresh);
            let answer = kept.unwrap_or(there);
            state.answers.insert(service.to_owned(), answer);
            Some(answer)
        }))
    }
    async fn start(&self, service: &str) -> Result<(), HostError> {
        tokio::time::sleep(self.with(|state| state.start_takes)).await;
        self.set_service("start", service, |state| state.running = true)
    }
    async fn stop(&self, service: &str) -> Result<(), HostError> {
        self.set_service("stop", service, |state| state.running = false)
    }
    async fn restart(&self, service: &str) -> Result<(), HostError> {
        tokio::time::sleep(self.with(|state| state.start_takes)).await;
        self.set_service("restart", service, |state| state.running = true)
    }
    async fn reload(&self, service: &str) -> Result<(), HostError> {
        self.set_service("reload", service, |_| {})
    }
    async fn enable(&self, service: &str) -> Result<(), HostError> {
        self.set_service("enable", service, |state| state.enabled = Some(true))
    }
    async fn disable(&self, service: &str) -> Result<(), HostError> {
        self.set_service("disable", service, |state| state.enabled = Some(false))
    }
    async fn reread_units(&self) -> Result<(), HostError> {
        self.with(|state| state.answers.clear());
        Ok(())
    }
    fn forget_answers(&self) {}
    fn has_unit_files(&self) -> bool {
        false
    }
    fn services_in(&self, files: &[PathBuf]) -> BTreeSet<String> {
        files
            .iter()
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .collect()
    }
}

#[async_trait]
impl AppConfig for FakeHost {
    async fn contract(&self, _app: &AppName, package: &str) -> Result<Arc<Contract>, HostError> {
        if let Some(error) = self.with(|state| state.broken_contracts.get(package).cloned()) {
            return Err(error);
        }
        let none = self.with(|state| state.without_contract.contains(package));
        let kind = if none {
            ContractKind::None
        } else {
            ContractKind::Hook
        };
        Ok(Arc::new(Contract {
            kind,
            services: None,
            watched_files: self.with(|state| state.watched_files.get(package).cloned().into_iter().collect()),
            has_checks: true,
            stamp: None,
        }))
    }

    async fn read(&self, app: &AppName, _package: &str) -> Result<Arc<Config>, HostError> {
        tokio::time::sleep(self.with(|state| state.read_takes)).await;
        let config = self.with(|state| state.configs.get(app.as_str()).cloned().unwrap_or_default());
        Ok(Arc::new(config))
    }

    async fn write(
        &self,
        app: &AppName,
        _package: &str,
        desired: &Config,
        _running: &BTreeSet<String>,
    ) -> Result<(), HostError> {
        self.act(format!("config {app}"))?;
        self.with(|state| {
            let config = state.configs.entry(app.to_string()).or_default();
            for (section, keys) in desired {
                config.entry(section.clone()).or_default().extend(keys.clone());
            }
        });
        Ok(())
    }

    async fn unfinished(&self) -> Result<BTreeSet<AppName>, HostError> {
        Ok(BTreeSet::new())
    }

    async fn stays_healthy(&self, app: &AppName, package: &str, period: Duration) -> Result<(), HostError> {
        self.is_healthy(app, package).await?;
        tokio::time::sleep(period).await;
        self.is_healthy(app, package).await
    }

    async fn is_healthy(&self, app: &AppName, _package: &str) -> Result<(), HostError> {
        match self.with(|state| state.unhealthy.contains(app.as_str())) {
            true => Err(HostError::new(
                Category::Unhealthy,
                format!("the health check of {app} failed"),
            )),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Downloads for FakeHost {
    async fn fetch(&self, download: &Download, _cancel: &Cancel) -> Result<PathBuf, HostError> {
        self.act(format!("fetch {}", download.url))?;
        if !self.with(|state| state.offers.contains_key(&download.url)) {
            return Err(HostError::new(
                Category::NotFound,
                format!("{} does not exist (404)", download.url),
            ));
        }
        let name = download.url.rsplit('/').next().unwrap_or_default();
        Ok(PathBuf::from("/var/cache/pf9apps").join(name))
    }

    async fn discard(&self, _file: &Path) {}

    async fn keep(&self, file: &Path) -> Result<PathBuf, HostError> {
        Ok(file.to_owned())
    }

    fn protect(&self, _files: &BTreeSet<PathBuf>) {}
}
