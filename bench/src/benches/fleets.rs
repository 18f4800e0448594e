//! One master on SQLite with large fleets, which share a few connections.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bus::Queue;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use protocol::rest::FleetSet;
use protocol::{Apps, SetConfig};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::fleet::{Fleet, Plan, Script, Wiring};
use crate::http::Client;
use crate::measure::{Row, Sample, Target, quantile};
use crate::process::{self, Programs};
use crate::stage::{Master, QueueWatch, Stage, metric, step};

const MANY: usize = 10_000;
const ALL: usize = 100_000;
const CONNECTIONS: usize = 8;
const LIMIT: Duration = Duration::from_secs(180);

fn plan(stage: &Stage, hosts: usize) -> Plan {
    let connections = CONNECTIONS;
    Plan::new(stage.master_amqp(), hosts, Wiring::Shared { connections })
}

/// Waits until the master has stored so many statuses.
async fn until_stored(client: &mut Client, hosts: usize) -> Result<()> {
    let until = Instant::now() + LIMIT;
    loop {
        let accepted = Master::accepted(client).await?;
        if accepted >= hosts as u64 {
            return Ok(());
        }
        ensure!(
            Instant::now() < until,
            "only {accepted} of {hosts} statuses are stored after {LIMIT:?}"
        );
        sleep(Duration::from_millis(50)).await;
    }
}

pub async fn heartbeats(programs: &Programs) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (hosts, percent, mib) in [(MANY, 6.0, 64.0), (ALL, 50.0, 256.0)] {
        let [processor, memory] = heartbeats_of(programs, hosts).await?;
        rows.push(processor.target(Target::FigureAtMost(percent)));
        rows.push(memory.target(Target::FigureAtMost(mib)));
    }
    Ok(rows)
}

/// What the master takes for so many hosts that send a status every 60 s: processor time and
/// memory.
async fn heartbeats_of(programs: &Programs, hosts: usize) -> Result<[Row; 2]> {
    const WINDOW: Duration = Duration::from_secs(30);
    const PERIOD: Duration = Duration::from_secs(60);
    let stage = Stage::new(programs).await?;
    let master = stage.master("master").await?;
    let mut client = master.client().await?;
    let mut plan = plan(&stage, hosts);
    plan.reachable = false;
    plan.script.heartbeat = Some(PERIOD);
    let fleet = Fleet::start(plan).await?;
    until_stored(&mut client, hosts).await?;
    step("all hosts are known");
    // The master pings all hosts when it starts. Hosts that are not reachable do not answer.
    sleep(Duration::from_secs(15)).await;
    let id = master.process.id();
    let (cpu, accepted, since) = (
        process::cpu_total(id)?,
        Master::accepted(&mut client).await?,
        Instant::now(),
    );
    sleep(WINDOW).await;
    let used = process::cpu_total(id)? - cpu;
    let seconds = since.elapsed().as_secs_f64();
    let rate = (Master::accepted(&mut client).await? - accepted) as f64 / seconds;
    let expected = hosts as f64 / PERIOD.as_secs_f64();
    ensure!(
        rate > 0.6 * expected,
        "expected {expected:.0} statuses a second, but {rate:.0} came: {:?}",
        fleet.counts()
    );
    let memory = process::memory(id)?;
    let row = |what: String, unit, figure| Row::new("heartbeats", what, unit, Sample::one(figure));
    let hosts = thousands(hosts);
    Ok([
        row(
            format!("master: processor time with {hosts} hosts, each of which sends a status every 60 s"),
            "% of a core",
            100.0 * used / seconds,
        )
        .note(format!(
            "SQLite; over {seconds:.0} s, in which {rate:.0} statuses a second came"
        )),
        row(
            format!("master: resident memory with {hosts} hosts"),
            "MiB",
            memory.resident,
        ),
    ])
}

/// `100,000`
fn thousands(number: usize) -> String {
    format!("{},{:03}", number / 1000, number % 1000)
}

fn apps(version: u32) -> Value {
    json!({"app_0": {"version": format!("2.0.{version}"), "url": "http://repo.example.net/app_0.rpm",
        "config": {"DEFAULT": {"port": 8158, "workers": 4}}}})
}

