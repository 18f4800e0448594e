//! An agent with nothing to do: memory, processor time, size of its program; and the time to start.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use harness::http::HttpServer;
use harness::packages::{Family, Package, Sandbox};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::agent::{Agent, Caller, Options, sandbox_with_apps};
use crate::measure::{Row, Sample, Target};
use crate::process::{self, CpuMeter, Memory, Programs};
use crate::stage::Stage;

const HOST: &str = "host-1";
/// Until the memory that the last work needed is given back.
const IDLE_AFTER: Duration = Duration::from_secs(5);

pub async fn run(programs: &Programs) -> Result<Vec<Row>> {
    let size = std::fs::metadata(programs.get("hostagent")?)?.len() as f64 / 1024.0 / 1024.0;
    let mut rows = vec![
        Row::new(
            "footprint",
            "agent: size of the program, stripped",
            "MiB",
            Sample::one(size),
        )
        .target(Target::FigureAtMost(8.0)),
    ];
    let stage = Stage::new(programs).await?;
    let mut caller = Caller::new(&stage).await?;
    rows.push(start(&stage, &mut caller).await?);
    rows.push(idle_time(&stage, &mut caller).await?);
    for tls in [false, true] {
        rows.extend(idle(&stage, &mut caller, tls).await?);
    }
    Ok(rows)
}

async fn start(stage: &Stage, caller: &mut Caller) -> Result<Row> {
    const TIMES: usize = 7;
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let (sandbox, _) = sandbox_with_apps(10)?;
        let started = Instant::now();
        let agent = Agent::start(stage, &sandbox, HOST, Options::default()).await?;
        caller
            .wait_for(HOST, |_| true)
            .await
            .with_context(|| agent.log())?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
        agent.end().await?;
    }
    let figure = Sample::of(times).context("no starts")?;
    let row = Row::new(
        "footprint",
        "agent: time from its start to the first status at the master, 1,500 packages",
        "ms",
        figure,
    );
    Ok(row.target(Target::FigureAtMost(100.0)))
}

fn split(memory: Memory) -> String {
    format!(
        "anonymous {:.2} MiB, of files {:.2} MiB; peak so far {:.1} MiB",
        memory.anonymous, memory.files, memory.peak
    )
}

/// An agent that has converged, with 10 applications and a heartbeat of 60 s.
struct Converged {
    agent: Agent,
    sandbox: Sandbox,
    desired: Value,
}

async fn start_converged(stage: &Stage, caller: &mut Caller, host: &str, tls: bool) -> Result<Converged> {
    let (sandbox, desired) = sandbox_with_apps(10)?;
    let options = Options {
        tls,
        heartbeat: 60,
        ..Options::default()
    };
    let agent = Agent::start(stage, &sandbox, host, options).await?;
    caller
        .wait_for(host, |_| true)
        .await
        .with_context(|| agent.log())?;
    caller
        .converge(host, &desired)
        .await
        .with_context(|| agent.log())?;
    Ok(Converged {
        agent,
        sandbox,
        desired,
    })
}

/// Processor time of several idle agents over the same two minutes, over TLS. A single agent over
/// one minute wakes about thirty times, which is too few: the cost of each depends on the
/// processor's caches.
async fn idle_time(stage: &Stage, caller: &mut Caller) -> Result<Row> {
    const AGENTS: usize = 5;
    const WINDOW: Duration = Duration::from_secs(120);
    /// By then, the threads that read the package database at the start have ended, and the first
    /// heartbeat, which reads all config files, is over.
    const WARM_UP: Duration = Duration::from_secs(75);
    let mut all = Vec::new();
    for number in 0..AGENTS {
        all.push(start_converged(stage, caller, &format!("idle-{number}"), true).await?);
    }
    sleep(WARM_UP).await;
    let meters = all.iter().map(|converged| CpuMeter::start(converged.agent.id()));
    let (meters, since) = (meters.collect::<Result<Vec<_>>>()?, Instant::now());
    sleep(WINDOW).await;
    let hours = since.elapsed().as_secs_f64() / 3600.0;
    let an_hour = meters.iter().map(|used| Ok(used.seconds()? / hours));
    let figure = Sample::of(an_hour.collect::<Result<_>>()?).context("no agents")?;
    for converged in all {
        converged.agent.end().await?;
    }
    let what =
        "agent: processor time of an idle hour, connected over TLS, heartbeat of 60 s, 10 applications";
    Ok(Row::new("footprint", what, "s", figure)
        .target(Target::FigureAtMost(0.4))
        .note(format!(
            "{AGENTS} agents at the same time, extrapolated from {:.0} s; includes heartbeats and the AMQP heartbeats of both \
             sides",
            WINDOW.as_secs_f64()
        )))
}

async fn idle(stage: &Stage, caller: &mut Caller, tls: bool) -> Result<Vec<Row>> {
    let how = if tls { "over TLS" } else { "without TLS" };
    let Converged {
        agent,
        sandbox: _sandbox,
        mut desired,
    } = start_converged(stage, caller, HOST, tls).await?;
    sleep(IDLE_AFTER).await;
    let memory = process::memory(agent.id())?;
    let limit = Target::FigureAtMost(6.0);
    let row = |what: String, unit, figure| Row::new("footprint", what, unit, Sample::one(figure));
    let mut rows = vec![
        row(
            format!("agent: resident memory, idle, connected {how}"),
            "MiB",
            memory.resident,
        )
        .target(limit)
        .note(split(memory)),
    ];
    let server = HttpServer::start().await?;
    let folder = tempfile::tempdir()?;
    let large = Package::new("large", "1.0").provides("pf9app").file(
        "/opt/large/blob",
        0o644,
        incompressible(200 << 20),
    );
    let file = large.build(Family::Deb, folder.path())?;
    let url = server.put_file("/large.deb", std::fs::read(file)?);
    desired["large"] = json!({"version": "1.0", "url": url, "running": false, "config": {}});
    caller
        .converge(HOST, &desired)
        .await
        .with_context(|| agent.log())?;
    sleep(IDLE_AFTER).await;
    let memory = process::memory(agent.id())?;
    let what = format!("agent: resident memory after it installed a package of 200 MB, connected {how}");
    rows.push(
        row(what, "MiB", memory.resident)
            .target(limit)
            .note(split(memory)),
    );
    agent.end().await?;
    Ok(rows)
}

/// Random bytes, which cannot be compressed.
pub fn incompressible(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(length as u64).fill(&mut bytes);
    bytes
}
