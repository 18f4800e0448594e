//! Listens in on the bus: shows every message that master and agents send each other, and waits for what
//! the story expects of the agents.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bus::{Delivery, Link, LinkState, Queue};
use protocol::{HostId, Limits, PlanAnswer, State, Status, topic};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::hosts::DemoHost;
use crate::screen::Screen;
use crate::state::Apps as Told;

/// For anything that a host is asked to do.
const PATIENCE: Duration = Duration::from_secs(40);
/// For the last acknowledgements.
const END: Duration = Duration::from_secs(2);
/// Messages that it may have at a time; it takes each at once.
const PREFETCH: u16 = 64;

pub const WITNESS_QUEUE: &str = "backbone-demo-witness";

pub struct Witness {
    link: watch::Receiver<LinkState>,
    seen: watch::Receiver<Seen>,
    listening: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

/// What went over the bus.
#[derive(Default)]
struct Seen {
    /// Every status, in the order of arrival.
    statuses: Vec<Status>,
    /// Messages of the master.
    sent: u32,
}

/// A place in the row of statuses: what came before it does not count.
#[derive(Debug, Clone, Copy)]
pub struct Mark(usize);

/// What master and agents send each other: all that these topics carry.
pub fn queue(hosts: &[DemoHost]) -> Queue {
    let mut topics: BTreeSet<String> = hosts.iter().map(|host| host.id.to_string()).collect();
    topics.extend([topic::MASTER, topic::SLAVES].map(str::to_owned));
    Queue {
        topics,
        ..Queue::of_master(WITNESS_QUEUE, PREFETCH)
    }
}

fn take_down(delivery: &Delivery, seen: &watch::Sender<Seen>, screen: &Screen) {
    let body = &delivery.body;
    if body.is_empty() {
        // An agent's link probes itself.
        return;
    }
    if delivery.routing_key != topic::MASTER {
        match protocol::decode(body, Limits::default()) {
            Ok(message) => {
                seen.send_modify(|seen| seen.sent += 1);
                screen.sent(&delivery.routing_key, &message);
            }
            Err(error) => screen.failure(&format!("a message of the master that is none: {error}")),
        }
        return;
    }
    match Status::decode(body, Limits::default()) {
        Ok(status) => {
            screen.status(&status);
            seen.send_modify(|seen| seen.statuses.push(status));
        }
        Err(error) => match PlanAnswer::decode(body, Limits::default()) {
            Ok(plan) => screen.plan(&plan),
            Err(_) => screen.failure(&format!("a status that is none: {error}")),
        },
    }
}

impl Witness {
    pub fn start(link: Link, screen: Arc<Screen>) -> Self {
        let Link {
            mut deliveries,
            publisher,
            topics,
            state,
        } = link;
        let (seen_in, seen) = watch::channel(Seen::default());
        let (stop, mut stopped) = watch::channel(false);
        let listening = tokio::spawn(async move {
            // Held: dropping them would end the link.
            let _held = (publisher, topics);
            loop {
                let delivery = tokio::select! {
                    delivery = deliveries.recv() => delivery,
                    _ = stopped.changed() => None,
                };
                let Some(delivery) = delivery else { return };
                take_down(&delivery, &seen_in, &screen);
                delivery.ack();
            }
        });
        Self {
            link: state,
            seen,
            listening,
            stop,
        }
    }

    pub async fn wait_until_connected(&mut self) -> Result<()> {
        if let Ok(state) = timeout(PATIENCE, self.link.wait_for(LinkState::is_up)).await {
            return state.map(drop).context("the bus is gone");
        }
        match &*self.link.borrow() {
            LinkState::Down { reason } | LinkState::Clone { reason } => {
                bail!("the witness has no connection to the bus after {PATIENCE:?}: {reason}")
            }
            LinkState::Up { .. } | LinkState::Contested { .. } => Ok(()),
        }
    }

    /// From now on.
    pub fn mark(&self) -> Mark {
        Mark(self.seen.borrow().statuses.len())
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
        let waiting = self.seen.wait_for(|seen| {
            found = find(seen.statuses.get(from..).unwrap_or_default());
            found.is_some()
        });
        let _ = timeout(patience, waiting).await;
        found
    }

    /// The newest status of `host`, as its applications.
    pub fn told_by(&self, host: &HostId) -> Option<(State, Told)> {
        let seen = self.seen.borrow();
        let newest = seen
            .statuses
            .iter()
            .rev()
            .find(|status| status.host_id == *host)?;
        Some((newest.status, Told::told(newest)))
    }

    /// Messages of the master, and statuses.
    pub fn traffic(&self) -> (u32, usize) {
        let seen = self.seen.borrow();
        (seen.sent, seen.statuses.len())
    }

    /// Takes its leave of the broker.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let _ = self.listening.await;
        ended(&mut self.link).await;
    }
}

/// Waits, for a moment, until the other end of a link that was let go of has flushed and gone.
pub async fn ended(link: &mut watch::Receiver<LinkState>) {
    let flushed = async { while link.changed().await.is_ok() {} };
    let _ = timeout(END, flushed).await;
}
