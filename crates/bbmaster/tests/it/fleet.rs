//! Shared by the tests of this binary: a broker, a database, masters.

use std::time::Duration;

use bbmaster::store::Store;
use bbmaster::{Config, Master};
use bus::Queue;
use bus::local::LocalBroker;
use harness::postgres::Postgres;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::client::Client;

/// Runs each scenario on SQLite and on PostgreSQL.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name($crate::fleet::Fleet::sqlite()).await;
                }
            )+
        }
        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    if let Some(database) = $crate::fleet::Database::postgres() {
                        super::$name($crate::fleet::Fleet::new(database)).await;
                    }
                }
            )+
        }
    };
}
pub(crate) use on_both;

/// Longest wait for any condition.
const PATIENCE: Duration = Duration::from_secs(20);

/// A database that outlives its masters.
pub enum Database {
    Sqlite(TempDir),
    Postgres(Postgres),
}

impl Database {
    pub fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().unwrap())
    }

    /// `None`: not installed on this machine, which was printed.
    pub fn postgres() -> Option<Self> {
        Postgres::start().unwrap().map(Self::Postgres)
    }

    pub async fn open(&self) -> Store {
        match self {
            Self::Sqlite(folder) => Store::open_sqlite(&folder.path().join("bbmaster.db")).await,
            Self::Postgres(cluster) => Store::open_postgres(&cluster.url(), 10).await,
        }
        .unwrap()
    }
}

/// The environment of a scenario.
pub struct Fleet {
    pub broker: LocalBroker,
    pub database: Database,
}

impl Fleet {
    pub fn new(database: Database) -> Self {
        Self {
            broker: LocalBroker::new(),
            database,
        }
    }

    pub fn sqlite() -> Self {
        Self::new(Database::sqlite())
    }

    pub async fn master(&self) -> (Master, Client) {
        self.master_with(Config::local()).await
    }

    pub async fn master_with(&self, config: Config) -> (Master, Client) {
        let link = self.broker.connect(Queue::of_master("bbmaster-q", 500));
        let store = self.database.open().await;
        let master = Master::start(config, store, link).await.unwrap();
        let client = Client::new(master.address());
        (master, client)
    }
}

/// Repeats the request until the answer is as expected.
#[track_caller]
pub fn until<'a>(
    client: &'a Client,
    path: &'a str,
    wanted: impl Fn(&Value) -> bool + 'a,
) -> impl Future<Output = Value> + 'a {
    until_within(PATIENCE, client, path, wanted)
}

/// The same, with another limit.
#[track_caller]
pub fn until_within<'a>(
    patience: Duration,
    client: &'a Client,
    path: &'a str,
    wanted: impl Fn(&Value) -> bool + 'a,
) -> impl Future<Output = Value> + 'a {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + patience;
        loop {
            let answer = client.get(path).await;
            let json = answer.json();
            if answer.status == 200 && wanted(&json) {
                return json;
            }
            assert!(Instant::now() < deadline, "{caller}: {path} is still {json:#}");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Waits for a condition that the API does not show.
#[track_caller]
pub fn eventually<'a>(what: &'a str, holds: impl Fn() -> bool + 'a) -> impl Future<Output = ()> + 'a {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < deadline, "{caller}: not so: {what}");
            sleep(Duration::from_millis(5)).await;
        }
    }
}
