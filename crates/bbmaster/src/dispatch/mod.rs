//! Sends desired states to the hosts that need them. Level-triggered: on each status and each
//! change, the stored desired state is compared with what the host reports now.
//!
//! Nothing here is kept over a restart: the master pings all hosts when it starts, and each answer
//! is decided like any other status.

mod decide;
mod ping;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bus::{LinkState, PublishError, Publisher};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use protocol::{Apps, HostId, SetConfig};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use crate::metrics::Metrics;
use crate::store::{Desired, ReportedHost, Store};

pub use decide::{Decision, LeaveReason, decide, message_id, pause_after};
pub use ping::Pinger;

/// Sends inputs to the dispatcher. Cheap to clone.
#[derive(Clone)]
pub struct Dispatcher {
    inputs: mpsc::UnboundedSender<DispatchInput>,
}

enum DispatchInput {
    Reported(Vec<ReportedHost>),
    Changed(HostId, Box<Desired>),
}

impl Dispatcher {
    /// Starts the task. It ends when the last clone of the dispatcher is dropped.
    pub fn start(
        store: Store,
        publisher: Publisher,
        link: watch::Receiver<LinkState>,
        metrics: Metrics,
    ) -> Self {
        let (inputs, inbox) = mpsc::unbounded_channel();
        tokio::spawn(DispatchTask::new(store, publisher, metrics).run(inbox, link));
        Self { inputs }
    }

    /// These hosts have reported, and each has a desired state.
    pub fn seen(&self, hosts: Vec<ReportedHost>) {
        if !hosts.is_empty() {
            // An error means that the master is stopping.
            let _ = self.inputs.send(DispatchInput::Reported(hosts));
        }
    }

    /// The desired state of this host has changed to this one.
    pub fn changed(&self, host: HostId, desired: Desired) {
        let _ = self.inputs.send(DispatchInput::Changed(host, Box::new(desired)));
    }
}

/// The last message to a host.
struct LastSent {
    generation: u64,
    times: u32,
    again_from: Instant,
}

/// The result of sending.
enum SendOutcome {
    Sent {
        generation: u64,
    },
    /// The host no longer has a desired state.
    Nothing,
    Away,
    Failed(String),
}

struct DispatchTask {
    store: Store,
    publisher: Publisher,
    metrics: Metrics,
    /// Hosts to send to, in order, each once.
    queue: VecDeque<HostId>,
    queued: HashSet<HostId>,
    /// Desired states that were just stored, so that they need not be read again. If another master
    /// has stored a newer one since, hosts recognise it by its higher generation.
    just_stored: HashMap<HostId, Box<Desired>>,
    in_progress: HashSet<HostId>,
    sent: HashMap<HostId, LastSent>,
    /// Hosts that need their desired state again too soon after the last message, and when it may
    /// be sent. Their next status may be a heartbeat away, and the last message may be lost,
    /// because the broker keeps it in memory only.
    due: HashMap<HostId, Instant>,
    /// Hosts that could not be sent to, because there was no broker or database. Retried when the
    /// link is up again.
    undelivered: HashSet<HostId>,
}

/// How often sending is retried if the link is up.
const RETRY_PERIOD: std::time::Duration = std::time::Duration::from_secs(5);
/// Messages in progress at the same time.
const PARALLEL: usize = 512;
/// Desired states kept until they are sent. Those of more hosts are read again.
const MAX_JUST_STORED: usize = 10_000;

impl DispatchTask {
    fn new(store: Store, publisher: Publisher, metrics: Metrics) -> Self {
        Self {
            store,
            publisher,
            metrics,
            queue: VecDeque::new(),
            queued: HashSet::new(),
            just_stored: HashMap::new(),
            in_progress: HashSet::new(),
            sent: HashMap::new(),
            due: HashMap::new(),
            undelivered: HashSet::new(),
        }
    }

