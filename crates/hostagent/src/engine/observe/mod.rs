//! Looks at the host, and says what is there in the engine's terms.
//!
//! In steady state this starts no child process: packages come from the package database's own files,
//! services from systemd, config from the last time it was read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use protocol::spec::Rank;
use protocol::{AppName, Config};

use crate::ledger::{Desired, Records};
use host::{Contract, ContractKind, Host, HostError, InstalledPackage, InstalledPackages, ServiceState};

mod candidates;
mod configs;
mod seen;

use candidates::{Candidate, Candidates};
pub use configs::ReadAt;
use configs::{Configs, Found};
use seen::{Names, Seen};

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
    pub config_files: Arc<[PathBuf]>,
    /// Each service of the application; `None`: its contract names it, but the host does not have it.
    pub services: BTreeMap<String, Option<ServiceState>>,
    /// Its current config, or why it could not be read.
    pub config: Arc<Result<Config, HostError>>,
    /// An earlier change was cut short: services may still run with the old config.
    pub config_unfinished: bool,
    /// Its health checks passed when they were last run (at the last full look), or it has none.
    pub healthy: bool,
    /// When `config` was read; `None`: there is nothing to be read.
    pub config_read_at: Option<ReadAt>,
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
    configs: Configs,
    package_services: Mutex<HashMap<String, PackageServices>>,
    /// Applications whose health checks failed at the last full look.
    sick: Mutex<BTreeSet<AppName>>,
    /// Of the last look.
    candidates: Mutex<Arc<Candidates>>,
    /// What the last look saw: handed out again where the next one sees the same.
    last: Mutex<Option<Arc<Observed>>>,
}

/// Services that a package ships, valid for one version of it.
struct PackageServices {
    version: String,
    services: Arc<BTreeSet<String>>,
}

impl Observer {
    pub fn new(host: Host) -> Self {
        Self {
            host,
            configs: Configs::new(),
            package_services: Mutex::default(),
            sick: Mutex::default(),
            candidates: Mutex::default(),
            last: Mutex::default(),
        }
    }

    /// Forgets the config of `app`: it may have changed.
    pub fn forget_config(&self, app: &AppName) {
        self.configs.forget(app);
    }

    /// What is there now. The very value of the look before, where nothing has changed since: so who has worked
    /// something out from that need not do it again ([`Arc::ptr_eq`]).
    pub async fn observe(
        &self,
        desired: &Arc<Desired>,
        records: &Arc<Records>,
        freshness: Freshness,
    ) -> Result<Arc<Observed>, HostError> {
        let packages = self.host.packages.installed().await?;
        let candidates = self.candidates(desired, records, &packages);
        let names: Vec<(&AppName, &str)> = candidates
            .found()
            .iter()
            .map(|candidate| (&candidate.app, candidate.package.as_str()))
            .collect();
        let contracts = self.host.app_config.contracts(&names).await;
        let mut possible_services: BTreeSet<&str> = names
            .iter()
            .zip(&contracts)
            .filter(|(_, contract)| leaves_services_to_package(contract))
            .flat_map(|((app, package), _)| {
                let other = (app.as_str() != *package).then_some(*package);
                [Some(app.as_str()), other].into_iter().flatten()
            })
            .collect();
        self.host.services.retain_possible(&mut possible_services);
        self.learn_package_services(candidates.found(), &contracts).await;
        let mut seen = Vec::with_capacity(names.len());
        for (candidate, contract) in candidates.found().iter().zip(&contracts) {
            seen.push(
                self.see(candidate, contract, &possible_services, freshness)
                    .await?,
            );
        }
        // The notes lie in the agent's own folder; where that fails, writing the config does and tells.
        let unfinished = self.host.app_config.unfinished().await;
        for seen in &mut seen {
            seen.config_unfinished = unfinished
                .as_ref()
                .map_or(true, |apps| apps.contains(&seen.candidate.app));
        }
        Ok(self.known_or_new(&packages, &seen))
    }

    fn candidates(
        &self,
        desired: &Arc<Desired>,
        records: &Arc<Records>,
        packages: &Arc<InstalledPackages>,
    ) -> Arc<Candidates> {
        let mut last = self.candidates.lock().unwrap_or_else(PoisonError::into_inner);
        if !last.are_of(desired, records, packages) {
            *last = Arc::new(Candidates::new(desired, records, packages));
        }
        last.clone()
    }

