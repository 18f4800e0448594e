//! 1,000 agents' links, each with its own connection and queue, answer one ping to all.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bus::Queue;
use protocol::{encode_ping, topic};
use tokio::time::timeout;

use crate::fleet::{Fleet, Plan, Wiring};
use crate::measure::{Row, Sample, Target};
use crate::process::Programs;
use crate::stage::{Stage, TIMEOUT};

const AGENTS: usize = 1000;
const ROUNDS: usize = 9;

pub async fn run(programs: &Programs) -> Result<Vec<Row>> {
    let stage = Stage::new(programs).await?;
    let mut link = stage.link(Queue::of_master("bench-q", 2000)).await?;
    let mut plan = Plan::new(stage.agent_amqp(), AGENTS, Wiring::OneEach);
    plan.announce = false;
    let mut fleet = Fleet::start(plan).await?;
    fleet.wait_until_connected(Duration::from_secs(120)).await?;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let started = Instant::now();
        link.publisher
            .publish(topic::SLAVES, encode_ping(Some("all")))
            .await?;
        for answered in 0..AGENTS {
            let delivery = timeout(TIMEOUT, link.deliveries.recv()).await;
            let delivery = delivery.with_context(|| format!("only {answered} of {AGENTS} have answered"))?;
            delivery.context("the link has ended")?.ack();
        }
        times.push(started.elapsed().as_secs_f64());
    }
    let figure = Sample::of(times).context("no rounds")?;
    let row = Row::new(
        "thousand",
        "time from one ping to the answers of 1,000 connected agents",
        "s",
        figure,
    );
    Ok(vec![row.target(Target::FigureAtMost(1.0)).note(
        "real links of agents, with a connection and a queue each; the hosts behind them are simulated",
    )])
}