    async fn run(
        mut self,
        mut inbox: mpsc::UnboundedReceiver<DispatchInput>,
        mut link: watch::Receiver<LinkState>,
    ) {
        let mut sending: FuturesUnordered<BoxFuture<'static, (HostId, SendOutcome)>> =
            FuturesUnordered::new();
        let mut link_ended = false;
        let mut retry = tokio::time::interval(RETRY_PERIOD);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while sending.len() < PARALLEL
                && let Some(host) = self.queue.pop_front()
            {
                self.queued.remove(&host);
                self.in_progress.insert(host.clone());
                let desired = self.just_stored.remove(&host);
                sending.push(Box::pin(send(
                    self.store.clone(),
                    self.publisher.clone(),
                    host,
                    desired,
                )));
            }
            // Every branch only receives, which is cancel-safe: no branch loses an input when
            // another one is taken.
            tokio::select! {
                input = inbox.recv() => match input {
                    Some(DispatchInput::Reported(hosts)) => hosts.into_iter().for_each(|seen| self.decide_for(seen)),
                    Some(DispatchInput::Changed(host, desired)) => {
                        self.sent.remove(&host);
                        self.due.remove(&host);
                        self.keep_just_stored(&host, desired);
                        self.enqueue(host);
                    }
                    None => return,
                },
                Some((host, outcome)) = sending.next() => self.record_outcome(host, outcome),
                _ = retry.tick(), if link.borrow().is_up() => {
                    self.retry_undelivered();
                    self.send_due();
                }
                changed = link.changed(), if !link_ended => match changed {
                    Ok(()) if link.borrow_and_update().is_up() => self.retry_undelivered(),
                    Ok(()) => {}
                    Err(_) => link_ended = true,
                },
            }
        }
    }

    fn enqueue(&mut self, host: HostId) {
        // A host that is being sent to may get something older. It is sent to again after that.
        if self.queued.insert(host.clone()) && !self.in_progress.contains(&host) {
            self.queue.push_back(host);
        }
    }

    /// Desired states may arrive here in another order than they were stored.
    fn keep_just_stored(&mut self, host: &HostId, desired: Box<Desired>) {
        let has_room = self.just_stored.len() < MAX_JUST_STORED;
        match self.just_stored.get_mut(host) {
            Some(kept) if kept.generation > desired.generation => {}
            Some(kept) => *kept = desired,
            None if has_room => {
                self.just_stored.insert(host.clone(), desired);
            }
            None => {}
        }
    }

    fn decide_for(&mut self, seen: ReportedHost) {
        self.due.remove(&seen.host_id);
        match decide(&seen) {
            Decision::Leave(LeaveReason::Satisfied) => {
                self.sent.remove(&seen.host_id);
            }
            Decision::Leave(LeaveReason::Ahead) => tracing::warn!(
                host = %seen.host_id,
                "the host has generation {}, but the database has only {} (was it restored?); the next change of the desired state will be above both",
                seen.reported_generation.unwrap_or_default(),
                seen.generation,
            ),
            Decision::Leave(LeaveReason::Converging | LeaveReason::Retrying | LeaveReason::Rejected) => {}
            Decision::Send => {
                let sent = self.sent.get(&seen.host_id);
                let again_from = sent
                    .filter(|sent| sent.generation == seen.generation && Instant::now() < sent.again_from)
                    .map(|sent| sent.again_from);
                if let Some(again_from) = again_from {
                    self.due.insert(seen.host_id, again_from);
                } else if !self.in_progress.contains(&seen.host_id) {
                    self.enqueue(seen.host_id);
                }
            }
        }
    }

    fn record_outcome(&mut self, host: HostId, outcome: SendOutcome) {
        self.in_progress.remove(&host);
        if self.queued.contains(&host) {
            self.queue.push_back(host.clone());
        }
        match outcome {
            SendOutcome::Sent { generation } => {
                self.metrics.count_dispatch("sent");
                let times = match self.sent.get(&host) {
                    Some(sent) if sent.generation == generation => sent.times.saturating_add(1),
                    _ => 1,
                };
                let sent = LastSent {
                    generation,
                    times,
                    again_from: Instant::now() + pause_after(times),
                };
                self.sent.insert(host, sent);
            }
            SendOutcome::Nothing => {
                self.sent.remove(&host);
            }
            SendOutcome::Away => {
                tracing::info!(%host, "the host has no queue; its desired state will be sent when it reports");
                self.metrics.count_dispatch("away");
                self.sent.remove(&host);
            }
            SendOutcome::Failed(reason) => {
                tracing::warn!(%host, "cannot send the desired state, will be retried: {reason}");
                self.metrics.count_dispatch("failed");
                self.undelivered.insert(host);
            }
        }
    }

    /// Once for each status of a host: a host that reports nothing more is not sent to again.
    fn send_due(&mut self) {
        let now = Instant::now();
        let due: Vec<HostId> = self
            .due
            .extract_if(|_, again_from| *again_from <= now)
            .map(|(host, _)| host)
            .collect();
        for host in due {
            self.enqueue(host);
        }
    }

    fn retry_undelivered(&mut self) {
        for host in std::mem::take(&mut self.undelivered) {
            self.enqueue(host);
        }
    }
}

