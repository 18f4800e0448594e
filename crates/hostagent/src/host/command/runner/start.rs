//! How a runner comes to be.

use std::os::fd::OwnedFd;

use crate::host::command::supervise::PATH;
use crate::host::command::unit::manager::{Manager, ManagerError, NewUnit};

/// What the agent's own program is told to become a runner.
pub const COMMAND: &str = "run-hooks";

#[derive(Debug)]
pub(super) enum Start {
    /// As a transient unit.
    Unit,
    /// As a task of the test.
    #[cfg(test)]
    Task,
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
                // Whatever an upgrade has put in its place by now, it is this very program.
                let program = format!("/proc/{}/exe", std::process::id());
                let unit = NewUnit {
                    name: unit,
                    description: "Backbone host agent: hooks, health checks and SysV scripts".into(),
                    argv: vec![program, COMMAND.into()],
                    environment: vec![format!("PATH={PATH}"), "LANG=C.UTF-8".into(), "HOME=/root".into()],
                };
                Manager::connect().await?.start_fed(&unit, control).await
            }
            #[cfg(test)]
            Self::Task => {
                tokio::spawn(super::serve(control));
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
