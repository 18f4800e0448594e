//! What a benchmark runs on: a private broker, masters on SQLite, and links of the benchmark's own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result};
use bus::amqp::{self, AmqpSettings, Login, Secret};
use bus::{Link, LinkState, Queue};
use harness::rabbitmq::RabbitMq;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use crate::http::Client;
use crate::process::{self, Process, Programs};

/// For steps that are not measured.
pub const TIMEOUT: Duration = Duration::from_secs(60);
/// Of the master, and of the null consumer that it is compared with.
pub const PREFETCH: u16 = 2000;
pub const MASTER_QUEUE: &str = "bbmaster-q";

/// Prints the progress of a benchmark, with the seconds since the first step.
pub fn step(what: &str) {
    static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);
    eprintln!("  {:>5.0} s  {what}", STARTED.elapsed().as_secs_f64());
}

/// The broker and the temporary folder of one benchmark. Both are deleted when it is dropped.
pub struct Stage {
    pub broker: RabbitMq,
    pub programs: Programs,
    folder: TempDir,
}

impl Stage {
    pub async fn new(programs: &Programs) -> Result<Self> {
        Ok(Self {
            broker: RabbitMq::start().await?,
            programs: programs.clone(),
            folder: TempDir::with_prefix("backbone-bench-")?,
        })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The settings of an agent.
    pub fn agent_amqp(&self) -> AmqpSettings {
        AmqpSettings {
            login: Some(Login {
                username: RabbitMq::USER.into(),
                password: Secret::new(RabbitMq::PASSWORD),
            }),
            ..AmqpSettings::new("127.0.0.1", self.broker.port())
        }
    }

    /// The settings of a master.
    pub fn master_amqp(&self) -> AmqpSettings {
        AmqpSettings {
            frame_max: AmqpSettings::FRAME_MAX_LARGE,
            ..self.agent_amqp()
        }
    }

    /// A link of the benchmark's own that consumes in place of the master.
    pub async fn link(&self, queue: Queue) -> Result<Link> {
        let mut link = amqp::connect(self.master_amqp(), queue);
        timeout(TIMEOUT, link.state.wait_for(LinkState::is_up))
            .await
            .context("cannot connect to the broker")??;
        Ok(link)
    }

    pub async fn raw(&self) -> Result<lapin::Connection> {
        raw_connection(self.broker.port()).await
    }

    /// Starts the real master. Its database is in `folder`, and is kept when the master ends.
    pub async fn master(&self, folder: &str) -> Result<Master> {
        Master::start(self, &self.path(folder)).await
    }
}

pub async fn raw_connection(port: u16) -> Result<lapin::Connection> {
    let (user, password) = (RabbitMq::USER, RabbitMq::PASSWORD);
    let url = format!("amqp://{user}:{password}@127.0.0.1:{port}/%2F?frame_max=131072&heartbeat=60");
    Ok(lapin::Connection::connect(&url, lapin::ConnectionProperties::default()).await?)
}

/// Counts of the master's queue.
pub struct QueueWatch {
    channel: lapin::Channel,
    _connection: lapin::Connection,
}

impl QueueWatch {
    /// Declares and binds the queue, as the master would.
    pub async fn declare(stage: &Stage) -> Result<Self> {
        drop(stage.link(Queue::of_master(MASTER_QUEUE, 1)).await?);
        let watch = Self::existing(stage).await?;
        watch.until(|_, consumers| consumers == 0).await?;
        Ok(watch)
    }

    /// Of the queue that exists.
    pub async fn existing(stage: &Stage) -> Result<Self> {
        let connection = stage.raw().await?;
        Ok(Self {
            channel: connection.create_channel().await?,
            _connection: connection,
        })
    }

    /// Number of messages not yet delivered, and number of consumers.
    pub async fn counts(&self) -> Result<(u32, u32)> {
        let passive = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let queue = self
            .channel
            .queue_declare(MASTER_QUEUE.into(), passive, FieldTable::default())
            .await?;
        Ok((queue.message_count(), queue.consumer_count()))
    }

    /// Deletes the messages that are not yet delivered.
    pub async fn purge(&self) -> Result<()> {
        let options = lapin::options::QueuePurgeOptions::default();
        self.channel.queue_purge(MASTER_QUEUE.into(), options).await?;
        Ok(())
    }

    pub async fn until(&self, wanted: impl Fn(u32, u32) -> bool) -> Result<()> {
        let until = Instant::now() + TIMEOUT;
        loop {
            let (messages, consumers) = self.counts().await?;
            if wanted(messages, consumers) {
                return Ok(());
            }
            anyhow::ensure!(
                Instant::now() < until,
                "the master's queue still has {messages} messages and {consumers} consumers"
            );
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// `bbmaster run` on SQLite.
pub struct Master {
    pub process: Process,
    pub address: SocketAddr,
}

impl Master {
    async fn start(stage: &Stage, folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let mut arguments: Vec<String> = ["run", "--config", "/dev/null"].map(str::to_owned).into();
        let mut set =
            |key: &str, value: &str| arguments.extend(["--set".to_owned(), format!("{key}={value}")]);
        set("bbmaster.listen", "127.0.0.1:0");
        set("bbmaster.state_dir", &folder.to_string_lossy());
        set("amqp.host", "127.0.0.1");
        set("amqp.port", &stage.broker.port().to_string());
        set("amqp.queue_name", MASTER_QUEUE);
        set("amqp.prefetch", &PREFETCH.to_string());
        let log = folder.join("log");
        let _ = std::fs::remove_file(&log);
        let mut process = Process::start(&stage.programs.get("bbmaster")?, &arguments, &log)?;
        let url = process
            .wait_for_line("listening on ", TIMEOUT)
            .await
            .context("the master")?;
        let address = process::address(&url)?;
        Ok(Self { process, address })
    }

    pub async fn client(&self) -> Result<Client> {
        Client::connect(self.address).await
    }

    /// Number of statuses stored since its start.
    pub async fn accepted(client: &mut Client) -> Result<u64> {
        metric(client, "bbmaster_statuses_total{result=\"accepted\"}").await
    }
}

/// One value of `/metrics`; 0 if it is not there yet.
pub async fn metric(client: &mut Client, name: &str) -> Result<u64> {
    let text = String::from_utf8(client.get("/metrics").await?.body)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    Ok(line
        .and_then(|number| number.trim().parse::<f64>().ok())
        .unwrap_or(0.0) as u64)
}
