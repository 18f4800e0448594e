//! The way back for the agent's own upgrade. What an agent upgrades itself to may never start, or never reach the
//! broker, and then nobody is left to roll it back: so before it begins, the agent starts a guard, a copy of its own
//! program in a systemd unit of its own, which waits until an agent has reported the outcome, and else brings the
//! previous package back (`hostagent guard`). The unit is enabled meanwhile: after a power cut there is a guard again.

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

/// An upgrade of the agent whose outcome nobody has reported yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Watched {
    pub app: AppName,
    /// How it was, and how to get back there.
    pub change: Change,
    /// The process that upgrades itself.
    pub agent: u32,
    /// When it was started, as the kernel counts: after a boot its number may be another's.
    #[serde(default)]
    pub agent_started: Option<u64>,
}

impl Watched {
    /// Whether the process that began the upgrade is still there.
    pub fn is_agent_there(&self) -> bool {
        let started = processes::started(self.agent);
        started.is_some() && started == self.agent_started
    }
}

/// The file that says which upgrade is being watched; as long as there is one, there is a guard.
pub fn file(state_dir: &Path) -> StateFile<Watched> {
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
            put_away_unit(&*host.services);
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

    /// Durable, and the guard at work, when it returns. Where there can be none (no systemd, no way back), that is
    /// logged: the upgrade is made all the same.
    pub async fn arm(&self, app: &AppName, change: &Change) -> Result<(), StateFileError> {
        let Before::Installed(before) = &change.before else {
            return Ok(());
        };
        if !before.undo.is_package() {
            tracing::warn!(undo = %before.undo, "the agent upgrades itself, and no guard could roll it back");
            return Ok(());
        }
        let watched = Watched {
            app: app.clone(),
            change: change.clone(),
            agent: std::process::id(),
            agent_started: processes::started(std::process::id()),
        };
        file(&self.state_dir).store(&watched)?;
        self.armed.store(true, Ordering::Relaxed);
        match self.start().await {
            Ok(true) => tracing::info!(
                unit = unit::SERVICE,
                "a guard watches over the agent's own upgrade"
            ),
            Ok(false) => self.stand_down(),
            Err(error) => {
                tracing::warn!(%error, "no guard watches over the agent's own upgrade");
                self.stand_down();
            }
        }
        Ok(())
    }

    /// The master has heard how the upgrade ended.
    pub fn stand_down(&self) {
        if self.armed.swap(false, Ordering::Relaxed)
            && let Err(error) = call_off(&self.state_dir, &*self.services)
        {
            tracing::warn!(%error, "the guard of the agent's own upgrade can't be called off; trying again");
            self.armed.store(true, Ordering::Relaxed);
        }
    }

    /// False: not on this host.
    async fn start(&self) -> Result<bool, HostError> {
        if !self.services.has_unit_files() {
            return Ok(false);
        }
        self.write().map_err(|error| {
            HostError::new(
                protocol::Category::Host,
                format!("the guard can't be written: {error}"),
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

/// The upgrade is over: the guard ends, and none starts at boot.
pub fn call_off(state_dir: &Path, services: &dyn Services) -> Result<(), StateFileError> {
    file(state_dir).remove()?;
    put_away_unit(services);
    Ok(())
}

/// Without an upgrade that is watched, its unit does nothing at boot; but it stands in the way of agents that make it anew.
pub fn put_away_unit(services: &dyn Services) {
    if services.has_unit_files()
        && let Err(error) = unit::remove()
    {
        tracing::debug!(%error, "the unit of the guard stays");
    }
}

fn copy_program(folder: &Path) -> std::io::Result<PathBuf> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let program = folder.join("hostagent");
    // Not over one that may be running.
    let new = folder.join("hostagent.new");
    std::fs::copy("/proc/self/exe", &new)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o700))?;
    std::fs::File::open(&new)?.sync_all()?;
    std::fs::rename(&new, &program)?;
    Ok(program)
}
