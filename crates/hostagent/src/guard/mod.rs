//! Rolls back a failed upgrade of the agent. A new agent may never start, or never reach the
//! broker, and then no agent can roll it back. So before the upgrade the agent starts a guard
//! (`hostagent guard`): a copy of its own program in a separate systemd unit. The guard waits until
//! an agent has reported the outcome; otherwise it restores the previous package. The unit is
//! enabled during the upgrade, so that a guard also runs after a power cut.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use protocol::AppName;
use serde::{Deserialize, Serialize};

use crate::engine::progress::Change;
use crate::engine::snapshot::{Before, UndoSource};
use crate::state_file::{StateFile, StateFileError};
use host::{Host, HostError, Services, processes};

mod unit;

/// The command of the guard.
pub const COMMAND: &str = "guard";

/// An upgrade of the agent whose outcome is not reported yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WatchedUpgrade {
    pub app: AppName,
    /// The previous version, and how to restore it.
    pub change: Change,
    /// The process that upgrades itself.
    pub agent: u32,
    /// Its start time, as the kernel counts: after a boot another process may have its number.
    #[serde(default)]
    pub agent_started: Option<u64>,
}

impl WatchedUpgrade {
    /// Whether the process that began the upgrade still runs.
    pub fn is_agent_there(&self) -> bool {
        let started = processes::started(self.agent);
        started.is_some() && started == self.agent_started
    }
}

/// The file with the watched upgrade. As long as it exists, there is a guard.
pub fn file(state_dir: &Path) -> StateFile<WatchedUpgrade> {
    StateFile::new(state_dir.join("guard.json"))
}

/// The agent's side.
pub struct Guard {
    state_dir: PathBuf,
    services: Arc<dyn Services>,
    armed: AtomicBool,
}

impl Guard {
    pub fn new(state_dir: &Path, host: &Host) -> Self {
        let is_armed = file(state_dir).path().exists();
        if !is_armed {
            remove_unit(&*host.services);
        }
        Self {
            armed: AtomicBool::new(is_armed),
            state_dir: state_dir.to_owned(),
            services: host.services.clone(),
        }
    }

    /// The package that the guard would install, as long as it watches.
    pub fn undo_file(&self) -> Option<PathBuf> {
        let watched = file(&self.state_dir).peek().ok()??;
        let Before::Installed(before) = watched.change.before else {
            return None;
        };
        match before.undo {
            UndoSource::File { path } => Some(path),
            UndoSource::NotNeeded
            | UndoSource::Url { .. }
            | UndoSource::Repository
            | UndoSource::Nowhere { .. } => None,
        }
    }

    /// Stores the upgrade and starts the guard. If there can be no guard (no systemd, no undo
    /// source), this is logged and the upgrade continues.
    pub async fn arm(&self, app: &AppName, change: &Change) -> Result<(), StateFileError> {
        let Before::Installed(before) = &change.before else {
            return Ok(());
        };
        if !before.undo.is_package() {
            tracing::warn!(undo = %before.undo, "no guard for the agent's own upgrade: there is no previous version to restore");
            return Ok(());
        }
        let watched = WatchedUpgrade {
            app: app.clone(),
            change: change.clone(),
            agent: std::process::id(),
            agent_started: processes::started(std::process::id()),
        };
        file(&self.state_dir).store(&watched)?;
        self.armed.store(true, Ordering::Relaxed);
        match self.start().await {
            Ok(true) => tracing::info!(unit = unit::SERVICE, "a guard watches the agent's own upgrade"),
            Ok(false) => self.stand_down(),
            Err(error) => {
                tracing::warn!(
                    "cannot start the guard of the agent's own upgrade; the upgrade continues without it: {error}"
                );
                self.stand_down();
            }
        }
        Ok(())
    }

    /// Ends the guard: the outcome of the upgrade was reported.
    pub fn stand_down(&self) {
        if self.armed.swap(false, Ordering::Relaxed)
            && let Err(error) = call_off(&self.state_dir, &*self.services)
        {
            tracing::warn!("cannot end the guard of the agent's own upgrade; trying again: {error}");
            self.armed.store(true, Ordering::Relaxed);
        }
    }

    /// False: this host has no unit files.
    async fn start(&self) -> Result<bool, HostError> {
        if !self.services.has_unit_files() {
            return Ok(false);
        }
        self.write().map_err(|error| {
            HostError::new(
                protocol::Category::Host,
                format!("cannot write the guard: {error}"),
            )
        })?;
        self.services.reread_units().await?;
        self.services.enable(unit::SERVICE).await?;
        self.services.start(unit::SERVICE).await?;
        Ok(true)
    }

    fn write(&self) -> std::io::Result<()> {
        // The program itself is about to be replaced.
        let mut argv = vec![copy_program(&self.state_dir.join("guard"))?.into_os_string()];
        argv.extend(std::env::args_os().skip(1).filter(|argument| argument != "run"));
        argv.push(COMMAND.into());
        unit::write(&argv, file(&self.state_dir).path())
    }
}

/// Ends the guard after the upgrade; none starts at boot.
pub fn call_off(state_dir: &Path, services: &dyn Services) -> Result<(), StateFileError> {
    file(state_dir).remove()?;
    remove_unit(services);
    Ok(())
}

/// Removes the guard's unit. Without a watched upgrade it does nothing at boot, but other versions
/// of the agent cannot create a unit of the same name while it exists.
pub fn remove_unit(services: &dyn Services) {
    if services.has_unit_files()
        && let Err(error) = unit::remove()
    {
        tracing::debug!(%error, "cannot remove the guard's unit");
    }
}

fn copy_program(folder: &Path) -> std::io::Result<PathBuf> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let program = folder.join("hostagent");
    // A running program cannot be overwritten.
    let new = folder.join("hostagent.new");
    std::fs::copy("/proc/self/exe", &new)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o700))?;
    std::fs::File::open(&new)?.sync_all()?;
    std::fs::rename(&new, &program)?;
    Ok(program)
}
