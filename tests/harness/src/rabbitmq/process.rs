//! Starts a node and its epmd. Both end with their users.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result};

use super::NodeFiles;

/// A node and its epmd. Both are killed when dropped, or by the kernel when this process ends.
pub(super) struct NodeProcess {
    node: Child,
    epmd: Child,
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        for child in [&mut self.node, &mut self.epmd] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts the node as a child of this process.
pub(super) fn spawn(files: &NodeFiles) -> Result<NodeProcess> {
    let epmd = spawn_bound(epmd(files), files)?;
    let node = spawn_bound(files.command("rabbitmq-server")?, files)?;
    Ok(NodeProcess { node, epmd })
}

/// Erlang's name server. If the node started it itself, it would never end.
fn epmd(files: &NodeFiles) -> Command {
    let mut command = Command::new("epmd");
    command
        .args(["-address", "127.0.0.1", "-port", &files.ports.epmd.to_string()])
        .env("HOME", &files.folder);
    command
}

/// Spawns `command` with the parent-death signal KILL.
fn spawn_bound(command: Command, files: &NodeFiles) -> Result<Child> {
    let mut bound = Command::new("setpriv");
    bound
        .args(["--pdeathsig", "KILL", "--"])
        .arg(command.get_program())
        .args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        bound.current_dir(folder).env_clear();
    }
    bound.envs(
        command
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    log_to(&mut bound, files)?;
    // That signal is sent when the parent thread ends, not the process, so this thread must stay.
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new()
        .name("rabbitmq-parent".into())
        .spawn(move || {
            let sent = sender.send(bound.spawn());
            drop(sender);
            while sent.is_ok() {
                thread::park();
            }
        })?;
    receiver
        .recv()?
        .context("cannot start setpriv (package util-linux)")
}

fn log_to(command: &mut Command, files: &NodeFiles) -> Result<()> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(files.folder.join("out.log"))?;
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C must reach only the tests.
        .process_group(0);
    Ok(())
}

/// Starts the node under a shell that kills it when `FOLDER/lease` has not been locked for some
/// seconds.
pub(super) fn spawn_leased(files: &NodeFiles, folder: &Path) -> Result<()> {
    const SCRIPT: &str = r#"
        epmd -address 127.0.0.1 -port "$ERL_EPMD_PORT" & export epmd=$!
        "$1" & export node=$!
        export folder="$2"
        while :; do
            flock --exclusive "$folder/lease" true
            sleep 5
            # There is no user now, and a new one must wait until everything is deleted. Then it starts a new node.
            flock --exclusive --nonblock "$folder/lease" \
                sh -c 'rm -f "$folder/ports"; kill -9 $node $epmd; rm -rf "$folder/node"' && break
        done
    "#;
    let server = files.command("rabbitmq-server")?;
    let mut keeper = Command::new("sh");
    keeper
        .args(["-c", SCRIPT, "keeper"])
        .arg(server.get_program())
        .arg(folder);
    keeper.current_dir(&files.folder).env_clear();
    keeper.envs(server.get_envs().filter_map(|(name, value)| Some((name, value?))));
    log_to(&mut keeper, files)?;
    keeper.spawn().context("cannot start sh")?;
    Ok(())
}
