//! Masters and their broker are killed repeatedly while desired states change. Every host ends at
//! the newest one, each change is one event, and listeners get each event once.
//!
//! This is a sample. SWEEP=all runs all of it (`make test-long`).

use std::sync::Arc;
use std::time::Duration;

use bus::{Queue, amqp};
use harness::rabbitmq::RabbitMq;
use protocol::HostId;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::agent::{Agent, Script};
use crate::client::Client;
use crate::fleet::until_within;
use crate::masters::{Masters, Operator, Setup, broker, in_every_setup};

in_every_setup!(
    killed_masters_lose_and_duplicate_nothing,
    a_killed_broker_makes_masters_lose_nothing,
);

/// Time for a host to converge when nothing is killed any more.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

#[derive(Clone, Copy)]
struct Size {
    hosts: usize,
    puts: usize,
    kills: usize,
}

impl Size {
    fn of_this_run(sample: Self) -> Self {
        let full = Self {
            hosts: 20,
            puts: 200,
            kills: 50,
        };
        match std::env::var("SWEEP").as_deref() {
            Ok("all") => full,
            _ => sample,
        }
    }
}

async fn killed_masters_lose_and_duplicate_nothing(setup: Setup) {
    let size = Size::of_this_run(Size {
        hosts: 5,
        puts: 40,
        kills: 8,
    });
    let node = RabbitMq::shared().await.unwrap();
    let vhost = node.add_vhost().await.unwrap();
    let mut world = World::start(&node, &vhost, &setup, size).await;
    let mut next = 0;
    while world.kills() < size.kills {
        // At any point: while it starts, connects, pings, writes or sends.
        sleep(Duration::from_millis(fastrand::u64(30..700))).await;
        world.masters.kill(next);
        world.count_a_kill();
        next = fastrand::usize(..setup.masters);
        if world.kills() % 3 == 0 {
            world.masters.wait_until_serving(next).await;
        }
    }
    world.check("masters killed").await;
}

async fn a_killed_broker_makes_masters_lose_nothing(setup: Setup) {
    let size = Size::of_this_run(Size {
        hosts: 5,
        puts: 20,
        kills: 1,
    });
    let node = RabbitMq::start().await.unwrap();
    let world = World::start(&node, "/", &setup, size).await;
    while world.kills() < size.kills {
        sleep(Duration::from_millis(fastrand::u64(30..1500))).await;
        node.kill9().await.unwrap();
        world.count_a_kill();
        sleep(Duration::from_millis(fastrand::u64(0..300))).await;
        node.start_again().await.unwrap();
    }
    world.check("broker killed").await;
}

/// Masters, agents that converge, a client that changes desired states, and a client that streams
/// events.
struct World {
    size: Size,
    name: &'static str,
    started: Instant,
    masters: Masters,
    agents: Vec<Agent>,
    /// Lost statuses of each host before the kills.
    lost: Vec<Value>,
    kills: Arc<watch::Sender<usize>>,
    putting: JoinHandle<()>,
    following: JoinHandle<()>,
    followed: watch::Receiver<Vec<Value>>,
}

fn path(host: usize) -> String {
    format!("/v1/hosts/h{host}")
}

impl World {
    async fn start(node: &RabbitMq, vhost: &str, setup: &Setup, size: Size) -> Self {
        // Before the masters. An agent whose first status comes too early is pinged when a master
        // starts.
        let agents: Vec<Agent> = (0..size.hosts)
            .map(|n| {
                let host = format!("h{n}");
                let queue = Queue::of_agent(&HostId::new(host.clone()).unwrap(), None);
                Agent::start_on(
                    amqp::connect(broker(node, vhost), queue),
                    &host,
                    Script::Converges,
                )
            })
            .collect();
        let masters = Masters::start(node, vhost, setup);
        for which in 0..setup.masters {
            masters.wait_until_serving(which).await;
        }
        let client = masters.client(0);
        let appeared = |page: &Value| page["total"] == size.hosts;
        until_within(SETTLED_WITHIN, &client, "/v1/hosts/?status=ok", appeared).await;
        let mut lost = Vec::new();
        for host in 0..size.hosts {
            lost.push(client.get(&path(host)).await.expect(200)["lost_statuses"].clone());
        }
        let kills = Arc::new(watch::channel(0).0);
        let (told, followed) = watch::channel(Vec::new());
        Self {
            size,
            name: setup.name,
            started: Instant::now(),
            agents,
            lost,
            putting: tokio::spawn(put_all(masters.operator(), size, kills.subscribe())),
            following: tokio::spawn(follow(masters.operator(), told)),
            followed,
            kills,
            masters,
        }
    }

    fn kills(&self) -> usize {
        *self.kills.borrow()
    }

    fn count_a_kill(&self) {
        self.kills.send_modify(|kills| *kills += 1);
    }

