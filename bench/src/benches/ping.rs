//! Pings: the time until the status, compared with a bare echo; processor time; processes started.

use anyhow::{Context, Result};

use crate::agent::{Agent, Caller, Options, PACKAGES, sandbox_with_apps};
use crate::measure::{Row, Sample, Target, quantile};
use crate::peers;
use crate::process::{CpuMeter, Programs};
use crate::stage::Stage;

const HOST: &str = "host-1";
const BLOCKS: usize = 10;
const PINGS: usize = 50;

pub async fn run(programs: &Programs) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for apps in [10, 100] {
        rows.extend(measure(programs, apps).await?);
    }
    Ok(rows)
}

async fn measure(programs: &Programs, apps: usize) -> Result<Vec<Row>> {
    let stage = Stage::new(programs).await?;
    let mut caller = Caller::new(&stage).await?;
    let (sandbox, desired) = sandbox_with_apps(apps)?;
    let agent = Agent::start(&stage, &sandbox, HOST, Options::default()).await?;
    caller
        .wait_for(HOST, |_| true)
        .await
        .with_context(|| agent.log())?;
    caller
        .converge(HOST, &desired)
        .await
        .with_context(|| agent.log())?;
    let (_, body) = caller.ping(HOST).await?;
    let echo = peers::start_echo(&stage, "echo", body.len()).await?;
    for _ in 0..PINGS {
        caller.ping(HOST).await?;
        caller.ping("echo").await?;
    }
    let mut blocks = Vec::new();
    let mut tails = Vec::new();
    let used = CpuMeter::start(agent.id())?;
    for _ in 0..BLOCKS {
        let (mut pings, mut echoes) = (Vec::new(), Vec::new());
        for _ in 0..PINGS {
            pings.push(caller.ping(HOST).await?.0.as_secs_f64() * 1e3);
            echoes.push(caller.ping("echo").await?.0.as_secs_f64() * 1e3);
        }
        let mut p50 = |mut times: Vec<f64>| {
            times.sort_unstable_by(f64::total_cmp);
            tails.extend(quantile(&times, 0.95));
            quantile(&times, 0.5).unwrap_or(f64::NAN)
        };
        blocks.push((p50(pings), p50(echoes)));
    }
    let used = used.seconds()? * 1e3 / (BLOCKS * PINGS) as f64;
    drop(echo);
    agent.end().await?;

    let what =
        format!("agent: time from a ping to its status, median, {apps} applications, {PACKAGES} packages");
    let row = Row::compared("ping", what, "ms", "bare echo", &blocks).context("no blocks")?;
    let p95 = tails.iter().step_by(2).copied().fold(0.0, f64::max);
    let limit = if apps == 10 { 1.5 } else { 3.0 };
    let mut rows = vec![row.target(Target::RatioAtMost(limit)).note(format!(
        "{BLOCKS} blocks of {PINGS} pings, agent and echo in turn. The echo is lapin on one thread: same client, exchange, kind \
         of queue and size of answer ({} bytes), published mandatory and confirmed. Highest p95 of a block: {p95:.2} ms",
        body.len()
    ))];
    if apps == 100 {
        let what = "agent: processor time of a ping, 100 applications (observation, status, sending)";
        rows.push(
            Row::new("ping", what, "ms", Sample::one(used))
                .target(Target::FigureAtMost(5.0))
                .note(
                    "applications with manifests and without services; the rows with systemd have services",
                ),
        );
    }
    rows.push(children(programs, apps).await?);
    Ok(rows)
}

/// Number of processes that ten pings start, counted by strace.
async fn children(programs: &Programs, apps: usize) -> Result<Row> {
    const TIMES: usize = 10;
    let stage = Stage::new(programs).await?;
    let mut caller = Caller::new(&stage).await?;
    let (sandbox, desired) = sandbox_with_apps(apps)?;
    let traced = Options {
        traced: true,
        ..Options::default()
    };
    let agent = Agent::start(&stage, &sandbox, HOST, traced).await?;
    caller
        .wait_for(HOST, |_| true)
        .await
        .with_context(|| agent.log())?;
    caller.converge(HOST, &desired).await?;
    caller.ping(HOST).await?;
    let before = agent.children();
    for _ in 0..TIMES {
        caller.ping(HOST).await?;
    }
    let started = agent.children() - before;
    let what = format!("agent: processes started by {TIMES} pings, {apps} applications");
    Ok(Row::new("ping", what, "processes", Sample::one(started as f64)).target(Target::FigureAtMost(0.0)))
}
