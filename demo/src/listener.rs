//! Receives every message on the bus, prints it, and waits for the statuses that a part of the demo
//! expects.

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
use crate::state::ObservedApps;

/// Time limit for every request to a host.
const ANSWER_LIMIT: Duration = Duration::from_secs(40);
/// Time limit for the last acknowledgements.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);
/// Largest number of unacknowledged messages.
const PREFETCH: u16 = 64;

pub const LISTENER_QUEUE: &str = "backbone-demo-listener";

pub struct BusListener {
    link: watch::Receiver<LinkState>,
    seen: watch::Receiver<SeenMessages>,
    listening: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

/// The messages so far.
#[derive(Default)]
struct SeenMessages {
    /// Every status, in the order of arrival.
    statuses: Vec<Status>,
    /// Number of messages of the master.
    sent: u32,
}

/// A position in the list of statuses. Earlier ones do not count.
#[derive(Debug, Clone, Copy)]
pub struct Mark(usize);

/// A queue with all topics of master and agents.
pub fn queue(hosts: &[DemoHost]) -> Queue {
    let mut topics: BTreeSet<String> = hosts.iter().map(|host| host.id.to_string()).collect();
    topics.extend([topic::MASTER, topic::SLAVES].map(str::to_owned));
    Queue {
        topics,
        ..Queue::of_master(LISTENER_QUEUE, PREFETCH)
    }
}

fn record(delivery: &Delivery, seen: &watch::Sender<SeenMessages>, screen: &Screen) {
    let body = &delivery.body;
    if body.is_empty() {
        // The probe of an agent's link.
        return;
    }
    if delivery.routing_key != topic::MASTER {
        match protocol::decode(body, Limits::default()) {
            Ok(message) => {
                seen.send_modify(|seen| seen.sent += 1);
                screen.sent(&delivery.routing_key, &message);
            }
            Err(error) => screen.failure(&format!("invalid message from the master: {error}")),
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
            Err(_) => screen.failure(&format!("invalid status: {error}")),
        },
    }
}

impl BusListener {
    pub fn start(link: Link, screen: Arc<Screen>) -> Self {
        let Link {
            mut deliveries,
            publisher,
            topics,
            state,
        } = link;
        let (seen_in, seen) = watch::channel(SeenMessages::default());
        let (stop, mut stopped) = watch::channel(false);
        let listening = tokio::spawn(async move {
            // Kept, because dropping them would end the link.
            let _kept = (publisher, topics);
            loop {
                let delivery = tokio::select! {
                    delivery = deliveries.recv() => delivery,
                    _ = stopped.changed() => None,
                };
                let Some(delivery) = delivery else { return };
                record(&delivery, &seen_in, &screen);
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
        if let Ok(state) = timeout(ANSWER_LIMIT, self.link.wait_for(LinkState::is_up)).await {
            return state.map(drop).context("the connection to the bus has ended");
        }
        match &*self.link.borrow() {
            LinkState::Down { reason } | LinkState::Clone { reason } => {
                bail!("no connection to the bus after {ANSWER_LIMIT:?}: {reason}")
            }
            LinkState::Up { .. } | LinkState::Contested { .. } => Ok(()),
        }
    }

    /// The current position: only later statuses count.
    pub fn mark(&self) -> Mark {
        Mark(self.seen.borrow().statuses.len())
    }

    /// The first `ok` of `host`: it has observed itself.
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
                "{host} answers {id} with {:?} instead of {expected:?}: {}",
                status.status,
                errors.join("; ")
            );
        }
        Ok(status)
    }

    /// The `ok` of `host` that follows a `converging` after `mark`.
    pub async fn repaired(&mut self, host: &HostId, mark: Mark) -> Result<Status> {
        self.status_of(host, mark, "has detected the drift", |status| {
            status.status == State::Converging
        })
        .await?;
        let repaired = self.wait(mark, ANSWER_LIMIT, |statuses| {
            let mut own = statuses.iter().filter(|status| status.host_id == *host);
            own.by_ref().find(|status| status.status == State::Converging)?;
            own.find(|status| status.status == State::Ok).cloned()
        });
        repaired
            .await
            .with_context(|| format!("{host} did not report the repair within {ANSWER_LIMIT:?}"))
    }

    async fn status_of(
        &mut self,
        host: &HostId,
        mark: Mark,
        what: &str,
        wanted: impl Fn(&Status) -> bool,
    ) -> Result<Status> {
        let found = self.wait(mark, ANSWER_LIMIT, |statuses| {
            statuses
                .iter()
                .find(|status| status.host_id == *host && wanted(status))
                .cloned()
        });
        found
            .await
            .with_context(|| format!("{host} did not report within {ANSWER_LIMIT:?} that it {what}"))
    }

    /// `None`: not within the limit.
    async fn wait<T>(
        &mut self,
        Mark(from): Mark,
        limit: Duration,
        find: impl Fn(&[Status]) -> Option<T>,
    ) -> Option<T> {
        let mut found = None;
        let waiting = self.seen.wait_for(|seen| {
            found = find(seen.statuses.get(from..).unwrap_or_default());
            found.is_some()
        });
        let _ = timeout(limit, waiting).await;
        found
    }

    /// The state and applications in the newest status of `host`.
    pub fn reported_by(&self, host: &HostId) -> Option<(State, ObservedApps)> {
        let seen = self.seen.borrow();
        let newest = seen
            .statuses
            .iter()
            .rev()
            .find(|status| status.host_id == *host)?;
        Some((newest.status, ObservedApps::reported(newest)))
    }

    /// Number of messages of the master, and of statuses.
    pub fn traffic(&self) -> (u32, usize) {
        let seen = self.seen.borrow();
        (seen.sent, seen.statuses.len())
    }

    /// Stops listening and closes the link.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let _ = self.listening.await;
        ended(&mut self.link).await;
    }
}

/// Waits, with a time limit, until a dropped link has flushed and ended.
pub async fn ended(link: &mut watch::Receiver<LinkState>) {
    let flushed = async { while link.changed().await.is_ok() {} };
    let _ = timeout(FLUSH_LIMIT, flushed).await;
}
