//! 20 packages on a machine with systemd and apt of its own, compared with `apt-get install` of the
//! same files by hand.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use harness::http::HttpServer;
use harness::machine::Machine;
use harness::packages::Family;
use serde_json::{Value, json};

use super::converge::{APPS, package, write_back};
use super::need_machines;
use crate::agent::Caller;
use crate::machine_agent::MachineAgent;
use crate::measure::{Row, Target};
use crate::process::Programs;
use crate::stage::{Stage, step};

const HOST: &str = "machine-1";
const ROUNDS: usize = 5;
/// Where the machine has the files.
const FILES: &str = "/srv/apps";
const INSTALL: &str = "DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-remove -o Dpkg::Use-Pty=0 \
                       -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold /srv/apps/*.deb";
/// The packages, what the agent has stored, and what it has downloaded.
const REMOVE: &str = "dpkg --purge $(dpkg-query -W -f '${Package} ' 'app-*'); \
                      rm -rf /var/lib/hostagent /var/cache/pf9apps";

pub async fn run(programs: &Programs) -> Result<Vec<Row>> {
    need_machines()?;
    let stage = Stage::new(programs).await?;
    let mut caller = Caller::new(&stage).await?;
    let server = HttpServer::start().await?;
    let folder = tempfile::tempdir()?;
    let desired = build(&server, folder.path())?;
    let machine = Machine::boot_with(&[&format!("--bind-ro={}:{FILES}", folder.path().display())])?;
    MachineAgent::install(&stage, &machine)?;
    step("the machine is up");
    let mut rounds = Vec::new();
    for number in 0..ROUNDS {
        // The disk is not in the same state for the second: each comes first in half of the rounds.
        let (ours, by_hand) = if number % 2 == 0 {
            let ours = install_by_agent(&stage, &mut caller, &machine, &desired).await?;
            (ours, install_by_hand(&machine)?)
        } else {
            let by_hand = install_by_hand(&machine)?;
            (
                install_by_agent(&stage, &mut caller, &machine, &desired).await?,
                by_hand,
            )
        };
        rounds.push((ours.as_secs_f64() * 1e3, by_hand.as_secs_f64() * 1e3));
    }
    let what = format!("agent: time to install {APPS} packages on a host with apt, from a server nearby");
    let row = Row::compared("apt", what, "ms", "apt-get install of the files by hand", &rounds);
    let row = row.context("no rounds")?;
    Ok(vec![row.target(Target::RatioAtMost(1.3)).note(format!(
        "from set_config to the status ok, downloads included; {ROUNDS} rounds in a container with systemd, dpkg and apt of its \
         own; packages of 1 MiB in 20 files, uncompressed, without services; bake_period 0"
    ))])
}

/// Builds the packages in `folder` and serves them; returns the desired state that asks for them.
fn build(server: &HttpServer, folder: &Path) -> Result<Value> {
    let mut desired = serde_json::Map::new();
    for number in 0..APPS {
        let name = format!("app-{number}");
        let file = package(&name).build(Family::Deb, folder)?;
        let url = server.put_file(&format!("/{name}.deb"), std::fs::read(file)?);
        desired.insert(
            name,
            json!({"version": "1.0", "url": url, "running": false, "config": {}}),
        );
    }
    Ok(desired.into())
}

async fn install_by_agent(
    stage: &Stage,
    caller: &mut Caller,
    machine: &Machine,
    desired: &Value,
) -> Result<Duration> {
    let agent = MachineAgent::start(stage, machine, HOST, 86_400)?;
    let log = || agent.log();
    caller.wait_for(HOST, |_| true).await.with_context(log)?;
    write_back();
    let took = caller.converge(HOST, desired).await.with_context(log)?;
    agent.end().await?;
    machine.sh(REMOVE)?;
    Ok(took)
}

/// Without an agent.
fn install_by_hand(machine: &Machine) -> Result<Duration> {
    write_back();
    let started = Instant::now();
    machine.sh(INSTALL)?;
    let took = started.elapsed();
    machine.sh(REMOVE)?;
    Ok(took)
}
