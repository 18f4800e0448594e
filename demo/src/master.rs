//! The master of the play: sends what the story says, shows what the agents answer, and waits for it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bus::{Link, LinkState, Publisher};
use protocol::{Apps, HostId, Limits, SetConfig, State, Status, encode_ping};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::screen::Screen;
use crate::state::Apps as Told;

/// For anything that a host is asked to do.
const PATIENCE: Duration = Duration::from_secs(40);
/// For the first word of an answer; then the message is sent again.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const TRIES: u32 = 5;
/// Between two tries to publish on a topic that no agent has bound yet.
const ROUTE_RETRY: Duration = Duration::from_millis(50);
/// For the last acknowledgements.
const END: Duration = Duration::from_secs(2);

pub struct Master {
    publisher: Publisher,
    link: watch::Receiver<LinkState>,
    /// Every status, in the order of arrival.
    statuses: watch::Receiver<Vec<Status>>,
    listening: JoinHandle<()>,
    stop: watch::Sender<bool>,
    screen: Arc<Screen>,
    sent: u32,
}

/// What is sent.
pub enum Message {
    Ping,
    SetConfig(Apps),
}

/// A place in the row of statuses: what came before it does not count.
#[derive(Debug, Clone, Copy)]
pub struct Mark(usize);

impl Master {
    pub fn start(link: Link, screen: Arc<Screen>) -> Self {
        let Link {
            mut deliveries,
            publisher,
            topics,
            state,
        } = link;
        let (statuses_in, statuses) = watch::channel(Vec::new());
        let (stop, mut stopped) = watch::channel(false);
        let shown_by = screen.clone();
        let listening = tokio::spawn(async move {
            // Held: dropping it would end the link.
            let _topics = topics;
            loop {
                let delivery = tokio::select! {
                    delivery = deliveries.recv() => delivery,
                    _ = stopped.changed() => None,
                };
                let Some(delivery) = delivery else { return };
                match Status::decode(&delivery.body, Limits::default()) {
                    Ok(status) => {
                        shown_by.status(&status);
                        statuses_in.send_modify(|all: &mut Vec<Status>| all.push(status));
                    }
                    Err(error) => shown_by.failure(&format!("a status that is none: {error}")),
                }
                delivery.ack();
            }
        });
        Self {
            publisher,
            link: state,
            statuses,
            listening,
            stop,
            screen,
            sent: 0,
        }
    }

    pub async fn wait_until_connected(&mut self) -> Result<()> {
        if let Ok(state) = timeout(PATIENCE, self.link.wait_for(LinkState::is_up)).await {
            return state.map(drop).context("the bus is gone");
        }
        match &*self.link.borrow() {
            LinkState::Down { reason } | LinkState::Clone { reason } => {
                bail!("the master has no connection to the bus after {PATIENCE:?}: {reason}")
            }
            LinkState::Up { .. } => Ok(()),
        }
    }

    /// Sends to `topic` until each of `hosts` has begun to answer: an agent binds the topic of an
    /// application shortly after it has reported it. A message that comes twice changes nothing.
    /// Returns the message's id.
    pub async fn tell(&mut self, topic: &str, message: Message, hosts: &[HostId]) -> Result<String> {
        self.sent += 1;
        let id = format!("m{}", self.sent);
        let body = match &message {
            Message::Ping => encode_ping(Some(&id)),
            Message::SetConfig(apps) => SetConfig {
                id: Some(id.clone()),
                generation: None,
                only_if_plan: None,
                apps: apps.clone(),
            }
            .encode(),
        };
        for _ in 0..TRIES {
            self.screen.sent(topic, &id, &message);
            self.publish(topic, &body).await?;
            let answered = self.wait(Mark(0), ANSWER_WITHIN, |statuses| {
                let answers = |host: &&HostId| statuses.iter().any(|status| is_answer(status, host, &id));
                (hosts.iter().filter(answers).count() == hosts.len()).then_some(())
            });
            if answered.await.is_some() {
                return Ok(id);
            }
        }
        bail!("not every host answered {id} on topic {topic:?}")
    }

