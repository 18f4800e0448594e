//! A broker, a database and a master.

use std::net::SocketAddr;
use std::time::Duration;

use bbmaster::store::Store;
use bbmaster::{Config, Master};
use bus::Queue;
use bus::local::LocalBroker;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::cli::{Cli, Run};

/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Fleet {
    pub broker: LocalBroker,
    pub database: TempDir,
}

impl Fleet {
    pub fn new() -> Self {
        Self {
            broker: LocalBroker::new(),
            database: tempfile::tempdir().unwrap(),
        }
    }

    /// A fleet, its master, and a command line for it.
    pub async fn with_master() -> (Self, Master, Cli) {
        let fleet = Self::new();
        let (master, cli) = fleet.master().await;
        (fleet, master, cli)
    }

    pub async fn master(&self) -> (Master, Cli) {
        self.master_with(Config::local()).await
    }

    pub async fn master_with(&self, config: Config) -> (Master, Cli) {
        let scheme = if config.tls.is_some() { "https" } else { "http" };
        let store = Store::open_sqlite(&self.database.path().join("bbmaster.db"))
            .await
            .unwrap();
        let link = self.broker.connect(Queue::of_master("bbmaster-q", 500));
        let master = Master::start(config, store, link).await.unwrap();
        let cli = Cli::new(&format!("{scheme}://localhost:{}", master.address().port()));
        (master, cli)
    }
}

/// Settings of a master with this fixed address.
pub fn at(address: SocketAddr) -> Config {
    Config {
        listen: address,
        ..Config::local()
    }
}

/// Repeats a command until its result satisfies `wanted`.
#[track_caller]
pub fn until<'a>(
    cli: &'a Cli,
    arguments: &'a [&str],
    wanted: impl Fn(&Run) -> bool + 'a,
) -> impl Future<Output = Run> + 'a {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let run = cli.run(arguments).await;
            if wanted(&run) {
                return run;
            }
            assert!(
                Instant::now() < deadline,
                "{caller}: {arguments:?} still says {run:?}"
            );
            sleep(Duration::from_millis(30)).await;
        }
    }
}

/// Waits until a host has reported.
pub async fn until_seen(cli: &Cli, host: &str) {
    until(cli, &["host", host, "-o", "json"], |run| {
        run.code == 0 && run.json()["last_seen"].is_string()
    })
    .await;
}
