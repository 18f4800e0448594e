//! How an application's config is read and written, as the engine sees it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use protocol::{AppName, Config};

use super::manifest::Manifest;
use crate::HostError;

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
