//! Everything that a play needs, set up in order and struck in the reverse of it.

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
use crate::operator::Operator;
use crate::screen::Screen;
use crate::witness::{self, Witness};

/// Unacknowledged statuses that the master may have.
const PREFETCH: u16 = 500;

/// What has to be ended in order, as far as it was set up.
#[derive(Default)]
pub struct Stage {
    agents: Vec<RunningAgent>,
    master: Option<(Master, watch::Receiver<LinkState>)>,
    witness: Option<Witness>,
    topology: Option<OwnTopology>,
    /// Served as long as the fleet is up: what is removed may be wanted again.
    catalogue: Option<Arc<Catalogue>>,
}

/// What the story plays with.
pub struct Set<'a> {
    pub hosts: Arc<Vec<DemoHost>>,
    pub catalogue: Arc<Catalogue>,
    pub operator: Operator,
    pub witness: &'a mut Witness,
}

impl Stage {
    pub async fn set_up(&mut self, cli: &Cli, screen: &Arc<Screen>, folder: &Path) -> Result<Set<'_>> {
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
                "{:<6} takes {family} packages; its / is {root}",
                host.name
            ));
        }
        screen.note(&format!("Packages are served at {}", catalogue.address()));

        let local = LocalBroker::new();
        match &cli.broker {
            None => screen.note("Bus: inside this process."),
            Some(broker) => {
                screen.note(&format!(
                    "Bus: RabbitMQ at {}, virtual host {}; each agent is a process of its own.",
                    broker.address(),
                    broker.virtual_host
                ));
                let topology = OwnTopology::find_room(broker, &hosts).await?;
                // Kept first: an interrupt may leave half of it declared.
                self.topology.insert(topology).declare().await?;
            }
        }
        let connect = |queue: Queue| connect(cli.broker.as_ref(), &local, queue);
        // Before the others, so that it misses nothing.
        let witness = Witness::start(connect(witness::queue(&hosts)), screen.clone());
        let witness = self.witness.insert(witness);
        witness.wait_until_connected().await?;
        let link = connect(Queue::of_master(MASTER_QUEUE, PREFETCH));
        let link_state = link.state.clone();
        let master = start_master(cli, link, folder).await?;
        let operator = Operator::new(master.address());
        self.master = Some((master, link_state));
        screen.note(&format!(
            "Master: bbmaster, its database in a temporary folder; page and API at {}/",
            operator.url()
        ));
        for host in &hosts {
            let agent = match (&cli.broker, &program) {
                (Some(broker), Some(program)) => RunningAgent::start_process(host, program, broker, screen)?,
                (Some(_), None) | (None, _) => RunningAgent::start_here(host, &local, screen)?,
            };
            self.agents.push(agent);
        }
        Ok(Set {
            hosts: Arc::new(hosts),
            catalogue,
            operator,
            witness,
        })
    }

    /// Agents first, so that the master still hears their last words.
    pub async fn strike(&mut self) {
        // Side by side, as each may have a package manager to wait for.
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
            // Only then: as long as it is there, it makes its queue anew.
            witness::ended(&mut link).await;
        }
        if let Some(witness) = self.witness.take() {
            witness.stop().await;
        }
        if let Some(topology) = self.topology.take()
            && let Err(error) = topology.delete().await
        {
            eprintln!("demo: {error:#}; what is left there deletes itself within minutes");
        }
    }
}

fn connect(broker: Option<&Broker>, local: &LocalBroker, queue: Queue) -> Link {
    match broker {
        None => local.connect(queue),
        Some(broker) => amqp::connect(broker.settings(), queue),
    }
}

/// The real one, as it is without settings, but for its database.
async fn start_master(cli: &Cli, link: Link, folder: &Path) -> Result<Master> {
    let store = Store::open_sqlite(&folder.join("bbmaster.db")).await?;
    let mut config = Config::local();
    // Where bbctl looks for it, unless someone else is there; a run that ends by itself needs no fixed address.
    let usual = ([127, 0, 0, 1], 8082).into();
    if cli.keep && TcpListener::bind(usual).await.is_ok() {
        config.listen = usual;
    }
    Master::start(config, store, link)
        .await
        .context("the master cannot start")
}
