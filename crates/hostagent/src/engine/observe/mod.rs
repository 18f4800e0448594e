//! Looks at the host, and says what is there in the engine's terms.
//!
//! In steady state this starts no child process: packages come from the package database's own files,
//! services from systemd, config from the last time it was read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use protocol::spec::Rank;
use protocol::{AppName, Apps, Category, Config};
use tokio::time::Instant;

use super::progress::Unfinished;
use super::snapshot::SavedFile;
use crate::ledger::Records;
use host::{
    Contract, ContractKind, Family, Host, HostError, InstalledPackage, InstalledPackages, ServiceState,
};

mod candidates;
mod configs;

use candidates::Candidate;
use configs::{Configs, Found};

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
    /// Files that targets name ([`Observed::look_at_files`]), as they are.
    pub files: BTreeMap<PathBuf, SavedFile>,
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
    /// Its hook or manifest, or what is wrong with it.
    pub contract: Result<Arc<Contract>, HostError>,
    /// Each service of the application; `None`: its contract names it, but the host does not have it.
    pub services: BTreeMap<String, Option<ServiceState>>,
    /// Of those whose state cannot be told: why not.
    pub service_errors: BTreeMap<String, HostError>,
    /// Those of them that still run a previous version ([`Observed::mark_unfinished`]).
    pub outdated: BTreeSet<String>,
    /// Its current config, or why it could not be read.
    pub config: Arc<Result<Config, HostError>>,
    /// An earlier change was cut short: services may still run with the old config.
    pub config_unfinished: bool,
    /// Its health checks passed when they were last run (at the last full look), or it has none.
    pub healthy: bool,
    /// When `config` was read; `None`: there is nothing to be read.
    pub config_read_at: Option<Instant>,
}

impl Observed {
    /// Marks what a package transaction has left to do, by what is known of its application.
    pub fn mark_unfinished(&mut self, app: &AppName, unfinished: &Unfinished, family: Family) {
        let Some(there) = self.apps.get_mut(app) else {
            return;
        };
        // rpm enters a package before its last script has run. dpkg tells by itself.
        there.broken |= unfinished.in_transaction && !family.database_tells_whole();
        let is_outdated = |(name, instance): &(&String, &Option<u64>)| {
            let now = there.services.get(*name).copied().flatten();
            now.is_some_and(|now| now.running && now.instance == **instance)
        };
        there.outdated = unfinished
            .outdated
            .iter()
            .filter(is_outdated)
            .map(|(name, _)| name.clone())
            .collect();
    }

    /// Reads files that are to be restored.
    pub fn look_at_files<'a>(&mut self, paths: impl Iterator<Item = &'a Path>) {
        let found = paths.filter_map(save_file);
        self.files.extend(found.map(|file| (file.path.clone(), file)));
    }
}

/// `None`: not a text file, which no contract writes.
pub fn save_file(path: &Path) -> Option<SavedFile> {
    let absent = SavedFile {
        path: path.to_owned(),
        content: None,
        mode: 0o600,
        owner: (0, 0),
    };
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Some(absent),
        Err(_) => return None,
    };
    let content = std::fs::read_to_string(path).ok()?;
    let owner = (meta.uid(), meta.gid());
    Some(SavedFile {
        content: Some(content),
        mode: meta.mode() & 0o7777,
        owner,
        ..absent
    })
}

impl ObservedApp {
    pub fn contract_kind(&self) -> ContractKind {
        self.contract
            .as_ref()
            .map_or(ContractKind::None, |contract| contract.kind)
    }

    /// Files whose change may mean a change of config. Real paths.
    pub fn config_files(&self) -> &[PathBuf] {
        self.contract
            .as_ref()
            .map_or(&[], |contract| &*contract.watched_files)
    }

    /// Whether it has health checks.
    pub fn has_checks(&self) -> bool {
        self.contract.as_ref().is_ok_and(|contract| contract.has_checks)
    }

    /// Whether it has services and all of them run.
    pub fn running(&self) -> bool {
        !self.services.is_empty()
            && self
                .services
                .values()
                .all(|state| state.is_some_and(|s| s.running))
    }

