//! The init system, as the engine sees it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use super::ServiceChanges;
use crate::HostError;

/// State of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceState {
    pub running: bool,
    /// Starts at boot; `None`: it can be neither enabled nor disabled (a static unit).
    pub enabled: Option<bool>,
    /// Changes whenever its main process is started anew; `None`: the init system can't tell.
    pub instance: Option<u64>,
    /// The init system refuses to start it (`systemctl mask`).
    pub masked: bool,
}

/// The init system: systemd over D-Bus, or SysV scripts. Service names come without `.service`.
#[async_trait]
pub trait Services: Send + Sync {
    /// `None`: there is no such service. `fresh`: do not answer from a cache of SysV answers.
    async fn state(&self, service: &str, fresh: bool) -> Result<Option<ServiceState>, HostError>;
    /// Leaves those of `names` that may be services here, looking once at all: [`Self::state`] of the others is `None`.
    fn retain_possible(&self, names: &mut BTreeSet<&str>) {
        let _ = names;
    }
    /// The next answers come from the services themselves, however young the last ones are.
    fn forget_answers(&self) {}
    async fn start(&self, service: &str) -> Result<(), HostError>;
    async fn stop(&self, service: &str) -> Result<(), HostError>;
    async fn restart(&self, service: &str) -> Result<(), HostError>;
    /// Reloads its configuration without a stop; restarts where it can't; leaves a stopped one stopped.
    async fn reload(&self, service: &str) -> Result<(), HostError>;
    async fn enable(&self, service: &str) -> Result<(), HostError>;
    async fn disable(&self, service: &str) -> Result<(), HostError>;
    /// Whether it is systemd, which takes what is written to `/etc/systemd/system`.
    fn has_unit_files(&self) -> bool {
        false
    }
    /// The init system must read its unit files again (after packages changed).
    async fn reread_units(&self) -> Result<(), HostError>;
    /// The services that `files` (of one package) define: systemd units (no templates), or SysV scripts.
    fn services_in(&self, files: &[PathBuf]) -> BTreeSet<String>;
    /// Where it reports services that change by themselves; `None`: it does not notice.
    fn changes(&self) -> Option<Arc<ServiceChanges>> {
        None
    }
}
