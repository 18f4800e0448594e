//! Salt, from PyPI, as the peer for a ping and for a state that is so already.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::Skip;
use crate::agent::{Agent, Caller, Options, furnished};
use crate::measure::{Row, Target};
use crate::process::{self, Process, Programs};
use crate::stage::Stage;

const HOST: &str = "host-1";
const ROUNDS: usize = 30;
const APPS: usize = 20;
const CLIENT: &str = include_str!("salt.py");

#[derive(Deserialize)]
struct Said {
    pings: Vec<f64>,
    states: Vec<f64>,
}

pub async fn run(programs: &Programs) -> Result<Vec<Row>> {
    let venv = install().map_err(|error| Skip(format!("cannot install Salt: {error:#}")))?;
    let (said, memory) = salt(&venv).await?;
    let stage = Stage::new(programs).await?;
    let mut caller = Caller::new(&stage).await?;
    let (sandbox, desired) = furnished(APPS)?;
    let agent = Agent::start(&stage, &sandbox, HOST, Options::default()).await?;
    caller
        .wait_for(HOST, |_| true)
        .await
        .with_context(|| agent.log())?;
    caller
        .converge(HOST, &desired)
        .await
        .with_context(|| agent.log())?;
    let mut pings = Vec::new();
    for salt in said.pings {
        pings.push((caller.ping(HOST).await?.0.as_secs_f64() * 1e3, salt));
    }
    let mut states = Vec::new();
    for salt in said.states {
        states.push((caller.converge(HOST, &desired).await?.as_secs_f64() * 1e3, salt));
    }
    let resident = process::memory(agent.id())?.resident;
    agent.end().await?;
    let version = version(&venv);
    let rows = [
        Row::compared(
            "salt",
            "agent: ping -> status",
            "ms",
            format!("Salt {version}: test.ping"),
            &pings,
        ),
        Row::compared(
            "salt",
            format!("agent: {APPS} packages that are as desired"),
            "ms",
            format!("Salt: pkg.installed of {APPS} that are"),
            &states,
        ),
        Row::compared(
            "salt",
            "agent: resident memory",
            "MiB",
            "Salt: minion's processes",
            &[(resident, memory)],
        ),
    ];
    let rows = rows
        .into_iter()
        .flatten()
        .map(|row| row.target(Target::RatioAtMost(1.0)));
    let note = "Salt by its own LocalClient in a resident process, minion on this machine; its packages are this machine's";
    Ok(rows.map(|row| row.note(note)).collect())
}

/// The virtual environment with Salt in it; made at the first run, beside the programs that are built.
fn install() -> Result<PathBuf> {
    let venv = std::path::absolute("target/salt")?;
    if venv.join("bin/salt-minion").exists() {
        return Ok(venv);
    }
    fs::create_dir_all(&venv)?;
    succeed(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    succeed(Command::new(venv.join("bin/pip")).args(["install", "--quiet", "salt"]))?;
    Ok(venv)
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let end: Vec<&str> = said.trim().lines().rev().take(3).collect();
    ensure!(output.status.success(), "{command:?}: {}", end.join(" / "));
    Ok(())
}

fn version(venv: &Path) -> String {
    let output = Command::new(venv.join("bin/pip")).args(["show", "salt"]).output();
    let text = output
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Version: "));
    line.unwrap_or_default().to_owned()
}

/// What Salt takes, and the memory of its minion.
async fn salt(venv: &Path) -> Result<(Said, f64)> {
    let folder = tempfile::TempDir::with_prefix("backbone-salt-")?;
    let at = folder.path().display();
    let ports: Vec<TcpListener> = (0..2)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()?;
    let [publish, answer] = [ports[0].local_addr()?.port(), ports[1].local_addr()?.port()];
    drop(ports);
    let common = format!("root_dir: {at}\nuser: root\nlog_level: warning\nipc_mode: ipc\n");
    let master = format!(
        "{common}interface: 127.0.0.1\npublish_port: {publish}\nret_port: {answer}\nauto_accept: true\nworker_threads: 2\n"
    );
    let minion =
        format!("{common}id: bench\nmaster: 127.0.0.1\npublish_port: {publish}\nmaster_port: {answer}\n");
    for (name, text) in [("master", master), ("minion", minion)] {
        fs::write(folder.path().join(name), text)?;
    }
    let start = |program: &str| {
        let arguments = ["-c".to_owned(), at.to_string()];
        Process::start(
            &venv.join("bin").join(program),
            &arguments,
            &folder.path().join(format!("{program}.log")),
        )
    };
    let master = start("salt-master")?;
    let minion = start("salt-minion")?;
    let program = folder.path().join("client.py");
    fs::write(&program, CLIENT)?;
    let mut arguments = vec![
        program.to_string_lossy().into_owned(),
        at.to_string(),
        ROUNDS.to_string(),
    ];
    arguments.extend(packages_here()?);
    let log = folder.path().join("client.log");
    let mut client = Process::start(&venv.join("bin/python"), &arguments, &log)?;
    let said = client.says("measured ", Duration::from_secs(240)).await;
    let logs = format!("salt-master: {}\nsalt-minion: {}", master.log(), minion.log());
    let memory = tree(minion.id())
        .into_iter()
        .flat_map(process::memory)
        .map(|memory| memory.resident)
        .sum();
    // In order, whatever came of it: their own children would outlive a kill.
    minion.end().await?;
    master.end().await?;
    let said = said.context(logs)?;
    Ok((serde_json::from_str(&said)?, memory))
}

/// So many packages that this machine has.
fn packages_here() -> Result<Vec<String>> {
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Abbrev}${Package}\n"])
        .output();
    let text = output
        .context("Salt's state is one of this machine's dpkg packages")?
        .stdout;
    let text = String::from_utf8_lossy(&text);
    let names = text.lines().filter_map(|line| line.strip_prefix("ii "));
    Ok(names.map(|name| name.trim().to_owned()).take(APPS).collect())
}

/// A process and all below it.
fn tree(process: u32) -> Vec<u32> {
    let mut found = vec![process];
    let mut next = 0;
    while let Some(id) = found.get(next).copied() {
        next += 1;
        for task in fs::read_dir(format!("/proc/{id}/task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(
                children
                    .split_whitespace()
                    .filter_map(|id| id.parse::<u32>().ok()),
            );
        }
    }
    found
}
