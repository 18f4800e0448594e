//! `hostagent retry`: retries all applications that failed and are held.

use rustix::process::{Signal, kill_process};

use super::{Exit, print};
use crate::lock;
use crate::settings::Settings;

/// Signals the running agent. Without a running agent nothing is held.
pub fn retry(settings: &Settings) -> anyhow::Result<Exit> {
    let state_dir = settings.state_dir();
    match lock::holder(&state_dir)? {
        Some(agent) => {
            kill_process(agent, Signal::USR1)?;
            print(&format!(
                "The agent (process {agent}) retries what failed; `hostagent status` shows the result.\n"
            ))?;
            Ok(Exit::Ok)
        }
        None => anyhow::bail!(
            "no agent runs on this host (no process holds {}): start it, or use `hostagent apply`",
            state_dir.join("lock").display()
        ),
    }
}
