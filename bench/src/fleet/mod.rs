//! A fleet of simulated hosts: real connections, the real protocol, scripted hosts.
//!
//! `script`: how hosts behave. `host`: one host, its state and its answers. `pool`: the hosts of
//! one connection, one or thousands. [`Fleet`]: all pools, and their counts.

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

/// The connections of a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wiring {
    /// Each host has its own connection and queue, like a real host.
    OneEach,
    /// So many connections, each with one queue for all of its hosts: for more hosts than a machine
    /// can have connections.
    Shared { connections: usize },
}

/// The settings of a fleet.
#[derive(Debug, Clone)]
pub struct Plan {
    pub amqp: AmqpSettings,
    pub hosts: usize,
    /// Prefix of the host ids: `P` gives `P000000`, `P000001`, ...
    pub prefix: String,
    pub wiring: Wiring,
    pub script: Script,
    /// With shared connections: whether messages to single hosts arrive. RabbitMQ needs nearly a
    /// millisecond for the binding of each host.
    pub reachable: bool,
    /// Whether hosts send a status when they are connected, as agents do.
    pub announce: bool,
    /// New connections a second, if each host has its own.
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

/// A running fleet. It stops when it is dropped.
pub struct Fleet {
    counts: Arc<Counts>,
    links: Vec<watch::Receiver<LinkState>>,
    orders: Vec<mpsc::UnboundedSender<Order>>,
    tasks: Vec<JoinHandle<()>>,
    hosts: usize,
}

impl Fleet {
    /// Returns when the last host has begun to connect.
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
            // Each host is in exactly one connection: that of its number modulo `connections`.
            let hosts = (connection..plan.hosts)
                .step_by(connections)
                .map(|number| Host::new(number, &plan.prefix, &plan.script))
                .collect::<Result<Vec<_>, _>>()
                .with_context(|| format!("{:?} is not valid at the start of a host id", plan.prefix))?;
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

    /// Number of connections that consume.
    pub fn up(&self) -> usize {
        self.links.iter().filter(|link| link.borrow().is_up()).count()
    }

    pub fn connections(&self) -> usize {
        self.links.len()
    }

    /// Waits until all connections consume.
    pub async fn wait_until_connected(&mut self, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        for link in &mut self.links {
            let waited = timeout_at(until, link.wait_for(LinkState::is_up))
                .await
                .map(|up| up.map(drop));
            match waited {
                Ok(Ok(())) => {}
                Ok(Err(_)) => anyhow::bail!("the task of a connection has ended"),
                Err(_) => {
                    let state = link.borrow().clone();
                    anyhow::bail!(
                        "only {} of {} are connected after {limit:?}; the state of one: {state:?}",
                        self.up(),
                        self.links.len()
                    )
                }
            }
        }
        Ok(())
    }

    /// How many times each connection was established so far.
    pub fn epochs(&self) -> Vec<Option<u64>> {
        let epoch = |link: &watch::Receiver<LinkState>| match *link.borrow() {
            LinkState::Up { epoch } | LinkState::Contested { epoch, .. } => Some(epoch),
            LinkState::Down { .. } | LinkState::Clone { .. } => None,
        };
        self.links.iter().map(epoch).collect()
    }

    /// Restarts all agents at once. Each sends a status.
    pub fn restart_all(&self) {
        self.order(Order::Restart);
    }

    /// Makes each host send a status.
    pub fn report_all(&self) {
        self.order(Order::Report);
    }

    fn order(&self, order: Order) {
        for pool in &self.orders {
            // The task of a pool may have ended.
            let _ = pool.send(order);
        }
    }

    /// Waits until `wanted` is true for the counts.
    pub async fn wait_for(
        &self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Snapshot) -> bool,
    ) -> Result<()> {
        let until = Instant::now() + limit;
        while !wanted(&self.counts()) {
            anyhow::ensure!(
                Instant::now() < until,
                "not after {limit:?}: {what}; counts of the fleet: {:?}",
                self.counts()
            );
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Waits until no message was sent or received for a while.
    pub async fn wait_until_idle(&self, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        let mut last = self.counts();
        loop {
            sleep(Duration::from_millis(700)).await;
            let now = self.counts();
            if now == last {
                return Ok(());
            }
            anyhow::ensure!(
                Instant::now() < until,
                "the fleet is still busy after {limit:?}: {now:?}"
            );
            last = now;
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// RabbitMQ deletes the queue and its bindings a minute after the fleet has ended.
fn shared_queue(prefix: &str, connection: usize) -> Queue {
    Queue {
        name: format!("fleet-{prefix}{connection}"),
        topics: BTreeSet::from([protocol::topic::SLAVES.to_owned()]),
        exclusive_consumer: false,
        expires: Some(Duration::from_secs(60)),
        // RabbitMQ writes each binding of a durable queue to disk.
        durable: false,
        prefetch: 200,
        probe: None,
        ack_patience: Duration::ZERO,
    }
}
