//! `hostagent run-hooks`: the agent's runner of hooks (see [`host::command::Runner`]).

use std::io;
use std::os::fd::AsFd;

use anyhow::Context;

use super::Exit;
use host::command::serve_hooks;

/// As the kernel knows it (`ps`): started by way of `/proc`, it would be `exe`.
const NAME: &std::ffi::CStr = c"hostagent-hooks";

/// Serves the agent at the other end of standard input.
pub async fn run_hooks() -> anyhow::Result<Exit> {
    rustix::thread::set_name(NAME)?;
    let control = io::stdin().as_fd().try_clone_to_owned()?;
    serve_hooks(control)
        .await
        .context("cannot start children for the agent: standard input is no socket of an agent's (it starts this by itself)")?;
    Ok(Exit::Ok)
}