    async fn check(self, what: &str) {
        self.putting.await.unwrap();
        for which in 0..self.masters.addresses.len() {
            self.masters.wait_until_serving(which).await;
        }
        let client = self.masters.client(0);
        let newest = self.size.puts / self.size.hosts;
        let mut exact = 0;
        for (host, agent) in self.agents.iter().enumerate() {
            let is_newest = |host: &Value| {
                host["satisfied"] == true
                    && host["status"] == "ok"
                    && host["generation"] == newest
                    && host["apps"]["foo"]["version"].as_str() == Some(&newest.to_string())
            };
            let known = until_within(SETTLED_WITHIN, &client, &path(host), is_newest).await;
            let running: Vec<String> = agent.apps().into_values().map(|spec| spec.version).collect();
            assert_eq!(running, [newest.to_string()]);
            let events = events_of(&client, &format!("&host_id=h{host}")).await;
            check_changes(&events, newest, host);
            let in_order = known["lost_statuses"] == self.lost[host];
            check_statuses(&events, &agent.said(), in_order, host);
            exact += usize::from(in_order);
        }
        let all = events_of(&client, "").await;
        let mut followed = self.followed.clone();
        let last = all.last().map(|event| event["id"].clone());
        let caught_up =
            followed.wait_for(|seen: &Vec<Value>| seen.last().map(|event| event["id"].clone()) == last);
        let caught_up = timeout(SETTLED_WITHIN, caught_up).await;
        assert!(caught_up.is_ok(), "who follows events is not told of the last");
        drop(caught_up);
        assert_eq!(
            *followed.borrow(),
            all,
            "who follows events sees each once, in order"
        );
        self.following.abort();
        println!(
            "{}: {what} -9 {} times during {} PUTs over {} hosts: all at the newest; {} events, none lost or \
             doubled, all followed; {exact} hosts with every status in order; {:.0} s",
            self.name,
            self.size.kills,
            self.size.puts,
            self.size.hosts,
            all.len(),
            self.started.elapsed().as_secs_f32(),
        );
    }
}

/// Spread over the time of the kills.
async fn put_all(mut operator: Operator, size: Size, mut kills: watch::Receiver<usize>) {
    for put in 0..size.puts {
        let due = put * size.kills / size.puts;
        kills.wait_for(|kills| *kills >= due).await.unwrap();
        let version = put / size.hosts + 1;
        let body = json!({"foo": {"version": version.to_string()}});
        let path = format!("{}/apps", path(put % size.hosts));
        operator.put(&path, &body).await;
    }
}

/// Streams events from the first one on, from any master that answers, and continues at another one
/// when that is killed.
async fn follow(mut operator: Operator, told: watch::Sender<Vec<Value>>) {
    let mut after = Value::from(0);
    loop {
        let path = format!("/v1/events?after={after}");
        if let Some(mut events) = operator.client().try_events(&path).await {
            while let Some(event) = events.try_next().await {
                after = event["id"].clone();
                told.send_modify(|all| all.push(event));
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// All events, oldest first.
async fn events_of(client: &Client, filter: &str) -> Vec<Value> {
    let mut all = Vec::new();
    let mut after = Value::from(0);
    loop {
        let path = format!("/v1/events?limit=1000&after={after}{filter}");
        let mut page = client.get(&path).await.expect(200);
        all.append(page["events"].as_array_mut().unwrap());
        match page["next"].take() {
            Value::Null => return all,
            next => after = next,
        }
    }
}

/// Each change is one event: a PUT that was repeated because its answer was lost adds none.
fn check_changes(events: &[Value], newest: usize, host: usize) {
    let changes: Vec<(Value, Value)> = events
        .iter()
        .filter(|event| event["kind"] == "desired_changed")
        .map(|event| {
            let data = &event["data"];
            (data["generation"].clone(), data["apps"]["foo"].clone())
        })
        .collect();
    let expected: Vec<(Value, Value)> = (1..=newest)
        .map(|version| (version.into(), version.to_string().into()))
        .collect();
    assert_eq!(changes, expected, "h{host}");
}

/// Compares the statuses of a host with its events. `in_order`: all statuses were received in
/// order. Otherwise a status that arrived after a later one has no event.
fn check_statuses(events: &[Value], said: &[&str], in_order: bool, host: usize) {
    let appeared = events.iter().filter(|event| event["kind"] == "host_appeared");
    assert_eq!(appeared.count(), 1, "h{host}");
    let kinds = ["host_appeared", "status_changed"];
    let mut told: Vec<&str> = Vec::new();
    for event in events {
        if kinds.contains(&event["kind"].as_str().unwrap()) {
            let from = event["data"]["from"].as_str();
            assert_eq!(from, told.last().copied(), "h{host}: {event}");
            told.push(event["data"]["to"].as_str().unwrap());
        }
    }
    let mut changes = said.to_vec();
    changes.dedup();
    if in_order {
        assert_eq!(told, changes, "h{host}");
        return;
    }
    let mut rest = changes.iter();
    let is_part = told.iter().all(|state| rest.any(|said| said == state));
    assert!(is_part, "h{host}: {told:?} is not what came of {changes:?}");
    assert_eq!(told.last(), changes.last(), "h{host}");
}