pub async fn dispatch(programs: &Programs) -> Result<Vec<Row>> {
    const ROUNDS: u32 = 5;
    let stage = Stage::new(programs).await?;
    let master = stage.master("master").await?;
    let mut client = master.client().await?;
    let mut fleet = Fleet::start(plan(&stage, MANY)).await?;
    fleet.wait_until_connected(LIMIT).await?;
    until_stored(&mut client, MANY).await?;
    step("all hosts are known");
    fleet
        .wait_for(
            "all have answered the first ping of the master",
            LIMIT,
            |counts| counts.statuses >= MANY as u64,
        )
        .await?;
    let (mut at_once, mut one_by_one) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        for (each, rounds) in [(false, &mut at_once), (true, &mut one_by_one)] {
            fleet.wait_until_idle(LIMIT).await?;
            step("a bare publisher");
            let apps = apps(2 * round + u32::from(each));
            let bare = publish_bare(&stage, &fleet, &apps).await?;
            fleet.wait_until_idle(LIMIT).await?;
            step("the master");
            let before = fleet.counts().set_configs;
            let started = Instant::now();
            match each {
                true => put_all(&master, &apps).await?,
                false => put_at_once(&mut client, &apps).await?,
            }
            let sent = fleet.wait_for("each host has its desired state", LIMIT, |now| {
                now.set_configs >= before + MANY as u64
            });
            sent.await?;
            rounds.push((MANY as f64 / started.elapsed().as_secs_f64(), bare));
        }
    }
    let row = |what, rounds: &[_], note: &str| {
        let row = Row::compared("dispatch", what, "/s", "bare publisher with confirms", rounds);
        let row = row.context("no rounds")?;
        Ok::<_, anyhow::Error>(row.note(format!(
            "from the first byte of a request until the last host has received its desired state; {note}"
        )))
    };
    Ok(vec![
        row(
            "master: hosts per second, one PUT for 10,000 hosts, stored and delivered",
            &at_once,
            "one request for all hosts",
        )?
        .target(Target::RatioAtLeast(0.5)),
        row(
            "master: hosts per second, 10,000 PUTs for one host each, stored and delivered",
            &one_by_one,
            "64 connections; each PUT is durable before its answer",
        )?,
    ])
}

async fn put_at_once(client: &mut Client, apps: &Value) -> Result<()> {
    let answer = client.put("/v1/apps/?all=true", apps).await?;
    ensure!(
        answer.status == 200,
        "the PUT was answered with {}",
        answer.status
    );
    let set: FleetSet = serde_json::from_slice(&answer.body)?;
    ensure!(
        set.hosts == MANY as u64 && set.changed == MANY as u64,
        "the PUT did not change all hosts: {set:?}"
    );
    Ok(())
}

/// Publishes the same messages to the same hosts without a master. Returns hosts per second.
async fn publish_bare(stage: &Stage, fleet: &Fleet, apps: &Value) -> Result<f64> {
    let link = stage.link(Queue::of_master("bare", 1)).await?;
    let apps: Apps = serde_json::from_value(apps.clone())?;
    // No host rejects this generation as stale, and the master's own are higher.
    let message = SetConfig {
        id: Some("bare".to_owned()),
        generation: Some(0),
        only_if_plan: None,
        retry: false,
        apps,
    };
    let body = message.encode();
    let before = fleet.counts().set_configs;
    let started = Instant::now();
    let mut in_flight = FuturesUnordered::new();
    for number in 0..MANY {
        let key = format!("SIM-{number:06}");
        let (publisher, body) = (link.publisher.clone(), body.clone());
        in_flight.push(async move { publisher.publish(&key, body).await });
        while in_flight.len() >= 512 {
            in_flight.next().await.context("no message is in flight")??;
        }
    }
    while let Some(published) = in_flight.next().await {
        published?;
    }
    let rate = MANY as f64 / started.elapsed().as_secs_f64();
    let received = fleet.wait_for("each host has the message", LIMIT, |now| {
        now.set_configs >= before + MANY as u64
    });
    received.await?;
    Ok(rate)
}

async fn put_all(master: &Master, apps: &Value) -> Result<()> {
    const CLIENTS: usize = 64;
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let (address, apps) = (master.address, apps.clone());
        clients.spawn(async move {
            let mut connection = Client::connect(address).await?;
            for number in (client..MANY).step_by(CLIENTS) {
                let answer = connection
                    .put(&format!("/v1/hosts/SIM-{number:06}/apps"), &apps)
                    .await?;
                ensure!(answer.status == 200, "a PUT was answered with {}", answer.status);
            }
            Ok(())
        });
    }
    while let Some(done) = clients.join_next().await {
        done??;
    }
    Ok(())
}

