//! The way back for the agent's own upgrade. What an agent upgrades itself to may never start, or never reach the
//! broker, and then nobody is left to roll it back: so before it begins, the agent starts a guard, a copy of its own
//! program in a systemd unit of its own, which waits until an agent has reported the outcome, and else brings the
//! previous package back (`hostagent guard`).

use std::ffi::OsString;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use protocol::{AppName, Apps};
use serde::{Deserialize, Serialize};

use crate::host::command::Command;
use crate::host::{Host, HostError, Services};
use crate::journal::{Before, Entry};
use crate::state_file::{StateFile, StateFileError};

const UNIT: &str = "hostagent-guard.service";
/// The command of the guard.
pub const COMMAND: &str = "guard";

/// An upgrade of the agent whose outcome nobody has reported yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Watched {
    pub app: AppName,
    pub desired: Apps,
    /// How it was, and how to get back there.
    pub entry: Entry,
    /// The process that upgrades itself.
    pub agent: u32,
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
        Self {
            armed: AtomicBool::new(file(state_dir).path().exists()),
            state_dir: state_dir.to_owned(),
            services: host.services.clone(),
        }
    }

    /// Durable, and the guard at work, when it returns. Where there can be none (no systemd, no way back), that is
    /// logged: the upgrade is made all the same.
    pub async fn arm(&self, app: &AppName, desired: &Apps, entry: &Entry) -> Result<(), StateFileError> {
        let Before::Installed(before) = &entry.before else {
            return Ok(());
        };
        if !before.way_back.is_package() {
            tracing::warn!(way_back = %before.way_back, "the agent upgrades itself, and nothing could bring it back");
            return Ok(());
        }
        let watched = Watched {
            app: app.clone(),
            desired: desired.clone(),
            entry: entry.clone(),
            agent: std::process::id(),
        };
        file(&self.state_dir).store(&watched)?;
        self.armed.store(true, Ordering::Relaxed);
        match self.start().await {
            Ok(true) => tracing::info!(unit = UNIT, "a guard watches over the agent's own upgrade"),
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
            && let Err(error) = file(&self.state_dir).remove()
        {
            tracing::warn!(%error, "the guard of the agent's own upgrade can't be called off; trying again");
            self.armed.store(true, Ordering::Relaxed);
        }
    }

    /// False: not on this host.
    async fn start(&self) -> Result<bool, HostError> {
        // The program itself is about to be replaced.
        let folder = self.state_dir.join("guard");
        let copied = copy_program(&folder).map_err(|error| {
            let message = format!(
                "the guard's program can't be copied to {}: {error}",
                folder.display()
            );
            HostError::new(protocol::Category::Host, message)
        });
        let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
        arguments.retain(|argument| argument != "run");
        let command = Command::new(copied?).args(arguments).arg(COMMAND);
        self.services.start_apart(UNIT, &command).await
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
