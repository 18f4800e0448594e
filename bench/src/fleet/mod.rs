//! A fleet of simulated hosts: real connections, the real protocol, scripted hosts.
//!
//! `script` (how hosts behave) -> `host` (one host: what it says to what it is told) -> `pool` (the hosts of
//! one connection: one host, or thousands) -> [`Fleet`] (all pools, and what they count).

mod counts;
mod host;
mod pool;
mod script;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bus::amqp::{self, AmqpSettings};
use bus::{LinkState, Queue};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

pub use counts::{Counts, Snapshot};
pub use script::Script;

use host::Host;
use pool::{Order, Pool};

/// How many connections a fleet has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wiring {
    /// Each host has its own, with its own queue, as in life.
    OneEach,
    /// So many, each with one queue for all of its hosts: for more hosts than a machine has connections.
    Shared { connections: usize },
}

/// What a fleet is made of.
#[derive(Debug, Clone)]
pub struct Plan {
    pub amqp: AmqpSettings,
    pub hosts: usize,
    /// Of host ids: `P` makes `P000000`, `P000001`, ...
    pub prefix: String,
    pub wiring: Wiring,
    pub script: Script,
    /// Shared connections: whether messages to single hosts reach them. A binding per host takes RabbitMQ the
    /// better part of a millisecond.
    pub reachable: bool,
    /// Whether hosts report when they are connected, as agents do.
    pub announce: bool,
    /// New connections a second, for a fleet with one for each.
    pub connect_rate: u32,
}

impl Plan {
    pub fn new(amqp: AmqpSettings, hosts: usize, wiring: Wiring) -> Self {
        Self {
            amqp,
            hosts,
            prefix: "SIM-".to_owned(),
            wiring,
            script: Script::default(),
            reachable: true,
            announce: true,
            connect_rate: 200,
        }
    }
}

/// A fleet at work; it ends when dropped.
pub struct Fleet {
    counts: Arc<Counts>,
    links: Vec<watch::Receiver<LinkState>>,
    orders: Vec<mpsc::UnboundedSender<Order>>,
    tasks: Vec<JoinHandle<()>>,
    hosts: usize,
}

impl Fleet {
    /// Starts to connect; returns when the last host has begun to.
    pub async fn start(plan: Plan) -> Result<Self> {
        let mut fleet = Self {
            counts: Arc::default(),
            links: Vec::new(),
            orders: Vec::new(),
            tasks: Vec::new(),
            hosts: plan.hosts,
        };
        let connections = match plan.wiring {
            Wiring::OneEach => plan.hosts,
            Wiring::Shared { connections } => connections.clamp(1, plan.hosts.max(1)),
        };
        let pause = Duration::from_secs(1) / plan.connect_rate.max(1);
        for connection in 0..connections {
            // Each host once: those whose number leaves this rest.
            let hosts = (connection..plan.hosts)
                .step_by(connections)
                .map(|number| Host::new(number, &plan.prefix, &plan.script))
                .collect::<Result<Vec<_>, _>>()
                .with_context(|| format!("{:?} does not make host ids", plan.prefix))?;
            fleet.add(&plan, connection, hosts);
            if plan.wiring == Wiring::OneEach {
                sleep(pause).await;
            }
        }
        Ok(fleet)
    }

    fn add(&mut self, plan: &Plan, connection: usize, hosts: Vec<Host>) {
        let queue = match (plan.wiring, hosts.as_slice()) {
            (Wiring::OneEach, [host]) => Queue::of_agent(&host.id, None),
            _ => shared_queue(&plan.prefix, connection),
        };
        let mut settings = plan.amqp.clone();
        settings.connection_name = format!("fleet {} {connection}", plan.prefix);
        let link = amqp::connect(settings, queue);
        if plan.wiring != Wiring::OneEach && plan.reachable {
            let topics: BTreeSet<String> = hosts.iter().map(|host| host.id.as_str().to_owned()).collect();
            link.topics.send_replace(topics);
        }
        self.links.push(link.state.clone());
        let (orders, inbox) = mpsc::unbounded_channel();
        self.orders.push(orders);
        let pool = Pool::new(hosts, plan.script.clone(), plan.announce, self.counts.clone());
        self.tasks.push(tokio::spawn(pool.run(link, inbox)));
    }

    pub fn hosts(&self) -> usize {
        self.hosts
    }

    pub fn counts(&self) -> Snapshot {
        self.counts.snapshot()
    }

    /// Connections that consume.
    pub fn up(&self) -> usize {
        self.links.iter().filter(|link| link.borrow().is_up()).count()
    }

    pub fn connections(&self) -> usize {
        self.links.len()
    }

    /// Waits until all connections consume.
    pub async fn all_up(&mut self, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        for link in &mut self.links {
            let waited = timeout_at(until, link.wait_for(LinkState::is_up))
                .await
                .map(|up| up.map(drop));
            match waited {
                Ok(Ok(())) => {}
                Ok(Err(_)) => anyhow::bail!("a host of the fleet has ended"),
                Err(_) => {
                    let state = link.borrow().clone();
                    anyhow::bail!(
                        "{} of {} connect within {limit:?}; one is {state:?}",
                        self.up(),
                        self.links.len()
                    )
                }
            }
        }
        Ok(())
    }

    /// How often each connection was made so far.
    pub fn epochs(&self) -> Vec<Option<u64>> {
        let epoch = |link: &watch::Receiver<LinkState>| match *link.borrow() {
            LinkState::Up { epoch } | LinkState::Contested { epoch, .. } => Some(epoch),
            LinkState::Down { .. } | LinkState::Clone { .. } => None,
        };
        self.links.iter().map(epoch).collect()
    }

    /// Every agent starts anew, at once: each says so.
    pub fn restart_all(&self) {
        self.order(Order::Restart);
    }

    /// Every host says how it is.
    pub fn report_all(&self) {
        self.order(Order::Report);
    }

    fn order(&self, order: Order) {
        for pool in &self.orders {
            // One that has ended says nothing any more.
            let _ = pool.send(order);
        }
    }

    /// Waits until the counts are as wanted.
    pub async fn until(&self, what: &str, limit: Duration, wanted: impl Fn(&Snapshot) -> bool) -> Result<()> {
        let until = Instant::now() + limit;
        while !wanted(&self.counts()) {
            anyhow::ensure!(
                Instant::now() < until,
                "not within {limit:?}: {what}; the fleet: {:?}",
                self.counts()
            );
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Waits until nobody has said or heard anything for a while.
    pub async fn rest(&self, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        let mut last = self.counts();
        loop {
            sleep(Duration::from_millis(700)).await;
            let now = self.counts();
            if now == last {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < until, "the fleet does not come to rest: {now:?}");
            last = now;
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Gone a minute after its fleet, as its bindings are.
fn shared_queue(prefix: &str, connection: usize) -> Queue {
    Queue {
        name: format!("fleet-{prefix}{connection}"),
        topics: BTreeSet::from([protocol::topic::SLAVES.to_owned()]),
        exclusive_consumer: false,
        expires: Some(Duration::from_secs(60)),
        // A durable queue's bindings are written to disk one by one.
        durable: false,
        prefetch: 200,
        probe: None,
        ack_patience: Duration::ZERO,
    }
}