    async fn publish(&self, topic: &str, body: &[u8]) -> Result<()> {
        let until = Instant::now() + ANSWER_WITHIN;
        loop {
            match self.publisher.publish(topic, body.to_vec()).await {
                Ok(()) => return Ok(()),
                Err(_) if Instant::now() < until => sleep(ROUTE_RETRY).await,
                Err(error) => return Err(anyhow!(error)).context(format!("publishing on topic {topic:?}")),
            }
        }
    }

    /// From now on.
    pub fn mark(&self) -> Mark {
        Mark(self.statuses.borrow().len())
    }

    /// The first `ok` of `host`: it has looked at itself.
    pub async fn first_ok(&mut self, host: &HostId) -> Result<Status> {
        self.status_of(host, Mark(0), "is ready", |status| status.status == State::Ok)
            .await
    }

    /// The final answer of `host` to message `id`: `ok`, or `errors` where those are `expected`.
    pub async fn outcome(&mut self, host: &HostId, id: &str, expected: State) -> Result<Status> {
        let status = self
            .status_of(host, Mark(0), &format!("has done {id}"), |status| {
                status.reply_to.as_deref() == Some(id) && status.status != State::Converging
            })
            .await?;
        if status.status != expected {
            let errors: Vec<&str> = status.errors.iter().map(|error| error.message.as_str()).collect();
            bail!(
                "{host} ends {id} with {:?} and not {expected:?}: {}",
                status.status,
                errors.join("; ")
            );
        }
        Ok(status)
    }

    /// The `ok` of `host` that follows a `converging` after `mark`.
    pub async fn repaired(&mut self, host: &HostId, mark: Mark) -> Result<Status> {
        self.status_of(host, mark, "has noticed", |status| {
            status.status == State::Converging
        })
        .await?;
        let repaired = self.wait(mark, PATIENCE, |statuses| {
            let mut own = statuses.iter().filter(|status| status.host_id == *host);
            own.by_ref().find(|status| status.status == State::Converging)?;
            own.find(|status| status.status == State::Ok).cloned()
        });
        repaired
            .await
            .with_context(|| format!("{host} did not report the repair within {PATIENCE:?}"))
    }

    async fn status_of(
        &mut self,
        host: &HostId,
        mark: Mark,
        what: &str,
        wanted: impl Fn(&Status) -> bool,
    ) -> Result<Status> {
        let found = self.wait(mark, PATIENCE, |statuses| {
            statuses
                .iter()
                .find(|status| status.host_id == *host && wanted(status))
                .cloned()
        });
        found
            .await
            .with_context(|| format!("{host} did not report within {PATIENCE:?} that it {what}"))
    }

    /// `None`: not in time.
    async fn wait<T>(
        &mut self,
        Mark(from): Mark,
        patience: Duration,
        find: impl Fn(&[Status]) -> Option<T>,
    ) -> Option<T> {
        let mut found = None;
        let waiting = self.statuses.wait_for(|statuses| {
            found = find(statuses.get(from..).unwrap_or_default());
            found.is_some()
        });
        let _ = timeout(patience, waiting).await;
        found
    }

    /// The newest status of `host`, as its applications.
    pub fn told_by(&self, host: &HostId) -> Option<(State, Told)> {
        let statuses = self.statuses.borrow();
        let newest = statuses.iter().rev().find(|status| status.host_id == *host)?;
        Some((newest.status, Told::told(newest)))
    }

    /// Messages sent and statuses received.
    pub fn traffic(&self) -> (u32, usize) {
        (self.sent, self.statuses.borrow().len())
    }

    /// Takes its leave of the broker.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let _ = self.listening.await;
        // The other end goes when all is flushed.
        let flushed = async { while self.link.changed().await.is_ok() {} };
        let _ = timeout(END, flushed).await;
    }
}

fn is_answer(status: &Status, host: &HostId, id: &str) -> bool {
    status.host_id == *host && status.reply_to.as_deref() == Some(id)
}
