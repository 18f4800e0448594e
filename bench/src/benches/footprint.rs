//! What an agent costs that has little to do: memory, processor time, size; and how soon it is there.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use harness::http::HttpServer;
use harness::packages::{Family, Package, Sandbox};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::agent::{Agent, Caller, Options, furnished};
use crate::measure::{Row, Sample, Target};
use crate::process::{self, CpuMeter, Memory, Programs};
use crate::stage::Stage;

const HOST: &str = "host-1";
/// For what a start leaves behind to be given back.
const CALM: Duration = Duration::from_secs(5);

pub async fn run(programs: &Programs) -> Result<Vec<Row>> {
    let size = std::fs::metadata(programs.get("hostagent")?)?.len() as f64 / 1024.0 / 1024.0;
    let mut rows = vec![
        Row::new("footprint", "agent: program, stripped", "MiB", Sample::one(size))
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
        let (sandbox, _) = furnished(10)?;
        let started = Instant::now();
        let agent = Agent::start(stage, &sandbox, HOST, Options::default()).await?;
        caller
            .wait_for(HOST, |_| true)
            .await
            .with_context(|| agent.log())?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
        agent.end().await?;
    }
    let figure = Sample::of(times).context("it was started")?;
    let row = Row::new(
        "footprint",
        "agent: start to first status at the master, 1,500 packages",
        "ms",
        figure,
    );
    Ok(row.target(Target::FigureAtMost(100.0)))
}

fn split(memory: Memory) -> String {
    format!(
        "anonymous {:.2} MiB, of files {:.2} MiB, peak {:.1} MiB",
        memory.anonymous, memory.files, memory.peak
    )
}

/// An agent that has what is desired of it, a heartbeat of 60 s and 10 applications.
struct Settled {
    agent: Agent,
    sandbox: Sandbox,
    desired: Value,
}

async fn settle(stage: &Stage, caller: &mut Caller, host: &str, tls: bool) -> Result<Settled> {
    let (sandbox, desired) = furnished(10)?;
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
    Ok(Settled {
        agent,
        sandbox,
        desired,
    })
}

/// Of several agents over the same two minutes. One over one minute says little: it is some thirty wake-ups, each of which
/// costs what the machine has in its caches just then. Over TLS; plain text costs less.
async fn idle_time(stage: &Stage, caller: &mut Caller) -> Result<Row> {
    const AGENTS: usize = 5;
    const WINDOW: Duration = Duration::from_secs(120);
    /// The threads that have read the package database at the start have ended by then, and the first heartbeat is over, at which
    /// config files are read that have just been made.
    const SETTLED: Duration = Duration::from_secs(75);
    let mut all = Vec::new();
    for number in 0..AGENTS {
        all.push(settle(stage, caller, &format!("idle-{number}"), true).await?);
    }
    sleep(SETTLED).await;
    let meters = all.iter().map(|settled| CpuMeter::start(settled.agent.id()));
    let (meters, since) = (meters.collect::<Result<Vec<_>>>()?, Instant::now());
    sleep(WINDOW).await;
    let hours = since.elapsed().as_secs_f64() / 3600.0;
    let an_hour = meters.iter().map(|used| Ok(used.seconds()? / hours));
    let figure = Sample::of(an_hour.collect::<Result<_>>()?).context("there are agents")?;
    for settled in all {
        settled.agent.end().await?;
    }
    let what = "agent: processor time of an hour idle over TLS, heartbeat of 60 s, 10 applications";
    Ok(Row::new("footprint", what, "s", figure)
        .target(Target::FigureAtMost(0.4))
        .note(format!(
            "{AGENTS} agents side by side, extrapolated from {:.0} s, two heartbeats and both sides' AMQP heartbeats \
             included",
            WINDOW.as_secs_f64()
        )))
}

async fn idle(stage: &Stage, caller: &mut Caller, tls: bool) -> Result<Vec<Row>> {
    let how = if tls { "over TLS" } else { "in plain text" };
    let Settled {
        agent,
        sandbox: _sandbox,
        mut desired,
    } = settle(stage, caller, HOST, tls).await?;
    sleep(CALM).await;
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
    let large =
        Package::new("large", "1.0")
            .provides("pf9app")
            .file("/opt/large/blob", 0o644, noise(200 << 20));
    let file = large.build(Family::Deb, folder.path())?;
    let url = server.put_file("/large.deb", std::fs::read(file)?);
    desired["large"] = json!({"version": "1.0", "url": url, "running": false, "config": {}});
    caller
        .converge(HOST, &desired)
        .await
        .with_context(|| agent.log())?;
    sleep(CALM).await;
    let memory = process::memory(agent.id())?;
    let what = format!("agent: resident memory after a package of 200 MB, connected {how}");
    rows.push(
        row(what, "MiB", memory.resident)
            .target(limit)
            .note(split(memory)),
    );
    agent.end().await?;
    Ok(rows)
}

/// Bytes that nothing compresses.
pub fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(length as u64).fill(&mut bytes);
    bytes
}
