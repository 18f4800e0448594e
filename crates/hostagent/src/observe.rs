//! Looks at the host, and says what is there in the engine's terms.
//!
//! In steady state this starts no child process: packages come from the package database's own files,
//! services from systemd, config from the last time it was read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::spec::Rank;
use protocol::{AppName, Apps, Config};
use tokio::time::Instant;

use crate::host::{
    Contract, ContractKind, Host, HostError, InstalledPackage, InstalledPackages, ServiceState,
};
use crate::ledger::{Record, Records};

/// The agent's own application: never removed by omission.
pub const SELF_APP: &str = "hostagent";

/// What is on the host, as far as it concerns the agent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// Applications that are installed and managed, or desired and there to be adopted.
    pub apps: BTreeMap<AppName, ObservedApp>,
    /// Every package of the host that is the agent's business by name: what a desired application would
    /// take over.
    pub packages: Arc<InstalledPackages>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ObservedApp {
    pub package: String,
    /// Full version in the package database.
    pub version: String,
    /// Half-installed or half-configured.
    pub broken: bool,
    /// Recorded by the agent, or providing `pf9app`: may be removed.
    pub managed: bool,
    pub url: Option<String>,
    /// As last desired; tells the order of removals.
    pub rank: Option<Rank>,
    pub contract: ContractKind,
    /// Files whose change may mean a change of config. Real paths.
    pub config_files: Vec<PathBuf>,
    /// Each service of the application; `None`: its contract names it, but the host does not have it.
    pub services: BTreeMap<String, Option<ServiceState>>,
    /// Its current config, or why it could not be read.
    pub config: Result<Config, HostError>,
    /// An earlier change was cut short: services may still run with the old config.
    pub config_unfinished: bool,
    /// Its health checks passed when they were last run (at the last full look), or it has none.
    pub healthy: bool,
    /// When `config` was read.
    pub config_read_at: Instant,
}

impl ObservedApp {
    /// Whether it has services and all of them run.
    pub fn running(&self) -> bool {
        !self.services.is_empty()
            && self
                .services
                .values()
                .all(|state| state.is_some_and(|s| s.running))
    }

    pub fn running_services(&self) -> BTreeSet<String> {
        let running = self
            .services
            .iter()
            .filter(|(_, state)| state.is_some_and(|s| s.running));
        running.map(|(name, _)| name.clone()).collect()
    }
}

/// How much to look at anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Packages and services now (SysV ones as of a few seconds ago); config as last read (for a ping).
    Light,
    /// Config, which costs a process per application, too.
    Full,
}

/// Observes, and remembers what is costly to ask: contracts' services and configs.
pub struct Observer {
    host: Host,
    configs: Mutex<BTreeMap<AppName, CachedConfig>>,
    package_services: Mutex<BTreeMap<String, PackageServices>>,
    /// Applications whose health checks failed at the last full look.
    sick: Mutex<BTreeSet<AppName>>,
}

struct CachedConfig {
    package: String,
    version: String,
    config: Result<Config, HostError>,
    read_at: Instant,
}

/// Services that a package ships, valid for one version of it.
struct PackageServices {
    version: String,
    services: BTreeSet<String>,
}

/// A config that could not be read is read again after this long.
const FAILED_CONFIG_AGE: Duration = Duration::from_secs(5);

impl Observer {
    pub fn new(host: Host) -> Self {
        Self {
            host,
            configs: Mutex::default(),
            package_services: Mutex::default(),
            sick: Mutex::default(),
        }
    }

    /// Forgets the config of `app`: it may have changed.
    pub fn forget_config(&self, app: &AppName) {
        self.configs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(app);
    }

    pub async fn observe(
        &self,
        desired: &Apps,
        records: &Records,
        freshness: Freshness,
    ) -> Result<Observed, HostError> {
        let packages = self.host.packages.installed().await?;
        let mut apps = BTreeMap::new();
        let candidates = candidates(desired, records, &packages);
        let names: Vec<(&AppName, &str)> = candidates
            .iter()
            .map(|(app, known)| (app, known.package))
            .collect();
        let contracts = self.host.app_config.contracts(&names).await;
        let mut possible_services: BTreeSet<&str> = names
            .iter()
            .flat_map(|(app, package)| [app.as_str(), package])
            .collect();
        self.host.services.retain_possible(&mut possible_services);
        self.learn_package_services(&candidates, &contracts).await;
        for ((app, candidate), contract) in candidates.iter().zip(contracts) {
            let observed = self
                .observe_app(app, candidate, contract, &possible_services, freshness)
                .await?;
            apps.insert(app.clone(), observed);
        }
        // The notes lie in the agent's own folder; where that fails, writing the config does and tells.
        let unfinished = self.host.app_config.unfinished().await;
        for (app, observed) in &mut apps {
            observed.config_unfinished = unfinished.as_ref().map_or(true, |apps| apps.contains(app));
        }
        Ok(Observed { apps, packages })
    }

