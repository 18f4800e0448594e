//! How a runner comes to be.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::command::supervise::PATH;
use crate::command::unit::manager::{Manager, ManagerError, NewUnit};

/// What the agent's own program is told to become a runner.
pub const COMMAND: &str = "run-hooks";

#[derive(Debug)]
pub(super) enum Start {
    /// As a transient unit.
    Unit,
    /// As a task of the test, which can be aborted.
    #[cfg(test)]
    Task(std::sync::Mutex<Option<tokio::task::AbortHandle>>),
    /// As a process that ends at once.
    #[cfg(test)]
    Stillborn,
    /// As a process that does nothing.
    #[cfg(test)]
    Deaf,
}

impl Start {
    /// Ends all that is left of a runner that is lost.
    pub async fn kill(&self, unit: &str) {
        if matches!(self, Self::Unit)
            && let Err(error) = async { Manager::connect().await?.kill(unit).await }.await
        {
            tracing::warn!(%unit, %error, "what a lost runner of hooks has started may still run");
        }
    }

    /// `control`: the runner's end.
    pub async fn start(&self, unit: &str, control: OwnedFd) -> Result<(), ManagerError> {
        match self {
            Self::Unit => {
                let program = own_program();
                let unit = NewUnit {
                    name: unit,
                    description: "Backbone host agent: hooks and health checks".into(),
                    argv: vec![program, COMMAND.into()],
                    environment: vec![format!("PATH={PATH}"), "LANG=C.UTF-8".into(), "HOME=/root".into()],
                };
                Manager::connect().await?.start_fed(&unit, control).await
            }
            #[cfg(test)]
            Self::Task(task) => {
                let serving = tokio::spawn(super::serve(control));
                *task.lock().unwrap() = Some(serving.abort_handle());
                Ok(())
            }
            #[cfg(test)]
            Self::Deaf => {
                tokio::spawn(async move {
                    let _control = control;
                    std::future::pending::<()>().await;
                });
                Ok(())
            }
            #[cfg(test)]
            Self::Stillborn => {
                drop(control);
                Ok(())
            }
        }
    }
}

/// This very program, whatever an upgrade has put in its place by now.
fn own_program() -> String {
    let by_process = format!("/proc/{}/exe", std::process::id());
    let is_same = |path: &Path| {
        let (Ok(there), Ok(here)) = (std::fs::metadata(path), std::fs::metadata(&by_process)) else {
            return false;
        };
        (there.dev(), there.ino()) == (here.dev(), here.ino())
    };
    match std::env::current_exe() {
        Ok(path) if is_same(&path) => path.to_string_lossy().into_owned(),
        _ => by_process,
    }
}
