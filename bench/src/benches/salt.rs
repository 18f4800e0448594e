//! The agent compared with Salt, from PyPI: a ping, a run that changes nothing, resident memory.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::Skip;
use crate::agent::{Agent, Caller, Options, sandbox_with_apps};
use crate::measure::{Row, Target};
use crate::process::{self, Process, Programs};
use crate::stage::Stage;

const HOST: &str = "host-1";
const ROUNDS: usize = 30;
const APPS: usize = 20;
const CLIENT: &str = include_str!("salt.py");

#[derive(Deserialize)]
struct Times {
    pings: Vec<f64>,
    states: Vec<f64>,
}

pub async fn run(programs: &Programs) -> Result<Vec<Row>> {
    let venv = install().map_err(|error| Skip(format!("cannot install Salt: {error:#}")))?;
    let (times, memory) = measure_salt(&venv).await?;
    let stage = Stage::new(programs).await?;
    let mut caller = Caller::new(&stage).await?;
    let (sandbox, desired) = sandbox_with_apps(APPS)?;
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
    for salt in times.pings {
        pings.push((caller.ping(HOST).await?.0.as_secs_f64() * 1e3, salt));
    }
    let mut states = Vec::new();
    for salt in times.states {
        states.push((caller.converge(HOST, &desired).await?.as_secs_f64() * 1e3, salt));
    }
    let resident = process::memory(agent.id())?.resident;
    agent.end().await?;
    let version = version(&venv);
    let rows = [
        Row::compared(
            "salt",
            "agent: time from a ping to its status",
            "ms",
            format!("Salt {version}: test.ping"),
            &pings,
        ),
        Row::compared(
            "salt",
            format!("agent: time of a desired state that changes nothing, {APPS} installed packages"),
            "ms",
            "Salt: state.single pkg.installed",
            &states,
        ),
        Row::compared(
            "salt",
            "agent: resident memory, idle",
            "MiB",
            "Salt: processes of the minion",
            &[(resident, memory)],
        ),
    ];
    let rows = rows
        .into_iter()
        .flatten()
        .map(|row| row.target(Target::RatioAtMost(1.0)));
    let note = "Salt through its LocalClient in a process that keeps running, master and minion on this machine; Salt checks packages \
                of this machine, the agent those of a sandbox";
    Ok(rows.map(|row| row.note(note)).collect())
}

/// Installs Salt into a virtual environment beside the built programs, and keeps it. Returns its
/// folder.
fn install() -> Result<PathBuf> {
    let venv = std::path::absolute("target/salt")?;
    if venv.join("bin/salt-minion").exists() {
        return Ok(venv);
    }
    fs::create_dir_all(&venv)?;
    run_command(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    run_command(Command::new(venv.join("bin/pip")).args(["install", "--quiet", "salt"]))?;
    Ok(venv)
}

fn run_command(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let end: Vec<&str> = stderr.trim().lines().rev().take(3).collect();
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

/// Times of Salt, and the memory of its minion in MiB.
async fn measure_salt(venv: &Path) -> Result<(Times, f64)> {
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
    let line = client.wait_for_line("measured ", Duration::from_secs(240)).await;
    let logs = format!("salt-master: {}\nsalt-minion: {}", master.log(), minion.log());
    let memory = tree(minion.id())
        .into_iter()
        .flat_map(process::memory)
        .map(|memory| memory.resident)
        .sum();
    // With SIGTERM, before any error is returned: their own children would outlive a kill.
    minion.end().await?;
    master.end().await?;
    let line = line.context(logs)?;
    Ok((serde_json::from_str(&line)?, memory))
}

/// Names of packages that are installed on this machine.
fn packages_here() -> Result<Vec<String>> {
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Abbrev}${Package}\n"])
        .output();
    let text = output.context("cannot list the packages of this machine")?.stdout;
    let text = String::from_utf8_lossy(&text);
    let names = text.lines().filter_map(|line| line.strip_prefix("ii "));
    Ok(names.map(|name| name.trim().to_owned()).take(APPS).collect())
}

/// A process and all its descendants.
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
