//! Starts a runner.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::command::child::PATH;
use crate::command::unit::transient::{NewUnit, TransientUnits};
use crate::systemd::SystemdError;

/// The command of the agent's own program that makes it a runner.
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
    /// Kills all processes of a lost runner.
    pub async fn kill(&self, unit: &str) {
        if matches!(self, Self::Unit)
            && let Err(error) = async { TransientUnits::connect().await?.kill(unit).await }.await
        {
            tracing::warn!(%unit, "cannot kill the processes of a lost hook runner; they may still run: {error}");
        }
    }

    /// `control`: the runner's end.
    pub async fn start(&self, unit: &str, control: OwnedFd) -> Result<(), SystemdError> {
        match self {
            Self::Unit => {
                let program = own_program();
                let unit = NewUnit {
                    name: unit,
                    description: "Backbone host agent: hooks and health checks".into(),
                    argv: vec![program, COMMAND.into()],
                    environment: vec![format!("PATH={PATH}"), "LANG=C.UTF-8".into(), "HOME=/root".into()],
                };
                TransientUnits::connect()
                    .await?
                    .start_with_stdin(&unit, control)
                    .await
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

/// The program of this process, even if an upgrade has replaced the file.
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
