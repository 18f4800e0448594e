//! The cost of observing 100 applications with a service each, on a machine with systemd of its
//! own.

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
use crate::stage::{Stage, TIMEOUT, step};
use crate::trace::Trace;

const HOST: &str = "machine-1";
const APPS: usize = 100;
/// Where the machine has the packages.
const SERVED: &str = "/srv/apps";
/// Seconds: so many that no heartbeat falls into a measurement.
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
    fill_package_database(&machine)?;
    MachineAgent::install(&stage, &machine)?;
    let agent = MachineAgent::start(&stage, &machine, HOST, NO_HEARTBEAT)?;
    let first = caller
        .wait_for(HOST, |_| true)
        .await
        .with_context(|| agent.log())?;
    step("the agent runs");
    caller
        .converge(HOST, &Value::Object(desired))
        .await
        .with_context(|| agent.log())?;
    step("the applications are installed");
    let running = running(&caller.ping(HOST).await?.1)?;
    ensure!(running == APPS, "only {running} of {APPS} services run");

    let mut rows = vec![pings(&mut caller, &agent).await?];
    step("pings are measured");
    rows.push(reloads(&mut caller, &agent, &machine).await?);
    step("reloads are measured");
    rows.push(programs_started(&stage, &mut caller, &agent, &machine).await?);
    step("started programs are counted");
    reports_a_stopped_service(&mut caller, &machine)
        .await
        .with_context(|| agent.log())?;
    agent.end().await?;
    step("the agent has reported a stopped service");
    rows.insert(
        1,
        heartbeats(&stage, &mut caller, &machine, &first.boot_id).await?,
    );
    Ok(rows)
}

/// Builds a package with a unit, a config file and a manifest that names both, and adds it to the
/// desired state.
fn add_app(desired: &mut Map<String, Value>, number: usize, folder: &Path) -> Result<()> {
    let name = format!("app-{number}");
    // Without [Install]: otherwise the agent would enable the unit, and systemd would reload all
    // units several times.
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
    let file = file
        .file_name()
        .context("a package has no file name")?
        .to_string_lossy();
    let spec = json!({"version": "1.0", "url": format!("file://{SERVED}/{file}"), "running": true,
        "config": {"server": {"port": 8080}}});
    desired.insert(name, spec);
    Ok(())
}

/// Only the manifest has this name: it differs from the names of the application and of the
/// package.
fn service(number: usize) -> String {
    format!("worker-{number}")
}

/// Adds so many packages to the database that it has [`PACKAGES`] when the applications are
/// installed.
fn fill_package_database(machine: &Machine) -> Result<()> {
    const STATUS: &str = "/var/lib/dpkg/status";
    let mut status = std::fs::read_to_string(machine.path(STATUS))?;
    let own = status
        .lines()
        .filter(|line| line.starts_with("Package: "))
        .count();
    let more = PACKAGES.saturating_sub(own + APPS);
    status += &libraries(more)?;
    machine.write(STATUS, status, 0o644)?;
    // Without these files, dpkg prints a warning for each package.
    machine
        .sh(&format!(
            "i=0; while [ $i -lt {more} ]; do : > /var/lib/dpkg/info/{LIBRARY}$i-dev:amd64.list; i=$((i+1)); done"
        ))
        .map(|_| ())
}

/// Number of applications in a status whose own service runs.
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
        "agent: processor time of a ping, 100 applications with systemd (observation, status, sending)",
        blocks,
    )?
    .target(Target::FigureAtMost(5.0))
    .note(format!(
        "{BLOCKS} blocks of {PINGS} pings. Each application has a manifest, a config file and a running service; the agent asks \
         systemd for a service again when systemd signals a change"
    )))
}

/// Heartbeats of an agent with the shortest period. `before`: the boot id of the previous agent.
async fn heartbeats(stage: &Stage, caller: &mut Caller, machine: &Machine, before: &str) -> Result<Row> {
    const TIMES: usize = 10;
    let agent = MachineAgent::start(stage, machine, HOST, 1)?;
    // A status of this agent, not a late one of the previous agent.
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
        "agent: processor time of a heartbeat, 100 applications with systemd",
        times,
    )?
    .target(Target::FigureAtMost(5.0))
    .note("heartbeat_period 1 s. The agent checks each manifest and each config file, and reads those that have changed"))
}

/// After a daemon-reload, the agent asks systemd for all services again.
async fn reloads(caller: &mut Caller, agent: &MachineAgent, machine: &Machine) -> Result<Row> {
    const TIMES: usize = 5;
    let id = agent.id()?;
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let used = CpuMeter::start(id)?;
        machine.sh("systemctl daemon-reload")?;
        // Longer than the 0.2 s that the agent waits for more signals.
        sleep(Duration::from_millis(500)).await;
        caller.ping(HOST).await?;
        times.push(used.seconds()? * 1e3);
    }
    Ok(row(
        "agent: processor time of a daemon-reload by somebody else, with the ping after it, 100 services",
        times,
    )?
    .note("the agent handles the signals of systemd and asks for all services over D-Bus again, as after its start"))
}

fn row(what: &str, times: Vec<f64>) -> Result<Row> {
    let figure = Sample::of(times).context("no measurements")?;
    Ok(Row::new("observe", what, "ms", figure))
}

/// Number of processes that ten pings start: by the agent, or by systemd, which runs the agent's
/// package transactions.
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
    // Proof that strace sees started processes: the agent has a killed service started again.
    machine.sh(&format!("systemctl kill --signal=KILL {}", service(0)))?;
    let since = Instant::now();
    while trace.programs()? == started {
        ensure!(
            since.elapsed() < TIMEOUT,
            "strace does not see the start of a service"
        );
        sleep(Duration::from_millis(50)).await;
    }
    until_running(caller, APPS).await?;
    trace.end().await?;
    let what = format!("agent: processes started by {TIMES} pings, 100 applications with systemd");
    Ok(Row::new("observe", what, "processes", Sample::one(started as f64))
        .target(Target::FigureAtMost(0.0))
        .note(
            "strace on the agent and on the systemd of the container; checked: it sees the start of a service that was killed \
             afterwards",
        ))
}

/// Checks that the answers to pings have the current state of services.
async fn reports_a_stopped_service(caller: &mut Caller, machine: &Machine) -> Result<()> {
    let service = service(0);
    // Masked, or the agent would start it again.
    machine.sh(&format!("systemctl mask --runtime --now {service}"))?;
    until_running(caller, APPS - 1).await?;
    // Wait until the agent's own start has failed and is rolled back: the rollback would stop the
    // service again.
    let since = Instant::now();
    while Status::decode(&caller.ping(HOST).await?.1, Limits::default())?.status != State::Errors {
        ensure!(
            since.elapsed() < TIMEOUT,
            "the agent does not report an error for a masked service"
        );
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
            since.elapsed() < TIMEOUT,
            "the agent reports {running} running services instead of {wanted}"
        );
        sleep(Duration::from_millis(50)).await;
    }
}