    fn known_or_new(&self, packages: &Arc<InstalledPackages>, seen: &[Seen<'_>]) -> Arc<Observed> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = &*last
            && Arc::ptr_eq(&last.packages, packages)
            && last.apps.len() == seen.len()
            && last.apps.iter().zip(seen).all(|(there, seen)| seen.is(there))
        {
            return last.clone();
        }
        let observed = Arc::new(Observed {
            apps: seen
                .iter()
                .map(|seen| (seen.candidate.app.clone(), seen.to_owned()))
                .collect(),
            packages: packages.clone(),
        });
        *last = Some(observed.clone());
        observed
    }

    async fn see<'a>(
        &self,
        candidate: &'a Candidate,
        contract: &'a Result<Arc<Contract>, HostError>,
        possible_services: &BTreeSet<&str>,
        freshness: Freshness,
    ) -> Result<Seen<'a>, HostError> {
        let Candidate { app, package, .. } = candidate;
        // A broken contract (a manifest with an error in it) is that application's trouble, not the host's.
        let named = contract
            .as_ref()
            .ok()
            .and_then(|contract| contract.services.as_ref());
        let names = match named {
            Some(named) => Names::Named(named),
            None => self.unnamed_services(candidate, possible_services).await?,
        };
        let mut services = Vec::new();
        for name in names.iter() {
            // Even for a ping: a script's answer that nobody asks for again would hide a dead service.
            let state = self.host.services.state(name, true).await?;
            services.push(state);
        }
        let healthy = self.healthy(app, package, contract, freshness).await;
        let Found { config, read_at } = match contract {
            Err(error) => Found {
                config: Arc::new(Err(error.clone())),
                read_at: None,
            },
            Ok(contract) => {
                let app_config = &*self.host.app_config;
                self.configs
                    .look(app_config, candidate, contract, freshness)
                    .await
            }
        };
        Ok(Seen {
            candidate,
            contract: contract.as_deref().ok(),
            names,
            services,
            config,
            config_unfinished: false,
            healthy,
            config_read_at: read_at,
        })
    }

    /// Asks for the services of all packages that are new here at once, where that is cheaper. What is not learnt is
    /// asked for when it is needed.
    async fn learn_package_services(
        &self,
        candidates: &[Candidate],
        contracts: &[Result<Arc<Contract>, HostError>],
    ) {
        let new: BTreeMap<&str, &InstalledPackage> = {
            let known = self
                .package_services
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let is_known = |candidate: &Candidate| {
                if candidate.shipped.get().is_some() {
                    return true;
                }
                let known = known.get(&candidate.package);
                known.is_some_and(|known| known.version == candidate.installed.version)
            };
            let unnamed = |contract: &Result<Arc<Contract>, _>| {
                contract
                    .as_ref()
                    .is_ok_and(|contract| contract.services.is_none())
            };
            let pairs = candidates.iter().zip(contracts);
            pairs
                .filter(|(candidate, contract)| unnamed(contract) && !is_known(candidate))
                .map(|(candidate, _)| (candidate.package.as_str(), &candidate.installed))
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
                services: Arc::new(self.host.services.services_in(&files)),
            };
            Some((package, known))
        });
        self.package_services
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(learnt);
    }

    /// Of an application whose contract names none: the unit of its own name, or of its package's; else the units its
    /// package ships.
    async fn unnamed_services<'a>(
        &self,
        candidate: &'a Candidate,
        possible: &BTreeSet<&str>,
    ) -> Result<Names<'a>, HostError> {
        let Candidate {
            app,
            package,
            installed,
            shipped,
            ..
        } = candidate;
        for name in [app.as_str(), package] {
            if possible.contains(name) && self.host.services.state(name, false).await?.is_some() {
                return Ok(Names::One(name));
            }
        }
        if let Some(known) = shipped.get() {
            return Ok(Names::Shipped(known.clone()));
        }
        {
            let cache = self
                .package_services
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = cache.get(package)
                && known.version == installed.version
            {
                let services = shipped.get_or_init(|| known.services.clone());
                return Ok(Names::Shipped(services.clone()));
            }
        }
        let files = match self.host.packages.shipped_files(package).await {
            Ok(files) => files,
            // Being unpacked right now, or never got further: dpkg lists its files when they are there. It will
            // be healed; meanwhile the host can be looked at, and reported.
            Err(error) if installed.broken => {
                tracing::debug!(package, %error, "half-installed: its services are not known");
                return Ok(Names::Shipped(Arc::default()));
            }
            // Gone meanwhile: a package manager that a killed agent has started is still at work.
            Err(error) if error.category == protocol::Category::NotFound => {
                return Ok(Names::Shipped(Arc::default()));
            }
            Err(error) => return Err(error),
        };
        let services = Arc::new(self.host.services.services_in(&files));
        let known = PackageServices {
            version: installed.version.clone(),
            services: services.clone(),
        };
        self.package_services
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(package.clone(), known);
        Ok(Names::Shipped(services))
    }

    async fn healthy(
        &self,
        app: &AppName,
        package: &str,
        contract: &Result<Arc<Contract>, HostError>,
        freshness: Freshness,
    ) -> bool {
        let checked = match (freshness, contract) {
            (Freshness::Light, _) => None,
            (Freshness::Full, Ok(contract)) => {
                let checks = self.host.app_config.is_healthy_by(contract, app, package);
                Some(checks.await)
            }
            (Freshness::Full, Err(_)) => Some(self.host.app_config.is_healthy(app, package).await),
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
}

/// Whether [`Observer::unnamed_services`] will be looked for.
fn leaves_services_to_package(contract: &Result<Arc<Contract>, HostError>) -> bool {
    contract
        .as_ref()
        .map_or(true, |contract| contract.services.is_none())
}

#[cfg(test)]
mod tests;
