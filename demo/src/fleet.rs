//! Starts everything that the demo needs, in order, and stops it in reverse order.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use bbmaster::store::Store;
use bbmaster::{Config, Master};
use bus::local::LocalBroker;
use bus::{Link, LinkState, Queue, amqp};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use crate::agents::RunningAgent;
use crate::broker::{MASTER_QUEUE, OwnTopology};
use crate::catalogue::Catalogue;
use crate::cli::{Broker, Cli};
use crate::hosts::{self, DemoHost, NAMES};
use crate::listener::{self, BusListener};
use crate::operator::Operator;
use crate::screen::Screen;

/// Largest number of unacknowledged statuses of the master.
const PREFETCH: u16 = 500;

/// What must be stopped in order, as far as it was started.
#[derive(Default)]
pub struct Fleet {
    agents: Vec<RunningAgent>,
    master: Option<(Master, watch::Receiver<LinkState>)>,
    listener: Option<BusListener>,
    topology: Option<OwnTopology>,
    /// Packages are served as long as the agents run: a removed one may be installed again.
    catalogue: Option<Arc<Catalogue>>,
}

/// What the parts of the demo use.
pub struct Setup<'a> {
    pub hosts: Arc<Vec<DemoHost>>,
    pub catalogue: Arc<Catalogue>,
    pub operator: Operator,
    pub listener: &'a mut BusListener,
}

impl Fleet {
    pub async fn set_up(&mut self, cli: &Cli, screen: &Arc<Screen>, folder: &Path) -> Result<Setup<'_>> {
        let program = match &cli.broker {
            Some(_) => Some(cli.hostagent()?),
            None => None,
        };
        let families = hosts::families()?;
        screen.note("Building packages and three empty hosts ...");
        let hosts_folder = folder.join("hosts");
        let creating = spawn_blocking(move || -> Result<Vec<DemoHost>> {
            let hosts = NAMES.into_iter().zip(families);
            hosts
                .map(|(name, family)| DemoHost::create(name, family, &hosts_folder))
                .collect()
        });
        let extensions: BTreeSet<_> = families.iter().map(|family| family.extension()).collect();
        let catalogue = Arc::new(Catalogue::build(&extensions, &folder.join("packages")).await?);
        self.catalogue = Some(catalogue.clone());
        let hosts = creating.await??;
        for host in &hosts {
            let (family, root) = (host.family().extension(), host.root().display());
            screen.note(&format!(
                "{:<6} uses {family} packages; its / is {root}",
                host.name
            ));
        }
        screen.note(&format!("Packages are served at {}", catalogue.address()));

        let local = LocalBroker::new();
        match &cli.broker {
            None => screen.note("Bus: in this process."),
            Some(broker) => {
                screen.note(&format!(
                    "Bus: RabbitMQ at {}, virtual host {}; each agent is a separate process.",
                    broker.address(),
                    broker.virtual_host
                ));
                let topology = OwnTopology::check_unused(broker, &hosts).await?;
                // Stored first, because an interrupt may come while it is being declared.
                self.topology.insert(topology).declare().await?;
            }
        }
        let connect = |queue: Queue| connect(cli.broker.as_ref(), &local, queue);
        // First, so that it misses no message.
        let listener = BusListener::start(connect(listener::queue(&hosts)), screen.clone());
        let listener = self.listener.insert(listener);
        listener.wait_until_connected().await?;
        let link = connect(Queue::of_master(MASTER_QUEUE, PREFETCH));
        let link_state = link.state.clone();
        let master = start_master(cli, link, folder).await?;
        let operator = Operator::new(master.address());
        self.master = Some((master, link_state));
        screen.note(&format!(
            "Master: bbmaster, with its database in a temporary folder; web page and API at {}/",
            operator.url()
        ));
        for host in &hosts {
            let agent = match (&cli.broker, &program) {
                (Some(broker), Some(program)) => RunningAgent::start_process(host, program, broker, screen)?,
                (Some(_), None) | (None, _) => RunningAgent::start_here(host, &local, screen)?,
            };
            self.agents.push(agent);
        }
        Ok(Setup {
            hosts: Arc::new(hosts),
            catalogue,
            operator,
            listener,
        })
    }

    /// Stops the agents first, so that the master receives their last statuses.
    pub async fn tear_down(&mut self) {
        // Concurrently, because each may wait for a package manager.
        let stopping: Vec<_> = self
            .agents
            .drain(..)
            .map(|agent| tokio::spawn(agent.stop()))
            .collect();
        for stopped in stopping {
            let _ = stopped.await;
        }
        if let Some((master, mut link)) = self.master.take() {
            master.end().await;
            // The queue can be deleted only when the link has ended, because a link declares its
            // queue again.
            listener::ended(&mut link).await;
        }
        if let Some(listener) = self.listener.take() {
            listener.stop().await;
        }
        if let Some(topology) = self.topology.take()
            && let Err(error) = topology.delete().await
        {
            eprintln!("demo: {error:#}; RabbitMQ deletes the demo's queues and exchange within minutes");
        }
    }
}

fn connect(broker: Option<&Broker>, local: &LocalBroker, queue: Queue) -> Link {
    match broker {
        None => local.connect(queue),
        Some(broker) => amqp::connect(broker.settings(), queue),
    }
}

/// Starts a master with default settings, except for its database.
async fn start_master(cli: &Cli, link: Link, folder: &Path) -> Result<Master> {
    let store = Store::open_sqlite(&folder.join("bbmaster.db")).await?;
    let mut config = Config::local();
    // bbctl's default address, if it is free. Only needed with --keep.
    let usual = ([127, 0, 0, 1], 8082).into();
    if cli.keep && TcpListener::bind(usual).await.is_ok() {
        config.listen = usual;
    }
    Master::start(config, store, link)
        .await
        .context("cannot start the master")
}
