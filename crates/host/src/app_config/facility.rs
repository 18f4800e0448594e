//! The config of applications, as the engine sees it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use protocol::{AppName, Config};

use crate::HostError;
use crate::paths::Stamp;

/// How an application's config is read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContractKind {
    Hook,
    Manifest,
    /// Neither: its config must be empty.
    None,
}

/// The contract of an application.
#[derive(Debug, Clone, PartialEq)]
pub struct Contract {
    pub kind: ContractKind,
    /// The services that it names; `None`: the package decides.
    pub services: Option<BTreeSet<String>>,
    /// Files that hold the config or the contract, under the root: the drift watch watches them.
    pub watched_files: Arc<[PathBuf]>,
    /// Whether it names health checks.
    pub has_checks: bool,
    /// Its hook or manifest, as it was found.
    pub stamp: Option<Stamp>,
}

/// The application contract: hook or manifest (docs/app-contract.md).
#[async_trait]
pub trait AppConfig: Send + Sync {
    async fn contract(&self, app: &AppName, package: &str) -> Result<Arc<Contract>, HostError>;
    /// The current config; empty without a contract.
    async fn read(&self, app: &AppName, package: &str) -> Result<Arc<Config>, HostError>;
    /// Merges `desired` into the current config (other keys stay), then makes the running services
    /// read it (reload or restart). `running`: which of the application's services run now.
    async fn write(
        &self,
        app: &AppName,
        package: &str,
        desired: &Config,
        running: &BTreeSet<String>,
    ) -> Result<(), HostError>;
    /// Applications whose last [`Self::write`] was interrupted: their services may still run with
    /// the old config although the files hold the new one. `write` must run again even if nothing
    /// differs.
    async fn unfinished(&self) -> Result<BTreeSet<AppName>, HostError>;
    /// Runs the health checks for `period`, and on until each has passed after it. Fails with
    /// [`protocol::Category::Unhealthy`] as soon as one has failed too often. Without checks (hooks
    /// have none) it returns at once. Cancel-safe.
    async fn stays_healthy(&self, app: &AppName, package: &str, period: Duration) -> Result<(), HostError>;
    /// Runs each health check once. Cancel-safe.
    async fn is_healthy(&self, app: &AppName, package: &str) -> Result<(), HostError>;
}
