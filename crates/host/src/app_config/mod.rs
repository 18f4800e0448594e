//! The application contract (docs/app-contract.md): how an application's config is read and
//! written. By its hook if it has one, otherwise by its manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use protocol::{AppName, Category, Config};

use crate::command::Runner;
use crate::{HostError, Root, Services};

mod facility;
mod contract;
pub mod hook;
pub mod manifest;
pub mod formats;
mod files;
mod configs;
mod unfinished;
pub mod health;

pub use facility::{AppConfig, Contract, ContractKind};
pub use manifest::Manifest;

use contract::{ContractFinder, ContractSource, HOOKS, MANIFESTS};
use health::Checker;
use manifest::OnChange;
use unfinished::Unfinished;

const HOOK_DEADLINE: Duration = Duration::from_secs(30);

/// The config of applications, by their contracts.
pub struct Contracts {
    root: Root,
    services: Arc<dyn Services>,
    runner: Option<Arc<Runner>>,
    unfinished: Unfinished,
    finder: ContractFinder,
}

impl Contracts {
    /// `services` are reloaded or restarted. `state_dir` (a real path, the agent's own) stores
    /// which writes are unfinished.
    pub fn new(root: Root, services: Arc<dyn Services>, state_dir: &Path) -> Self {
        Self {
            finder: ContractFinder::new(root.clone(), HOOK_DEADLINE),
            root,
            services,
            runner: None,
            unfinished: Unfinished::new(state_dir),
        }
    }

    /// Runs hooks and health checks; not given: the agent does.
    pub fn runner(self, runner: Option<Arc<Runner>>) -> Self {
        Self {
            finder: self.finder.runner(runner.clone()),
            runner,
            ..self
        }
    }

    /// For each run of a hook; 30 s unless set.
    pub fn hook_deadline(self, deadline: Duration) -> Self {
        Self {
            finder: self.finder.hook_deadline(deadline),
            ..self
        }
    }

    /// The application's manifest, if that is its contract.
    pub fn manifest(&self, app: &AppName, package: &str) -> Result<Option<Arc<Manifest>>, HostError> {
        Ok(match self.finder.find(app, package)? {
            ContractSource::Manifest(known) => Some(known.manifest.clone()),
            ContractSource::Hook { .. } | ContractSource::None => None,
        })
    }

    fn checker(&self) -> Checker<'_> {
        Checker {
            root: &self.root,
            runner: self.runner.as_ref(),
        }
    }

    async fn write_files(
        &self,
        app: &AppName,
        manifest: &Manifest,
        desired: &Config,
        running: &BTreeSet<String>,
    ) -> Result<(), HostError> {
        let writes = files::plan(&self.root, manifest, desired)?;
        if writes.is_empty() && !self.unfinished.holds(app)? {
            return Ok(());
        }
        self.unfinished.begin(app)?;
        // Each write waits for the disk; the async tasks must not.
        let written = tokio::task::spawn_blocking(move || writes.iter().try_for_each(files::write));
        written
            .await
            .map_err(|_| HostError::new(Category::Host, "writing configuration files was interrupted"))??;
        self.make_services_read_config(manifest, running).await?;
        self.unfinished.finish(app)
    }

    /// Reloads or restarts all running services, also after one has failed; returns the first
    /// failure.
    async fn make_services_read_config(
        &self,
        manifest: &Manifest,
        running: &BTreeSet<String>,
    ) -> Result<(), HostError> {
        let named = manifest.services.iter().flatten();
        let first = named.filter(|service| running.contains(*service));
        let rest = running
            .iter()
            .filter(|service| !manifest.services.iter().flatten().any(|named| named == *service));
        let mut result = Ok(());
        for service in first.chain(rest) {
            let done = match manifest.on_change {
                OnChange::Reload => self.services.reload(service).await,
                OnChange::Restart => self.services.restart(service).await,
                OnChange::Nothing => Ok(()),
            };
            result = result.and(done);
        }
        result
    }
}

#[async_trait]
impl AppConfig for Contracts {
    async fn contract(&self, app: &AppName, package: &str) -> Result<Arc<Contract>, HostError> {
        self.finder.contract(app, package).await
    }

    async fn read(&self, app: &AppName, package: &str) -> Result<Arc<Config>, HostError> {
        match self.finder.find(app, package)? {
            ContractSource::Hook { hook, .. } => hook.get_config().await.map(Arc::new),
            ContractSource::Manifest(known) => known.read_config(&self.root),
            ContractSource::None => Ok(Arc::default()),
        }
    }

    async fn write(
        &self,
        app: &AppName,
        package: &str,
        desired: &Config,
        running: &BTreeSet<String>,
    ) -> Result<(), HostError> {
        let empty = desired.values().all(BTreeMap::is_empty);
        match self.finder.find(app, package)? {
            ContractSource::Hook { hook, .. } => {
                if !empty {
                    self.unfinished.begin(app)?;
                    hook.set_config(desired).await?;
                }
                self.unfinished.finish(app)
            }
            ContractSource::Manifest(known) => self.write_files(app, &known.manifest, desired, running).await,
            ContractSource::None if empty => self.unfinished.finish(app),
            ContractSource::None => Err(no_contract(app)),
        }
    }

    async fn unfinished(&self) -> Result<BTreeSet<AppName>, HostError> {
        self.unfinished.all()
    }

    async fn stays_healthy(&self, app: &AppName, package: &str, period: Duration) -> Result<(), HostError> {
        match self.manifest(app, package)? {
            Some(manifest) => self.checker().stays_healthy(app, &manifest.health, period).await,
            None => Ok(()),
        }
    }

    async fn is_healthy(&self, app: &AppName, package: &str) -> Result<(), HostError> {
        match self.manifest(app, package)? {
            Some(manifest) => self.checker().is_healthy(app, &manifest.health).await,
            None => Ok(()),
        }
    }
}

fn no_contract(app: &AppName) -> HostError {
    let message = format!(
        "a config is desired, but {app} has neither a hook nor a manifest. Add a manifest, {}/{app}.toml (by \
         the operator) or {}/{app}.toml (by its package), with a [config.<section>] for each section, or an \
         executable {HOOKS}/{app}/config; docs/app-contract.md shows both. Or leave the config empty",
        MANIFESTS[0], MANIFESTS[1]
    );
    HostError::new(Category::Invalid, message)
}
