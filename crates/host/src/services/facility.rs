//! The init system, as the engine sees it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use super::ServiceChanges;
use crate::HostError;

/// The state of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceState {
    pub running: bool,
    /// Starts at boot; `None`: it can be neither enabled nor disabled (a static unit).
    pub enabled: Option<bool>,
    /// Changes whenever the main process is started; `None`: the init system does not tell.
    pub instance: Option<u64>,
    /// The init system refuses to start it (`systemctl mask`).
    pub masked: bool,
}

/// The init system: systemd over D-Bus, or SysV scripts. Service names come without `.service`.
#[async_trait]
pub trait Services: Send + Sync {
    /// `None`: there is no such service. `fresh`: a cached answer of a SysV script must be only
    /// seconds old.
    async fn state(&self, service: &str, fresh: bool) -> Result<Option<ServiceState>, HostError>;
    /// Drops cached answers: the next [`Self::state`] asks the services themselves.
    fn forget_answers(&self);
    async fn start(&self, service: &str) -> Result<(), HostError>;
    async fn stop(&self, service: &str) -> Result<(), HostError>;
    async fn restart(&self, service: &str) -> Result<(), HostError>;
    /// Makes a running service read its config again: reloads it, or restarts it if it cannot
    /// reload. A stopped service stays stopped.
    async fn reload(&self, service: &str) -> Result<(), HostError>;
    async fn enable(&self, service: &str) -> Result<(), HostError>;
    async fn disable(&self, service: &str) -> Result<(), HostError>;
    /// Whether it is systemd, which reads unit files from `/etc/systemd/system`.
    fn has_unit_files(&self) -> bool;
    /// Makes the init system read its unit files again (after packages have changed).
    async fn reread_units(&self) -> Result<(), HostError>;
    /// The services that `files` (of one package) define: systemd units (no templates) or SysV
    /// scripts.
    fn services_in(&self, files: &[PathBuf]) -> BTreeSet<String>;
    /// Where it reports services that have changed externally; `None`: it does not notice.
    fn changes(&self) -> Option<Arc<ServiceChanges>>;
}
