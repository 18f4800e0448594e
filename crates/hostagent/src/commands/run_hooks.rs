//! `hostagent run-hooks`: the agent's runner of hooks (see [`host::command::Runner`]).

use std::io;
use std::os::fd::AsFd;

use anyhow::Context;

use super::Exit;
use host::command::serve_hooks;

/// The name of the process in `ps`. Started through `/proc`, it would be `exe`.
const NAME: &std::ffi::CStr = c"hostagent-hooks";

/// Serves the agent at the other end of standard input.
pub async fn run_hooks() -> anyhow::Result<Exit> {
    rustix::thread::set_name(NAME)?;
    let control = io::stdin().as_fd().try_clone_to_owned()?;
    serve_hooks(control)
        .await
        .context("cannot start children for the agent: standard input is not a socket of an agent (only the agent starts this command)")?;
    Ok(Exit::Ok)
}
