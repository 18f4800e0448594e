//! A master that is not our code: Python with pika as a child process. What it sends and receives is judged
//! as plain JSON, so that no defect of our own encoder or decoder can hide behind itself.

use std::collections::HashMap;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, timeout_at};

/// The distribution's own: pika comes as a package of it.
const PYTHON: &str = "/usr/bin/python3";
const PROGRAM: &str = include_str!("driver.py");
/// For the broker to take a message, or the driver to connect.
const PATIENCE: Duration = Duration::from_secs(30);

/// A master on RabbitMQ; ends when dropped.
pub struct Driver {
    _process: Child,
    commands: ChildStdin,
    events: Lines<BufReader<ChildStdout>>,
    published: HashMap<u64, Published>,
    next_number: u64,
    statuses: Vec<Received>,
    /// How many of `statuses` were handed out by [`Self::next_status`].
    taken: usize,
}

/// A message that the broker has taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Published {
    /// Whether any queue got it.
    pub routed: bool,
    /// When it was sent, by the driver's clock, in seconds.
    pub at: f64,
}

/// A message that came on `master`.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    pub routing_key: String,
    pub user_id: Option<String>,
    /// When it came, by the driver's clock, in seconds.
    pub at: f64,
    /// The whole message; `null` if it is not JSON.
    pub message: Value,
}

impl Received {
    /// A field of `data`; `null` if it is not there.
    pub fn data(&self, field: &str) -> &Value {
        &self.message["data"][field]
    }

    /// The state it tells.
    pub fn state(&self) -> &str {
        self.data("status").as_str().unwrap_or_default()
    }

    /// `id` of the message that it answers.
    pub fn reply_to(&self) -> Option<&str> {
        self.data("reply_to").as_str()
    }
}

impl Driver {
    /// Connects to `url` (`amqp://USER:PASSWORD@HOST:PORT/VHOST`), declares the exchange if need be, and
    /// binds a queue of its own to `master`.
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
        let until = Instant::now() + PATIENCE;
        while driver.take_event(until).await? != Event::Ready {}
        Ok(driver)
    }

    /// Sends `message` on `routing_key`; returns once the broker has taken it, which it may do before or
    /// after an answer to it has come.
    pub async fn publish(&mut self, routing_key: &str, message: &Value) -> Result<Published> {
        self.publish_bytes(routing_key, message.to_string().as_bytes())
            .await
    }

    /// Sends any bytes.
    pub async fn publish_bytes(&mut self, routing_key: &str, body: &[u8]) -> Result<Published> {
        self.publish_repeated(routing_key, body, 1).await
    }

    /// Sends `piece`, `times` over, as one message: for those too large to be passed on as they are.
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
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(published) = self.published.remove(&number) {
                return Ok(published);
            }
            self.take_event(until).await?;
        }
    }

    /// The next status that was not handed out yet; waits for it `limit` long.
    pub async fn next_status(&mut self, limit: Duration) -> Result<Received> {
        let until = Instant::now() + limit;
        while self.taken == self.statuses.len() {
            self.take_event(until).await?;
        }
        self.taken += 1;
        Ok(self.statuses[self.taken - 1].clone())
    }

    /// The next status that fulfils `predicate`, those before it included in what [`Self::statuses`]
    /// tells. Waits `limit` long for it; the error tells what came instead.
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
                    let came: Vec<String> = self.statuses[first..]
                        .iter()
                        .map(|s| s.message.to_string())
                        .collect();
                    let came = came.join("\n");
                    return Err(error.context(format!("awaited in vain: {what}. What came:\n{came}")));
                }
            }
        }
    }

    /// All statuses so far, in the order in which they came.
    pub fn statuses(&self) -> &[Received] {
        &self.statuses
    }

    /// All that comes within `span`, beside what was not handed out yet.
    pub async fn listen(&mut self, span: Duration) -> Result<Vec<Received>> {
        let until = Instant::now() + span;
        let mut came = Vec::new();
        loop {
            match self
                .next_status(until.saturating_duration_since(Instant::now()))
                .await
            {
                Ok(status) => came.push(status),
                Err(_) if Instant::now() >= until => return Ok(came),
                Err(error) => return Err(error),
            }
        }
    }

    async fn take_event(&mut self, until: Instant) -> Result<Event> {
        let line = timeout_at(until, self.events.next_line())
            .await
            .context("nothing came from the driver in time")??
            .context("the driver has ended; its last words are above")?;
        let event: Value = serde_json::from_str(&line).context("an event of the driver")?;
        let at = event["at"].as_f64().unwrap_or_default();
        let text = |name: &str| event[name].as_str().map(str::to_owned);
        match event["event"].as_str() {
            Some("ready") => Ok(Event::Ready),
            Some("published") => {
                let number = event["number"].as_u64().context("a number")?;
                let routed = event["routed"] == true;
                self.published.insert(number, Published { routed, at });
                Ok(Event::Published)
            }
            Some("status") => {
                let body = text("text").unwrap_or_default();
                self.statuses.push(Received {
                    routing_key: text("key").unwrap_or_default(),
                    user_id: text("user"),
                    at,
                    message: serde_json::from_str(&body).unwrap_or(Value::Null),
                });
                Ok(Event::Status)
            }
            _ => bail!("no event of the driver: {line}"),
        }
    }
}

#[derive(Debug, PartialEq)]
enum Event {
    Ready,
    Published,
    Status,
}