    /// Each that runs, and its instance.
    pub fn running_instances(&self) -> BTreeMap<String, Option<u64>> {
        let states = self
            .services
            .iter()
            .filter_map(|(name, state)| Some((name, (*state)?)));
        states
            .filter(|(_, state)| state.running)
            .map(|(name, state)| (name.clone(), state.instance))
            .collect()
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

/// Observes, and remembers what is costly to ask: services that packages ship, and configs.
pub struct Observer {
    host: Host,
    configs: Configs,
    package_services: Mutex<HashMap<String, PackageServices>>,
    /// Applications whose health checks failed at the last full look.
    unhealthy: Mutex<BTreeSet<AppName>>,
}

/// Services that a package ships, valid for one version of it.
struct PackageServices {
    version: String,
    services: Arc<BTreeSet<String>>,
}

/// What the contract of an application says, or what is wrong with it.
type FoundContract = Result<Arc<Contract>, HostError>;

impl Observer {
    pub fn new(host: Host) -> Self {
        Self {
            host,
            configs: Configs::new(),
            package_services: Mutex::default(),
            unhealthy: Mutex::default(),
        }
    }

    /// Forgets the config of `app`: it may have changed.
    pub fn forget_config(&self, app: &AppName) {
        self.configs.forget(app);
    }

    /// What is there now.
    pub async fn observe(
        &self,
        desired: &Apps,
        records: &Records,
        freshness: Freshness,
    ) -> Result<Observed, HostError> {
        let packages = self.host.packages.installed().await?;
        let candidates = candidates::find(desired, records, &packages);
        let names: Vec<(&AppName, &str)> = candidates
            .iter()
            .map(|candidate| (&candidate.app, candidate.package.as_str()))
            .collect();
        let mut contracts = Vec::with_capacity(names.len());
        for (app, package) in &names {
            contracts.push(self.host.app_config.contract(app, package).await);
        }
        self.learn_package_services(&candidates, &contracts).await;
        // The notes lie in the agent's own folder; where that fails, writing the config does and tells.
        let unfinished = self.host.app_config.unfinished().await;
        let mut apps = BTreeMap::new();
        for (candidate, contract) in candidates.iter().zip(&contracts) {
            let mut there = self.look_at(candidate, contract, freshness).await?;
            there.config_unfinished = unfinished
                .as_ref()
                .map_or(true, |apps| apps.contains(&candidate.app));
            apps.insert(candidate.app.clone(), there);
        }
        Ok(Observed {
            apps,
            packages,
            files: BTreeMap::new(),
        })
    }

    async fn look_at(
        &self,
        candidate: &Candidate,
        contract: &FoundContract,
        freshness: Freshness,
    ) -> Result<ObservedApp, HostError> {
        let Candidate { app, package, .. } = candidate;
        // A broken contract (a manifest with an error in it) is that application's trouble, not the host's.
        let named = contract
            .as_ref()
            .ok()
            .and_then(|contract| contract.services.as_ref());
        let names = match named {
            Some(named) => named.clone(),
            None => self.unnamed_services(candidate).await?,
        };
        let (mut services, mut service_errors) = (BTreeMap::new(), BTreeMap::new());
        for name in names {
            // Even for a ping: a script's answer that nobody asks for again would hide a dead service.
            match self.host.services.state(&name, true).await {
                Ok(state) => {
                    services.insert(name, state);
                }
                // One odd script is that application's trouble; an init system that cannot be asked is the host's.
                Err(error) if is_of_one_service(&error) => {
                    service_errors.insert(name.clone(), error);
                    services.insert(name, None);
                }
                Err(error) => return Err(error),
            }
        }
        let healthy = self.healthy(app, package, freshness).await;
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
        Ok(ObservedApp {
            package: candidate.package.clone(),
            version: candidate.installed.version.clone(),
            broken: candidate.installed.broken,
            managed: candidate.managed,
            url: candidate.url.clone(),
            rank: candidate.rank,
            contract: contract.clone(),
            services,
            service_errors,
            outdated: BTreeSet::new(),
            config,
            config_unfinished: false,
            healthy,
            config_read_at: read_at,
        })
    }

    /// Asks for the services of all packages that are new here at once, where that is cheaper. What is not learnt is
    /// asked for when it is needed.
    async fn learn_package_services(&self, candidates: &[Candidate], contracts: &[FoundContract]) {
        let new: BTreeMap<&str, &InstalledPackage> = {
            let known = self
                .package_services
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let is_known = |candidate: &Candidate| {
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
    async fn unnamed_services(&self, candidate: &Candidate) -> Result<BTreeSet<String>, HostError> {
        let Candidate {
            app,
            package,
            installed,
            ..
        } = candidate;
        for name in [app.as_str(), package] {
            if self.host.services.state(name, false).await?.is_some() {
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
                return Ok(BTreeSet::clone(&known.services));
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
            Err(error) if error.category == Category::NotFound => {
                return Ok(BTreeSet::new());
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
        Ok(BTreeSet::clone(&services))
    }

    async fn healthy(&self, app: &AppName, package: &str, freshness: Freshness) -> bool {
        let checked = match freshness {
            Freshness::Light => None,
            Freshness::Full => Some(self.host.app_config.is_healthy(app, package).await),
        };
        let mut unhealthy = self.unhealthy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(result) = checked {
            let known = unhealthy.contains(app);
            let healthy_now = result.is_ok();
            match result {
                Ok(()) if known => tracing::info!(%app, "health checks pass again"),
                Err(error) if !known => tracing::warn!(%app, "a health check fails: {error}"),
                Ok(()) | Err(_) => {}
            }
            if healthy_now {
                unhealthy.remove(app)
            } else {
                unhealthy.insert(app.clone())
            };
        }
        !unhealthy.contains(app)
    }
}

/// Whether only the service itself is at fault, and not the init system.
fn is_of_one_service(error: &HostError) -> bool {
    matches!(error.category, Category::Script | Category::Timeout)
}

#[cfg(test)]
mod tests;
