//! Bare AMQP clients to compare with, as processes of their own: lapin and nothing else, on the
//! same broker.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Subcommand;
use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};
use protocol::topic::{EXCHANGE, MASTER};

use crate::process::Process;
use crate::stage::{MASTER_QUEUE, PREFETCH, Stage, raw_connection};

#[derive(Subcommand)]
pub enum Peer {
    /// Answer every message on KEY with one of SIZE bytes that begins with the bytes of the message
    Echo { port: u16, key: String, size: usize },
    /// Consume and acknowledge COUNT messages of the master's queue, and do nothing else
    Drain { port: u16, count: u64 },
}

impl Peer {
    /// On one thread, like an agent.
    pub fn run(self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            match self {
                Self::Echo { port, key, size } => echo(port, &key, size).await,
                Self::Drain { port, count } => drain(port, count).await,
            }
        })
    }
}

async fn channel(port: u16, prefetch: u16) -> Result<(lapin::Connection, Channel)> {
    let connection = raw_connection(port).await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
    Ok((connection, channel))
}

async fn consume(channel: &Channel, queue: &str, exclusive: bool) -> Result<lapin::Consumer> {
    let options = BasicConsumeOptions {
        exclusive,
        ..BasicConsumeOptions::default()
    };
    Ok(channel
        .basic_consume(queue.into(), "".into(), options, FieldTable::default())
        .await?)
}

/// With the same queue settings as an agent; publishes mandatory and with confirms, like an agent.
async fn echo(port: u16, key: &str, size: usize) -> Result<()> {
    let (_connection, consuming) = channel(port, 16).await?;
    let (_other, publishing) = channel(port, 1).await?;
    publishing.confirm_select(ConfirmSelectOptions::default()).await?;
    let queue = format!("echo-{key}");
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let mut arguments = FieldTable::default();
    arguments.insert("x-expires".into(), AMQPValue::LongInt(86_400_000));
    consuming
        .queue_declare(queue.as_str().into(), durable, arguments)
        .await?;
    let bind = QueueBindOptions::default();
    consuming
        .queue_bind(
            queue.as_str().into(),
            EXCHANGE.into(),
            key.into(),
            bind,
            FieldTable::default(),
        )
        .await?;
    let mut consumer = consume(&consuming, &queue, true).await?;
    println!("ready");
    let mandatory = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery?;
        let mut body = delivery.data.clone();
        body.resize(size.max(body.len()), b' ');
        let properties = BasicProperties::default().with_user_id("guest".into());
        publishing
            .basic_publish(EXCHANGE.into(), MASTER.into(), mandatory, &body, properties)
            .await?
            .await?;
        delivery.acker.ack(BasicAckOptions::default()).await?;
    }
    Ok(())
}

async fn drain(port: u16, count: u64) -> Result<()> {
    let (connection, channel) = channel(port, PREFETCH).await?;
    let mut consumer = consume(&channel, MASTER_QUEUE, false).await?;
    let mut first = None;
    for _ in 0..count {
        let delivery = consumer
            .next()
            .await
            .context("the broker has ended the consumer")??;
        first.get_or_insert_with(Instant::now);
        delivery.acker.ack(BasicAckOptions::default()).await?;
    }
    let seconds = first.map_or(0.0, |first| first.elapsed().as_secs_f64());
    connection.close(200, "".into()).await?;
    println!("drained in {seconds} s");
    Ok(())
}

const TIMEOUT: Duration = Duration::from_secs(60);

fn spawn(words: &[&str], log: PathBuf) -> Result<Process> {
    let own = std::env::current_exe()?;
    let _ = std::fs::remove_file(&log);
    let mut arguments = vec!["peer".to_owned()];
    arguments.extend(words.iter().map(|&word| word.to_owned()));
    Process::start(&own, &arguments, &log)
}

/// Starts an echo, and waits until it consumes.
pub async fn start_echo(stage: &Stage, key: &str, size: usize) -> Result<Process> {
    let (port, size) = (stage.broker.port().to_string(), size.to_string());
    let log = stage.path(&format!("echo-{key}"));
    let mut echo = spawn(&["echo", &port, key, &size], log)?;
    echo.wait_for_line("ready", TIMEOUT).await.context("the echo")?;
    Ok(echo)
}

/// Messages per second that a null consumer takes from the master's queue.
pub async fn drain_rate(stage: &Stage, count: u64) -> Result<f64> {
    let (port, number) = (stage.broker.port().to_string(), count.to_string());
    let mut process = spawn(&["drain", &port, &number], stage.path("drain"))?;
    let line = process
        .wait_for_line("drained in ", TIMEOUT)
        .await
        .context("the null consumer")?;
    let seconds: f64 = line.trim_end_matches('s').trim().parse()?;
    Ok(count as f64 / seconds)
}
