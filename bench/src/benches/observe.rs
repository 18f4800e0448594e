//! What looking at 100 applications with a service each costs, on a machine with a systemd of its own.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::machine::Machine;
use harness::packages::{Family, Package};
use protocol::{Limits, State, Status};
use serde_json::{Map, Value, json};
use tokio::time::sleep;

use super::need_machines;
use crate::agent::{Caller, LIBRARY, PACKAGES, libraries};
use crate::machine_agent::MachineAgent;
use crate::measure::{Row, Sample, Target};
use crate::process::{CpuMeter, Programs};
use crate::stage::{PATIENCE, Stage, step};
use crate::trace::Trace;

const HOST: &str = "machine-1";
const APPS: usize = 100;
/// Where the machine sees the packages.
const SERVED: &str = "/srv/apps";
/// Seconds: none that could come into a measurement.
const NO_HEARTBEAT: u32 = 86_400;

pub async fn run(programs: &Programs) -> Result<Vec<Row>> {
    need_machines()?;
    let folder = tempfile::tempdir()?;
    let mut desired = Map::new();
    for number in 0..APPS {
        add_app(&mut desired, number, folder.path())?;
    }
    let stage = Stage::new(programs).await?;
    let mut caller = Caller::new(&stage).await?;
    let machine = Machine::boot_with(&[&format!("--bind-ro={}:{SERVED}", folder.path().display())])?;
    furnish(&machine)?;
    MachineAgent::install(&stage, &machine)?;
    let agent = MachineAgent::start(&stage, &machine, HOST, NO_HEARTBEAT)?;
    let first = caller
        .wait_for(HOST, |_| true)
        .await
        .with_context(|| agent.log())?;
    step("the agent is up");
    caller
        .converge(HOST, &Value::Object(desired))
        .await
        .with_context(|| agent.log())?;
    step("the applications are installed");
    let running = running(&caller.ping(HOST).await?.1)?;
    ensure!(running == APPS, "{running} of {APPS} services run");

    let mut rows = vec![pings(&mut caller, &agent).await?];
    step("pinged");
    rows.push(reloads(&mut caller, &agent, &machine).await?);
    step("systemd reloaded");
    rows.push(programs_started(&stage, &mut caller, &agent, &machine).await?);
    step("traced");
    sees_a_service_stop(&mut caller, &machine)
        .await
        .with_context(|| agent.log())?;
    agent.end().await?;
    step("seen a service stop");
    rows.insert(
        1,
        heartbeats(&stage, &mut caller, &machine, &first.boot_id).await?,
    );
    Ok(rows)
}

/// A package with a unit, a config file and a manifest that names both; and what is desired of it.
fn add_app(desired: &mut Map<String, Value>, number: usize, folder: &Path) -> Result<()> {
    let name = format!("app-{number}");
    // Without [Install]: the agent would enable it, and have systemd read all its units anew, a few at a time.
    let unit = "[Service]\nExecStart=/bin/sleep infinity\n";
    let manifest = format!(
        "services = [\"{}\"]\n[config.server]\nfile = \"/etc/pf9/{name}.ini\"\nformat = \"ini\"\n",
        service(number)
    );
    let package = Package::new(&name, "1.0")
        .provides("pf9app")
        .file(
            &format!("/usr/lib/systemd/system/{}.service", service(number)),
            0o644,
            unit,
        )
        .file(&format!("/usr/share/hostagent/apps/{name}.toml"), 0o644, manifest)
        .file(
            &format!("/etc/pf9/{name}.ini"),
            0o644,
            "[server]\nport = 8080\nworkers = 4\n",
        );
    let file = package.build(Family::Deb, folder)?;
    let file = file.file_name().context("a package is a file")?.to_string_lossy();
    let spec = json!({"version": "1.0", "url": format!("file://{SERVED}/{file}"), "running": true,
        "config": {"server": {"port": 8080}}});
    desired.insert(name, spec);
    Ok(())
}

/// Only the manifest leads to it: it is called neither like the application nor like the package.
fn service(number: usize) -> String {
    format!("worker-{number}")
}

/// Fills the package database, so that it has [`PACKAGES`] when the applications are there.
fn furnish(machine: &Machine) -> Result<()> {
    const STATUS: &str = "/var/lib/dpkg/status";
    let mut status = std::fs::read_to_string(machine.path(STATUS))?;
    let own = status
        .lines()
        .filter(|line| line.starts_with("Package: "))
        .count();
    let more = PACKAGES.saturating_sub(own + APPS);
    status += &libraries(more)?;
    machine.write(STATUS, status, 0o644)?;
    // Without it dpkg would warn of each.
    machine
        .sh(&format!(
            "i=0; while [ $i -lt {more} ]; do : > /var/lib/dpkg/info/{LIBRARY}$i-dev:amd64.list; i=$((i+1)); done"
        ))
        .map(|_| ())
}

/// Of the applications in a status, those whose own service runs.
fn running(body: &[u8]) -> Result<usize> {
    let status = Status::decode(body, Limits::default())?;
    let runs = |number: &usize| {
        let app = status.apps.get(format!("app-{number}").as_str());
        app.and_then(|app| app.services.get(&service(*number)))
            .is_some_and(|service| service.running)
    };
    Ok((0..APPS).filter(runs).count())
}