    async fn observe_app(
        &self,
        app: &AppName,
        candidate: &Candidate<'_>,
        contract: Result<Contract, HostError>,
        possible_services: &BTreeSet<&str>,
        freshness: Freshness,
    ) -> Result<ObservedApp, HostError> {
        let &Candidate {
            package,
            installed,
            managed,
            record,
        } = candidate;
        // A broken contract (a manifest with an error in it) is that application's trouble, not the host's.
        let (contract, contract_error) = match contract {
            Ok(contract) => (contract, None),
            Err(error) => {
                let none = Contract {
                    kind: ContractKind::None,
                    services: None,
                    watched_files: Vec::<PathBuf>::new(),
                };
                (none, Some(error))
            }
        };
        let mut services = BTreeMap::new();
        for name in self
            .service_names(app, package, installed, &contract, possible_services)
            .await?
        {
            // Even for a ping: a script's answer that nobody asks for again would hide a dead service.
            let state = self.host.services.state(&name, true).await?;
            services.insert(name, state);
        }
        let healthy = self.healthy(app, package, freshness).await;
        let (config, config_read_at) = match contract_error {
            Some(error) => (Err(error), Instant::now()),
            None => {
                self.config(app, package, installed, contract.kind, freshness)
                    .await
            }
        };
        Ok(ObservedApp {
            package: package.to_owned(),
            version: installed.version.clone(),
            broken: installed.broken,
            managed,
            url: record.and_then(|record| record.provenance_of(&installed.version)?.url.clone()),
            rank: record.and_then(|record| record.rank),
            contract: contract.kind,
            config_files: contract.watched_files,
            services,
            config,
            config_unfinished: false,
            healthy,
            config_read_at,
        })
    }

    /// Asks for the services of all packages that are new here at once, where that is cheaper. What is not learnt is
    /// asked for when it is needed.
    async fn learn_package_services(
        &self,
        candidates: &BTreeMap<AppName, Candidate<'_>>,
        contracts: &[Result<Contract, HostError>],
    ) {
        let new: BTreeMap<&str, &InstalledPackage> = {
            let known = self
                .package_services
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let is_known = |candidate: &Candidate| {
                let known = known.get(candidate.package);
                known.is_some_and(|known| known.version == candidate.installed.version)
            };
            let unnamed = |contract: &Result<Contract, _>| {
                contract
                    .as_ref()
                    .is_ok_and(|contract| contract.services.is_none())
            };
            let pairs = candidates.values().zip(contracts);
            pairs
                .filter(|(candidate, contract)| unnamed(contract) && !is_known(candidate))
                .map(|(candidate, _)| (candidate.package, candidate.installed))
                .collect()
        };
        if new.len() < 2 {
            return;
        }
        let names: Vec<&str> = new.keys().copied().collect();
        let Ok(files) = self.host.packages.shipped_files_of(&names).await else {
            return;
        };
        let learnt = files.into_iter().filter_map(|(package, files)| {
            let known = PackageServices {
                version: new.get(package.as_str())?.version.clone(),
                services: self.host.services.services_in(&files),
            };
            Some((package, known))
        });
        self.package_services
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(learnt);
    }