async fn send(
    store: Store,
    publisher: Publisher,
    host: HostId,
    just_stored: Option<Box<Desired>>,
) -> (HostId, SendOutcome) {
    let desired = match just_stored {
        Some(desired) => Ok(Some(*desired)),
        None => store.desired(&host).await,
    };
    let outcome = match desired {
        Err(error) => SendOutcome::Failed(error.to_string()),
        Ok(None) => SendOutcome::Nothing,
        Ok(Some(desired)) => {
            let generation = desired.generation;
            match publisher
                .publish(host.as_str(), set_config(desired).encode())
                .await
            {
                Ok(()) => SendOutcome::Sent { generation },
                Err(PublishError::Unroutable) => SendOutcome::Away,
                Err(error @ (PublishError::Refused | PublishError::Disconnected)) => {
                    SendOutcome::Failed(error.to_string())
                }
            }
        }
    };
    (host, outcome)
}

/// The message that carries a desired state.
pub fn set_config(desired: Desired) -> SetConfig<Arc<Apps>> {
    SetConfig {
        id: Some(message_id(desired.generation)),
        generation: Some(desired.generation),
        apps: desired.apps,
        // Once the host has taken it, its plan is no longer requested: drift that is repaired
        // later is not part of it.
        only_if_plan: desired.only_if_plan.filter(|_| !desired.is_taken),
        retry: false,
    }
}

#[cfg(test)]
mod tests {
    use bus::Queue;
    use bus::local::LocalBroker;
    use protocol::rest::HostState;

    use super::*;

    async fn task(folder: &std::path::Path) -> DispatchTask {
        let link = LocalBroker::new().connect(Queue::of_master("q", 1));
        let store = Store::open_sqlite(&folder.join("db")).await.unwrap();
        DispatchTask::new(store, link.publisher, Metrics::default())
    }

    fn reports(satisfied: bool) -> ReportedHost {
        ReportedHost {
            host_id: HostId::new("h").unwrap(),
            state: HostState::Ok,
            satisfied,
            towards_current: false,
            generation: 7,
            reported_generation: Some(6),
            rejected_id: None,
        }
    }

    /// A message is lost with its broker, and the host reports once, right after that. Without this
    /// the desired state would be sent again only at its next heartbeat.
    #[tokio::test]
    async fn a_host_that_needs_its_state_too_soon_gets_it_later_and_once_per_status() {
        let folder = tempfile::tempdir().unwrap();
        let mut task = task(folder.path()).await;
        tokio::time::pause();
        let host = HostId::new("h").unwrap();
        task.record_outcome(host.clone(), SendOutcome::Sent { generation: 7 });
        task.decide_for(reports(false));
        task.send_due();
        assert!(task.queue.is_empty(), "it was sent to a moment ago");
        tokio::time::advance(pause_after(1)).await;
        task.send_due();
        assert_eq!(task.queue.pop_front(), Some(host.clone()));
        task.queued.clear();
        task.record_outcome(host.clone(), SendOutcome::Sent { generation: 7 });
        tokio::time::advance(pause_after(9)).await;
        task.send_due();
        assert!(task.queue.is_empty(), "it has said nothing since");

        task.record_outcome(host, SendOutcome::Sent { generation: 7 });
        task.decide_for(reports(false));
        task.decide_for(reports(true));
        tokio::time::advance(pause_after(9)).await;
        task.send_due();
        assert!(task.queue.is_empty(), "it has what is desired");
    }
}
