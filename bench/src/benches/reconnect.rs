//! The broker is killed under 2,000 connections, and comes back.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::time::{interval, sleep};

use crate::fleet::{Fleet, Plan, Wiring};
use crate::measure::{Row, Sample, Target};
use crate::process::Programs;
use crate::stage::{Stage, step};

const HOSTS: usize = 2000;
/// What docs/operations.md has operators set for such a fleet: hosts / 66.
const RETRY_PERIOD: Duration = Duration::from_secs(30);

pub async fn run(programs: &Programs) -> Result<Vec<Row>> {
    let stage = Stage::new(programs).await?;
    let mut amqp = stage.agent_amqp();
    amqp.retry_period = RETRY_PERIOD;
    let mut plan = Plan::new(amqp, HOSTS, Wiring::OneEach);
    plan.announce = false;
    let mut fleet = Fleet::start(plan).await?;
    fleet.all_up(Duration::from_secs(180)).await?;
    let before = fleet.epochs();

    step("all are connected");
    stage.broker.kill9().await?;
    while fleet.up() > 0 {
        sleep(Duration::from_millis(10)).await;
    }
    stage.broker.start_again().await?;
    step("the broker is back");
    let back = Instant::now();
    let limit = 2 * RETRY_PERIOD + Duration::from_secs(30);
    let mut tick = interval(Duration::from_secs(1));
    let (mut last, mut most) = (fleet.up(), 0);
    let seconds = loop {
        tick.tick().await;
        let now = fleet.up();
        most = most.max(now.saturating_sub(last));
        last = now;
        if now == HOSTS {
            break back.elapsed().as_secs_f64();
        }
        ensure!(
            back.elapsed() < limit,
            "{now} of {HOSTS} are back after {limit:?}"
        );
    };
    let once_more = |(before, now): (&Option<u64>, Option<u64>)| before.map(|epoch| epoch + 1) == now;
    let steady = before
        .iter()
        .zip(fleet.epochs())
        .filter(|pair| once_more((pair.0, pair.1)))
        .count();
    let row = |what: &str, unit, figure| Row::new("reconnect", what, unit, Sample::one(figure));
    Ok(vec![
        row("2,000 connections, broker killed and back: until all consume", "s", seconds)
            .target(Target::FigureAtMost(RETRY_PERIOD.as_secs_f64() + 5.0))
            .note(format!(
                "from when the broker takes connections; the bound is connection_retry_period (hosts / 66 = 30 s) and the \
                 handshakes; {steady} of {HOSTS} needed one connection, no host was lost"
            )),
        row("2,000 connections: most that came back within one second", "/s", most as f64)
            .target(Target::FigureAtMost(100.0)),
    ])
}
