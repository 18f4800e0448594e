//! The real program: several masters as processes, over RabbitMQ and a database, which tests can
//! kill.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bus::amqp::{AmqpSettings, Login, Secret};
use harness::rabbitmq::RabbitMq;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::client::{Answer, Client};
use crate::fleet::Database;

/// Longest wait until a master serves: up to three start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs each test on SQLite with one master, on PostgreSQL with one, and on PostgreSQL with three.
macro_rules! in_every_setup {
    ($($name:ident),+ $(,)?) => {
        $crate::masters::in_every_setup!(@ one_on_sqlite, Some($crate::fleet::Database::sqlite()), 1, $($name),+);
        $crate::masters::in_every_setup!(@ one_on_postgres, $crate::fleet::Database::postgres(), 1, $($name),+);
        $crate::masters::in_every_setup!(@ three_on_postgres, $crate::fleet::Database::postgres(), 3, $($name),+);
    };
    (@ $module:ident, $database:expr, $masters:expr, $($name:ident),+) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    if let Some(database) = $database {
                        super::$name($crate::masters::Setup {
                            name: stringify!($module),
                            database,
                            masters: $masters,
                        })
                        .await;
                    }
                }
            )+
        }
    };
}
pub(crate) use in_every_setup;

pub struct Setup {
    pub name: &'static str,
    pub database: Database,
    pub masters: usize,
}

/// How agents and masters connect to the broker.
pub fn broker(node: &RabbitMq, vhost: &str) -> AmqpSettings {
    AmqpSettings {
        login: Some(Login {
            username: RabbitMq::USER.into(),
            password: Secret::new(RabbitMq::PASSWORD),
        }),
        virtual_host: vhost.into(),
        retry_period: Duration::from_millis(300),
        // If a broker is killed repeatedly before a connection works, it counts as overloaded.
        // Pauses would then grow to minutes, longer than tests wait.
        retry_max: Duration::from_secs(3),
        ..AmqpSettings::new("127.0.0.1", node.port())
    }
}

/// One master.
struct Program(Child);

impl Drop for Program {
    /// Sends SIGKILL.
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A master that logs at this level into this file.
pub struct Logging {
    program: Program,
    pub address: SocketAddr,
}

impl Logging {
    pub async fn start(node: &RabbitMq, vhost: &str, database: &Database, level: &str, log: &Path) -> Self {
        let drawn = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = drawn.local_addr().unwrap();
        drop(drawn);
        let mut arguments = arguments(node, vhost, database, address);
        arguments.extend(["--set".to_owned(), format!("bbmaster.log_level_name={level}")]);
        let mut command = command(&arguments);
        let program = Program(command.stderr(File::create(log).unwrap()).spawn().unwrap());
        wait_until_serving(address).await;
        Self { program, address }
    }

    /// Sends SIGTERM and waits for the exit.
    pub fn terminate(mut self) {
        let id = self.program.0.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().unwrap();
        assert!(sent.success());
        let ended = self.program.0.wait().unwrap();
        assert!(ended.success(), "{ended}");
    }
}

/// All masters on one database and one broker.
pub struct Masters {
    /// The command line and the process of each.
    all: Vec<(Vec<String>, Program)>,
    pub addresses: Vec<SocketAddr>,
}

impl Masters {
    pub fn start(node: &RabbitMq, vhost: &str, setup: &Setup) -> Self {
        // All ports are chosen before any is released, so that no two are the same.
        let drawn: Vec<TcpListener> = (0..setup.masters)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
            .collect();
        let addresses: Vec<SocketAddr> = drawn.iter().map(|tcp| tcp.local_addr().unwrap()).collect();
        drop(drawn);
        let all = addresses
            .iter()
            .map(|address| {
                let arguments = arguments(node, vhost, &setup.database, *address);
                let program = start(&arguments);
                (arguments, program)
            })
            .collect();
        Self { all, addresses }
    }

    /// Kills one with SIGKILL and starts it again.
    pub fn kill(&mut self, which: usize) {
        let (arguments, program) = &mut self.all[which];
        let _ = program.0.kill();
        let _ = program.0.wait();
        *program = start(arguments);
    }

    /// Kills one with SIGKILL.
    pub fn end(&mut self, which: usize) {
        self.all.remove(which);
        self.addresses.remove(which);
    }

    pub async fn wait_until_serving(&self, which: usize) {
        wait_until_serving(self.addresses[which]).await;
    }

    pub fn client(&self, which: usize) -> Client {
        Client::new(self.addresses[which])
    }

    /// Asks one master after the other until one answers. A request without an answer may or may
    /// not have been executed, so it must be safe to repeat.
    pub fn operator(&self) -> Operator {
        Operator {
            clients: self.addresses.iter().copied().map(Client::new).collect(),
            next: 0,
        }
    }
}

pub struct Operator {
    clients: Vec<Client>,
    next: usize,
}

impl Operator {
    pub async fn put(&mut self, path: &str, body: &Value) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.client().try_put(path, body).await;
            match answer {
                Some(Answer {
                    status: 200, body, ..
                }) => return serde_json::from_slice(&body).unwrap(),
                // Its database is missing: the master is starting or stopping.
                Some(Answer { status: 503, .. }) | None => {}
                Some(answer) => panic!("PUT {path}: {answer:?}"),
            }
            assert!(Instant::now() < deadline, "no master answers");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The next master, in turn.
    pub fn client(&mut self) -> &Client {
        self.next = (self.next + 1) % self.clients.len();
        &self.clients[self.next]
    }
}

fn arguments(node: &RabbitMq, vhost: &str, database: &Database, address: SocketAddr) -> Vec<String> {
    let mut settings = vec![
        format!("bbmaster.listen={address}"),
        "bbmaster.log_level_name=ERROR".to_owned(),
        "amqp.host=127.0.0.1".to_owned(),
        format!("amqp.port={}", node.port()),
        format!("amqp.virtual_host={vhost}"),
        "amqp.connection_retry_period=1".to_owned(),
    ];
    settings.push(match database {
        Database::Sqlite(folder) => format!("bbmaster.state_dir={}", folder.path().display()),
        Database::Postgres(cluster) => format!("store.url={}", cluster.url()),
    });
    let mut arguments = vec!["--config".to_owned(), "/dev/null".to_owned()];
    for setting in settings {
        arguments.extend(["--set".to_owned(), setting]);
    }
    arguments
}

async fn wait_until_serving(address: SocketAddr) {
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(address).await.is_err() {
        assert!(
            Instant::now() < deadline,
            "the master of {address} does not serve"
        );
        sleep(Duration::from_millis(20)).await;
    }
}

fn command(arguments: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bbmaster"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn start(arguments: &[String]) -> Program {
    Program(command(arguments).stderr(Stdio::inherit()).spawn().unwrap())
}
