//! How fast the master stores statuses, compared with a consumer of the same queue that only
//! acknowledges.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::time::sleep;

use crate::fleet::{Fleet, Plan, Wiring};
use crate::measure::{Row, Target};
use crate::peers;
use crate::process::Programs;
use crate::stage::{Master, QueueWatch, Stage, TIMEOUT, step};

const HOSTS: usize = 2000;
const EACH: u64 = 20;
const ALL: u64 = HOSTS as u64 * EACH;
const ROUNDS: usize = 3;

pub async fn run(programs: &Programs) -> Result<Vec<Row>> {
    let stage = Stage::new(programs).await?;
    let queue = QueueWatch::declare(&stage).await?;
    let mut fleet = fleet(&stage).await?;
    fleet.wait_until_connected(TIMEOUT).await?;
    // The first status of a host creates rows and events. The later ones, one a minute, are
    // measured.
    fleet.report_all();
    drain_by_master(&stage, HOSTS as u64).await?;
    let mut rounds = Vec::new();
    let mut batches = String::new();
    for _ in 0..ROUNDS {
        step("filling the queue");
        let filled = fill(&fleet, &queue).await?;
        step("the null consumer drains");
        let null = peers::drain_rate(&stage, filled).await?;
        step("filling the queue");
        let filled = fill(&fleet, &queue).await?;
        step("the master drains");
        let (rate, size) = drain_by_master(&stage, filled).await?;
        batches = format!("{size:.0} statuses per transaction");
        rounds.push((rate, null));
    }
    let row = Row::compared(
        "ingest",
        "master: statuses stored per second",
        "/s",
        "null consumer",
        &rounds,
    );
    let row = row.map(|row| {
        row.target(Target::RatioAtLeast(0.7)).note(format!(
            "SQLite, synchronous=FULL; each status of 1.5 kB is acknowledged after its commit; {batches}. The null consumer is \
             lapin on one thread, prefetch 2000, one acknowledgement for each"
        ))
    });
    Ok(row.into_iter().collect())
}

async fn fleet(stage: &Stage) -> Result<Fleet> {
    let mut plan = Plan::new(stage.master_amqp(), HOSTS, Wiring::Shared { connections: 2 });
    plan.reachable = false;
    plan.announce = false;
    Fleet::start(plan).await
}

/// Puts [`ALL`] statuses into the master's queue, which has no consumer. Returns the number of
/// messages in it, which includes answers to the last master's ping.
async fn fill(fleet: &Fleet, queue: &QueueWatch) -> Result<u64> {
    // The queue may have messages that the last master stored and did not acknowledge, and late
    // answers to its ping.
    queue.until(|_, consumers| consumers == 0).await?;
    fleet.wait_until_idle(TIMEOUT).await?;
    queue.purge().await?;
    let before = fleet.counts();
    for _ in 0..EACH {
        fleet.report_all();
    }
    let filled = fleet.wait_for("the queue is filled", TIMEOUT, |now| {
        now.statuses >= before.statuses + ALL
    });
    filled.await?;
    fleet.wait_until_idle(TIMEOUT).await?;
    ensure!(
        fleet.counts().unroutable == before.unroutable,
        "some statuses were unroutable"
    );
    queue.until(|messages, _| u64::from(messages) >= ALL).await?;
    Ok(queue.counts().await?.0.into())
}

/// Statuses stored per second, from the first to the last; and the mean number of statuses in a
/// transaction.
async fn drain_by_master(stage: &Stage, count: u64) -> Result<(f64, f64)> {
    let master = stage.master("master").await?;
    let mut client = master.client().await?;
    let until = Instant::now() + TIMEOUT;
    let mut first = None;
    let rate = loop {
        let accepted = Master::accepted(&mut client).await?;
        let (from, since) = *first.get_or_insert((accepted, Instant::now()));
        if from == 0 {
            first = None;
        }
        if accepted >= count {
            break (accepted - from) as f64 / since.elapsed().as_secs_f64();
        }
        ensure!(
            Instant::now() < until,
            "only {accepted} of {count} statuses are stored; the master's log: {}",
            master.process.log()
        );
        sleep(Duration::from_millis(5)).await;
    };
    let batches = crate::stage::metric(&mut client, "bbmaster_batch_size_count").await?;
    master.process.end().await?;
    Ok((rate, count as f64 / batches.max(1) as f64))
}
