//! `hostagent retry`: another try of all that failed and is held.

use rustix::process::{Signal, kill_process};

use super::{Exit, print};
use crate::lock;
use crate::settings::Settings;

/// Tells the running agent; without one, there is nothing that holds.
pub fn retry(settings: &Settings) -> anyhow::Result<Exit> {
    let state_dir = settings.state_dir();
    match lock::holder(&state_dir)? {
        Some(agent) => {
            kill_process(agent, Signal::USR1)?;
            print(&format!(
                "The agent (process {agent}) tries again; `hostagent status` shows how it goes.\n"
            ))?;
            Ok(Exit::Ok)
        }
        None => anyhow::bail!(
            "no agent runs on this host (nobody holds {}): start it, or use `hostagent apply`",
            state_dir.join("lock").display()
        ),
    }
}
