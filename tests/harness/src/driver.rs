//! A master that does not use our code: Python with pika, as a child process. It sends and receives
//! plain JSON, so that an error that is both in our encoder and in our decoder is detected.

use std::collections::HashMap;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, timeout_at};

/// The distribution's Python, for which pika is a package.
const PYTHON: &str = "/usr/bin/python3";
const PROGRAM: &str = include_str!("driver.py");
/// Time limit for the broker to accept a message, and for the driver to connect.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A master on RabbitMQ. It ends when dropped.
pub struct Driver {
    _process: Child,
    commands: ChildStdin,
    events: Lines<BufReader<ChildStdout>>,
    published: HashMap<u64, Published>,
    next_number: u64,
    statuses: Vec<Received>,
    /// Number of `statuses` that [`Self::next_status`] has returned.
    taken: usize,
}

/// A message that the broker has accepted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Published {
    /// Whether it was routed to a queue.
    pub routed: bool,
    /// When it was sent, in seconds, by the driver's clock.
    pub at: f64,
}

/// A message received on `master`.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    pub routing_key: String,
    pub user_id: Option<String>,
    /// When it was received, in seconds, by the driver's clock.
    pub at: f64,
    /// The whole message; `null` if it is not JSON.
    pub message: Value,
}

impl Received {
    /// A field of `data`; `null` if it is missing.
    pub fn data(&self, field: &str) -> &Value {
        &self.message["data"][field]
    }

    /// The reported state.
    pub fn state(&self) -> &str {
        self.data("status").as_str().unwrap_or_default()
    }

    /// `id` of the message that it answers.
    pub fn reply_to(&self) -> Option<&str> {
        self.data("reply_to").as_str()
    }
}

impl Driver {
    /// Connects to `url` (`amqp://USER:PASSWORD@HOST:PORT/VHOST`), declares the exchange if it does
    /// not exist, and binds its queue to `master`.
    pub async fn connect(url: &str) -> Result<Self> {
        let mut process = Command::new(PYTHON)
            .args(["-c", PROGRAM, url])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("the driver needs /usr/bin/python3 with pika (package python3-pika)")?;
        let commands = process.stdin.take().context("its stdin is a pipe")?;
        let events = process.stdout.take().context("its stdout is a pipe")?;
        let mut driver = Self {
            _process: process,
            commands,
            events: BufReader::new(events).lines(),
            published: HashMap::new(),
            next_number: 0,
            statuses: Vec::new(),
            taken: 0,
        };
        let until = Instant::now() + ANSWER_LIMIT;
        while driver.take_event(until).await? != DriverEvent::Ready {}
        Ok(driver)
    }

    /// Sends `message` with `routing_key`. Returns when the broker has accepted it. The answer to
    /// the message may come before or after that.
    pub async fn publish(&mut self, routing_key: &str, message: &Value) -> Result<Published> {
        self.publish_bytes(routing_key, message.to_string().as_bytes())
            .await
    }

    /// Sends any bytes.
    pub async fn publish_bytes(&mut self, routing_key: &str, body: &[u8]) -> Result<Published> {
        self.publish_repeated(routing_key, body, 1).await
    }

    /// Sends `piece`, repeated `times` times, as one message. For messages that are too large for
    /// the driver's standard input.
    pub async fn publish_repeated(
        &mut self,
        routing_key: &str,
        piece: &[u8],
        times: usize,
    ) -> Result<Published> {
        let number = self.next_number;
        self.next_number += 1;
        let hex: String = piece.iter().map(|byte| format!("{byte:02x}")).collect();
        let command = json!({"publish": number, "key": routing_key, "hex": hex, "repeat": times});
        self.commands.write_all(format!("{command}\n").as_bytes()).await?;
        self.commands.flush().await?;
        let until = Instant::now() + ANSWER_LIMIT;
        loop {
            if let Some(published) = self.published.remove(&number) {
                return Ok(published);
            }
            self.take_event(until).await?;
        }
    }

    /// The next status that was not returned yet. Waits for it for up to `limit`.
    pub async fn next_status(&mut self, limit: Duration) -> Result<Received> {
        let until = Instant::now() + limit;
        while self.taken == self.statuses.len() {
            self.take_event(until).await?;
        }
        self.taken += 1;
        Ok(self.statuses[self.taken - 1].clone())
    }

    /// The next status that satisfies `predicate`. Earlier statuses are skipped, but are in
    /// [`Self::statuses`]. Waits for up to `limit`. The error contains the statuses that came
    /// instead.
    pub async fn wait_for(
        &mut self,
        what: &str,
        limit: Duration,
        mut predicate: impl FnMut(&Received) -> bool,
    ) -> Result<Received> {
        let until = Instant::now() + limit;
        let first = self.taken;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.next_status(left).await {
                Ok(status) if predicate(&status) => return Ok(status),
                Ok(_) => {}
                Err(error) => {
                    let received: Vec<String> = self.statuses[first..]
                        .iter()
                        .map(|s| s.message.to_string())
                        .collect();
                    let received = received.join("\n");
                    return Err(error.context(format!("no status: {what}. Received instead:\n{received}")));
                }
            }
        }
    }

    /// All statuses so far, in the order in which they were received.
    pub fn statuses(&self) -> &[Received] {
        &self.statuses
    }

    /// All statuses that come within `span`, and earlier ones that were not returned yet.
    pub async fn listen(&mut self, span: Duration) -> Result<Vec<Received>> {
        let until = Instant::now() + span;
        let mut received = Vec::new();
        loop {
            match self
                .next_status(until.saturating_duration_since(Instant::now()))
                .await
            {
                Ok(status) => received.push(status),
                Err(_) if Instant::now() >= until => return Ok(received),
                Err(error) => return Err(error),
            }
        }
    }

    async fn take_event(&mut self, until: Instant) -> Result<DriverEvent> {
        let line = timeout_at(until, self.events.next_line())
            .await
            .context("no event from the driver in time")??
            .context("the driver has ended; its last output is above")?;
        let event: Value = serde_json::from_str(&line).context("the driver's output is not JSON")?;
        let at = event["at"].as_f64().unwrap_or_default();
        let text = |name: &str| event[name].as_str().map(str::to_owned);
        match event["event"].as_str() {
            Some("ready") => Ok(DriverEvent::Ready),
            Some("published") => {
                let number = event["number"].as_u64().context("the event has no number")?;
                let routed = event["routed"] == true;
                self.published.insert(number, Published { routed, at });
                Ok(DriverEvent::Published)
            }
            Some("status") => {
                let body = text("text").unwrap_or_default();
                self.statuses.push(Received {
                    routing_key: text("key").unwrap_or_default(),
                    user_id: text("user"),
                    at,
                    message: serde_json::from_str(&body).unwrap_or(Value::Null),
                });
                Ok(DriverEvent::Status)
            }
            _ => bail!("unknown event of the driver: {line}"),
        }
    }
}

#[derive(Debug, PartialEq)]
enum DriverEvent {
    Ready,
    Published,
    Status,
}