pub async fn announce(programs: &Programs) -> Result<Vec<Row>> {
    let stage = Stage::new(programs).await?;
    let master = stage.master("master").await?;
    let mut client = master.client().await?;
    let mut plan = plan(&stage, ALL);
    plan.reachable = false;
    plan.announce = false;
    plan.script = Script {
        applications: 2,
        ..Script::default()
    };
    let mut fleet = Fleet::start(plan).await?;
    fleet.wait_until_connected(LIMIT).await?;
    let empty = process::memory(master.process.id())?.resident;
    step("the fleet is connected");
    let first = absorb(&stage, &master, &mut client, &fleet).await?;
    step("all hosts are stored");
    let again = absorb(&stage, &master, &mut client, &fleet).await?;
    step("all hosts are stored again");
    let mut rows = Vec::new();
    for (which, absorbed) in [
        ("100,000 new hosts start at once", first),
        ("100,000 known hosts restart at once", again),
    ] {
        let row = |what: &str, unit, figure| {
            Row::new(
                "announce",
                format!("master: {what}, {which}"),
                unit,
                Sample::one(figure),
            )
        };
        rows.push(row("time until all are stored", "s", absorbed.seconds));
        rows.push(row(
            "largest number of messages in its queue",
            "messages",
            f64::from(absorbed.deepest),
        ));
        rows.push(
            row("largest resident memory", "MiB", absorbed.peak)
                .target(Target::FigureAtMost(256.0))
                .note(format!(
                    "without hosts: {empty:.0} MiB; the fleet published {:.0} statuses a second",
                    absorbed.published
                )),
        );
    }
    rows.extend(pages(&mut client).await?);
    Ok(rows)
}

struct Absorbed {
    seconds: f64,
    deepest: u32,
    peak: f64,
    published: f64,
}

/// Restarts all agents at once, and waits until the master has stored a status of each.
async fn absorb(stage: &Stage, master: &Master, client: &mut Client, fleet: &Fleet) -> Result<Absorbed> {
    let queue = QueueWatch::existing(stage).await?;
    let (before, published_before) = (Master::accepted(client).await?, fleet.counts().statuses);
    let started = Instant::now();
    fleet.restart_all();
    let (mut deepest, mut peak) = (0, 0.0f64);
    let mut published = None;
    loop {
        deepest = deepest.max(queue.counts().await?.0);
        peak = peak.max(process::memory(master.process.id())?.resident);
        let seconds = started.elapsed().as_secs_f64();
        if published.is_none() && fleet.counts().statuses >= published_before + ALL as u64 {
            published = Some(ALL as f64 / seconds);
        }
        if Master::accepted(client).await? >= before + ALL as u64 {
            let published = published.unwrap_or(ALL as f64 / seconds);
            return Ok(Absorbed {
                seconds,
                deepest,
                peak,
                published,
            });
        }
        ensure!(
            started.elapsed() < LIMIT,
            "not all hosts are stored after {LIMIT:?}: {:?}",
            fleet.counts()
        );
        sleep(Duration::from_millis(20)).await;
    }
}

/// REST requests for pages of 100,000 hosts.
async fn pages(client: &mut Client) -> Result<Vec<Row>> {
    const TIMES: usize = 200;
    let total = metric(client, "bbmaster_hosts_responding").await.unwrap_or(0);
    let mut rows = Vec::new();
    for (what, query) in [
        ("first page of 100", "limit=100"),
        ("by status", "status=ok&limit=100"),
        (
            "by application and version",
            "application=app_0&version=1.0.2-3&limit=100",
        ),
        ("by a text that one host has", "text=sim-077777&limit=100"),
    ] {
        let path = format!("/v1/hosts?{query}");
        let mut times = Vec::new();
        for _ in 0..TIMES {
            let started = Instant::now();
            let answer = client.get(&path).await?;
            times.push(started.elapsed().as_secs_f64() * 1e3);
            ensure!(
                answer.status == 200,
                "{path}: {}: {}",
                answer.status,
                String::from_utf8_lossy(&answer.body)
            );
            // A slow request needs fewer repetitions.
            if times.iter().sum::<f64>() > 15_000.0 {
                break;
            }
        }
        times.sort_unstable_by(f64::total_cmp);
        let p99 = quantile(&times, 0.99).context("no requests")?;
        let median = quantile(&times, 0.5).context("no requests")?;
        let row = Row::new(
            "announce",
            format!("master: time of a REST request with 100,000 hosts, {what}, p99"),
            "ms",
            Sample::one(p99),
        );
        rows.push(row.target(Target::FigureAtMost(50.0)).note(format!(
            "median {median:.2} ms, {} requests one after the other; {total} hosts respond",
            times.len()
        )));
    }
    Ok(rows)
}