    /// Those its contract names; else the unit of its own name, or of its package's; else the units its
    /// package ships.
    async fn service_names(
        &self,
        app: &AppName,
        package: &str,
        installed: &InstalledPackage,
        contract: &Contract,
        possible: &BTreeSet<&str>,
    ) -> Result<BTreeSet<String>, HostError> {
        if let Some(named) = &contract.services {
            return Ok(named.clone());
        }
        for name in [app.as_str(), package] {
            if possible.contains(name) && self.host.services.state(name, false).await?.is_some() {
                return Ok(BTreeSet::from([name.to_owned()]));
            }
        }
        {
            let cache = self
                .package_services
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = cache.get(package)
                && known.version == installed.version
            {
                return Ok(known.services.clone());
            }
        }
        let files = match self.host.packages.shipped_files(package).await {
            Ok(files) => files,
            // Being unpacked right now, or never got further: dpkg lists its files when they are there. It will
            // be healed; meanwhile the host can be looked at, and reported.
            Err(error) if installed.broken => {
                tracing::debug!(package, %error, "half-installed: its services are not known");
                return Ok(BTreeSet::new());
            }
            // Gone meanwhile: a package manager that a killed agent has started is still at work.
            Err(error) if error.category == protocol::Category::NotFound => return Ok(BTreeSet::new()),
            Err(error) => return Err(error),
        };
        let services = self.host.services.services_in(&files);
        let known = PackageServices {
            version: installed.version.clone(),
            services: services.clone(),
        };
        self.package_services
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(package.to_owned(), known);
        Ok(services)
    }

    async fn healthy(&self, app: &AppName, package: &str, freshness: Freshness) -> bool {
        let checked = match freshness {
            Freshness::Light => None,
            Freshness::Full => Some(self.host.app_config.is_healthy(app, package).await),
        };
        let mut sick = self.sick.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(result) = checked {
            let known = sick.contains(app);
            let healthy_now = result.is_ok();
            match result {
                Ok(()) if known => tracing::info!(%app, "health checks pass again"),
                Err(error) if !known => tracing::warn!(%app, "a health check fails: {error}"),
                Ok(()) | Err(_) => {}
            }
            if healthy_now {
                sick.remove(app)
            } else {
                sick.insert(app.clone())
            };
        }
        !sick.contains(app)
    }

    async fn config(
        &self,
        app: &AppName,
        package: &str,
        installed: &InstalledPackage,
        contract: ContractKind,
        freshness: Freshness,
    ) -> (Result<Config, HostError>, Instant) {
        if contract == ContractKind::None {
            return (Ok(Config::new()), Instant::now());
        }
        if freshness != Freshness::Full {
            let cache = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = cache.get(app)
                && known.package == package
                && known.version == installed.version
                && (known.config.is_ok() || known.read_at.elapsed() < FAILED_CONFIG_AGE)
            {
                return (known.config.clone(), known.read_at);
            }
        }
        let config = self.host.app_config.read(app, package).await;
        let read_at = Instant::now();
        if installed.broken {
            // Perhaps its files are being put in place right now: says nothing of what will be there.
            return (config, read_at);
        }
        let known = CachedConfig {
            package: package.to_owned(),
            version: installed.version.clone(),
            config: config.clone(),
            read_at,
        };
        self.configs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(app.clone(), known);
        (config, read_at)
    }
}

struct Candidate<'a> {
    package: &'a str,
    installed: &'a InstalledPackage,
    managed: bool,
    record: Option<&'a Record>,
}

/// Which installed packages are applications: those on record, those that provide `pf9app`, and those that
/// a desired application names and that are there already. Pure.
fn candidates<'a>(
    desired: &'a Apps,
    records: &'a Records,
    packages: &'a InstalledPackages,
) -> BTreeMap<AppName, Candidate<'a>> {
    let mut found = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for (app, record) in records {
        if let Some(installed) = packages.get(&record.package) {
            taken.insert(record.package.as_str());
            let candidate = Candidate {
                package: &record.package,
                installed,
                managed: true,
                record: Some(record),
            };
            found.insert(app.clone(), candidate);
        }
    }
    for (app, spec) in desired {
        let package = spec.package.as_deref().unwrap_or(app.as_str());
        if let Some(installed) = packages.get(package)
            && !found.contains_key(app)
            && !records.contains_key(app)
            && taken.insert(package)
        {
            let managed = installed.is_application;
            found.insert(
                app.clone(),
                Candidate {
                    package,
                    installed,
                    managed,
                    record: None,
                },
            );
        }
    }
    for (package, installed) in packages.iter().filter(|(_, installed)| installed.is_application) {
        // A package whose name can't be an application's stays out of reach.
        if let Ok(app) = AppName::new(package.as_str())
            && !found.contains_key(&app)
            && taken.insert(package)
        {
            found.insert(
                app,
                Candidate {
                    package,
                    installed,
                    managed: true,
                    record: None,
                },
            );
        }
    }
    found
}
