//! Everything that a play needs, set up in order and struck in the reverse of it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use bus::local::LocalBroker;
use bus::{Link, Queue, amqp};
use tokio::task::spawn_blocking;

use crate::agents::RunningAgent;
use crate::broker::{MASTER_QUEUE, OwnTopology};
use crate::catalogue::Catalogue;
use crate::cli::Cli;
use crate::hosts::{self, DemoHost, NAMES};
use crate::master::Master;
use crate::screen::Screen;

/// Unacknowledged statuses that the master may have; it takes each at once.
const PREFETCH: u16 = 64;

/// What has to be ended in order, as far as it was set up.
#[derive(Default)]
pub struct Stage {
    agents: Vec<RunningAgent>,
    master: Option<Master>,
    topology: Option<OwnTopology>,
}

/// What the story plays with.
pub struct Set<'a> {
    pub hosts: Arc<Vec<DemoHost>>,
    pub catalogue: Catalogue,
    pub master: &'a mut Master,
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
        let catalogue = Catalogue::build(&extensions, &folder.join("packages")).await?;
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
        let master_link: Link = match &cli.broker {
            None => {
                screen.note("Bus: inside this process.");
                local.connect(Queue::of_master(MASTER_QUEUE, PREFETCH))
            }
            Some(broker) => {
                screen.note(&format!(
                    "Bus: RabbitMQ at {}, virtual host {}; each agent is a process of its own.",
                    broker.address(),
                    broker.virtual_host
                ));
                let topology = OwnTopology::find_room(broker, &hosts).await?;
                // Kept first: an interrupt may leave half of it declared.
                self.topology.insert(topology).declare().await?;
                amqp::connect(broker.settings(), Queue::of_master(MASTER_QUEUE, PREFETCH))
            }
        };
        let mut master = Master::start(master_link, screen.clone());
        master.wait_until_connected().await?;
        let master = self.master.insert(master);
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
            master,
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
        if let Some(master) = self.master.take() {
            master.stop().await;
        }
        if let Some(topology) = self.topology.take()
            && let Err(error) = topology.delete().await
        {
            eprintln!("demo: {error:#}; what is left there deletes itself within minutes");
        }
    }
}