async fn pings(caller: &mut Caller, agent: &MachineAgent) -> Result<Row> {
    const BLOCKS: usize = 10;
    const PINGS: usize = 50;
    for _ in 0..PINGS {
        caller.ping(HOST).await?;
    }
    let id = agent.id()?;
    let mut blocks = Vec::new();
    for _ in 0..BLOCKS {
        let used = CpuMeter::start(id)?;
        for _ in 0..PINGS {
            caller.ping(HOST).await?;
        }
        blocks.push(used.seconds()? * 1e3 / PINGS as f64);
    }
    Ok(row(
        "agent: processor time of a ping with 100 applications under systemd (observation, status, sending)",
        blocks,
    )?
    .target(Target::FigureAtMost(5.0))
    .note(format!(
        "{BLOCKS} blocks of {PINGS}. Each application has a manifest, a config file and a service that runs; what is known of the \
         services holds until systemd signals something else"
    )))
}

/// Of an agent with the shortest heartbeat there is. `before`: the boot id of the one before it.
async fn heartbeats(stage: &Stage, caller: &mut Caller, machine: &Machine, before: &str) -> Result<Row> {
    const TIMES: usize = 10;
    let agent = MachineAgent::start(stage, machine, HOST, 1)?;
    // Of this agent, and not what the one before it has said last.
    let settled = |status: &Status| status.status == State::Ok && status.boot_id != before;
    for _ in 0..3 {
        caller
            .wait_for(HOST, settled)
            .await
            .with_context(|| agent.log())?;
    }
    let id = agent.id()?;
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let used = CpuMeter::start(id)?;
        caller.wait_for(HOST, settled).await?;
        times.push(used.seconds()? * 1e3);
    }
    agent.end().await?;
    Ok(row(
        "agent: processor time of a heartbeat with 100 applications under systemd",
        times,
    )?
    .target(Target::FigureAtMost(5.0))
    .note("of 1 s. It asks about each config file, as about each manifest, and reads those that have changed; what is known of the services holds, as for a ping"))
}

/// What is known of the services no longer holds when systemd has read its unit files anew: all are asked for again.
async fn reloads(caller: &mut Caller, agent: &MachineAgent, machine: &Machine) -> Result<Row> {
    const TIMES: usize = 5;
    let id = agent.id()?;
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let used = CpuMeter::start(id)?;
        machine.sh("systemctl daemon-reload")?;
        // Beyond the drift watch's own 0.2 s. Where it was not woken, the ping's look asks.
        sleep(Duration::from_millis(500)).await;
        caller.ping(HOST).await?;
        times.push(used.seconds()? * 1e3);
    }
    Ok(row(
        "agent: processor time of a daemon-reload behind its back: its signals, 100 services asked for over D-Bus again, a ping",
        times,
    )?
    .note("as at the first look, and for each service ten minutes after it was last asked for"))
}

fn row(what: &str, times: Vec<f64>) -> Result<Row> {
    let figure = Sample::of(times).context("it was measured")?;
    Ok(Row::new("observe", what, "ms", figure))
}

/// What ten pings start: by the agent itself, or by systemd, of which it asks whatever changes the host.
async fn programs_started(
    stage: &Stage,
    caller: &mut Caller,
    agent: &MachineAgent,
    machine: &Machine,
) -> Result<Row> {
    const TIMES: usize = 10;
    let trace = Trace::attach(stage, &[agent.id()?, machine.leader()]).await?;
    for _ in 0..TIMES {
        caller.ping(HOST).await?;
    }
    let started = trace.programs()?;
    // What must be seen, or nothing would have been: a dead service is started again.
    machine.sh(&format!("systemctl kill --signal=KILL {}", service(0)))?;
    let since = Instant::now();
    while trace.programs()? == started {
        ensure!(since.elapsed() < PATIENCE, "strace sees no service start");
        sleep(Duration::from_millis(50)).await;
    }
    until_running(caller, APPS).await?;
    trace.end().await?;
    let what = format!("agent: processes started by {TIMES} pings, 100 applications under systemd");
    Ok(Row::new("observe", what, "processes", Sample::one(started as f64))
        .target(Target::FigureAtMost(0.0))
        .note(
            "strace on the agent and on the machine's systemd, which starts what changes the host. It sees the start of a \
             service that was killed afterwards",
        ))
}

/// That pings tell of services as they are, and not as they were.
async fn sees_a_service_stop(caller: &mut Caller, machine: &Machine) -> Result<()> {
    let service = service(0);
    // The agent would start it again.
    machine.sh(&format!("systemctl mask --runtime --now {service}"))?;
    until_running(caller, APPS - 1).await?;
    // Until its own try to start it has failed and is taken back: that would stop what is started meanwhile.
    let since = Instant::now();
    while Status::decode(&caller.ping(HOST).await?.1, Limits::default())?.status != State::Errors {
        ensure!(since.elapsed() < PATIENCE, "a masked service is no error");
        sleep(Duration::from_millis(50)).await;
    }
    machine.sh(&format!(
        "systemctl unmask --runtime {service}; systemctl start {service}"
    ))?;
    until_running(caller, APPS).await
}

async fn until_running(caller: &mut Caller, wanted: usize) -> Result<()> {
    let since = Instant::now();
    loop {
        let running = running(&caller.ping(HOST).await?.1)?;
        if running == wanted {
            return Ok(());
        }
        ensure!(
            since.elapsed() < PATIENCE,
            "{running} services run by the agent's word, and {wanted} do"
        );
        sleep(Duration::from_millis(50)).await;
    }
}
