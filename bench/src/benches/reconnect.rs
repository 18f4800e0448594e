//! The broker of 2,000 connections is killed and started again.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::time::{interval, sleep};

use crate::fleet::{Fleet, Plan, Wiring};
use crate::measure::{Row, Sample, Target};
use crate::process::Programs;
use crate::stage::{Stage, step};

const HOSTS: usize = 2000;
/// The value that docs/operations.md recommends for this many hosts: hosts / 66.
const RETRY_PERIOD: Duration = Duration::from_secs(30);

pub async fn run(programs: &Programs) -> Result<Vec<Row>> {
    let stage = Stage::new(programs).await?;
    let mut amqp = stage.agent_amqp();
    amqp.retry_period = RETRY_PERIOD;
    let mut plan = Plan::new(amqp, HOSTS, Wiring::OneEach);
    plan.announce = false;
    let mut fleet = Fleet::start(plan).await?;
    fleet.wait_until_connected(Duration::from_secs(180)).await?;
    let before = fleet.epochs();

    step("all hosts are connected");
    stage.broker.kill9().await?;
    while fleet.up() > 0 {
        sleep(Duration::from_millis(10)).await;
    }
    stage.broker.start_again().await?;
    step("the broker runs again");
    let restarted = Instant::now();
    let limit = 2 * RETRY_PERIOD + Duration::from_secs(30);
    let mut tick = interval(Duration::from_secs(1));
    let (mut last, mut most) = (fleet.up(), 0);
    let seconds = loop {
        tick.tick().await;
        let now = fleet.up();
        most = most.max(now.saturating_sub(last));
        last = now;
        if now == HOSTS {
            break restarted.elapsed().as_secs_f64();
        }
        ensure!(
            restarted.elapsed() < limit,
            "only {now} of {HOSTS} are connected after {limit:?}"
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
        row("time until 2,000 hosts are connected again after a restart of the broker", "s", seconds)
            .target(Target::FigureAtMost(RETRY_PERIOD.as_secs_f64() + 5.0))
            .note(format!(
                "from the time when the broker accepts connections; the target is connection_retry_period (hosts / 66 = 30 s) \
                 plus the handshakes; {steady} of {HOSTS} hosts needed one connection, and none was lost"
            )),
        row("most connections within one second after a restart of the broker, 2,000 hosts", "/s", most as f64)
            .target(Target::FigureAtMost(100.0)),
    ])
}
