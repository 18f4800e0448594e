//! Sends desired states to the hosts that need them. Level-triggered: on each status and each change, what
//! is stored now is compared with what the host says now.
//!
//! Nothing here is kept over a restart, nor needs to be: the statuses that the first ping brings in begin
//! it all anew.

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

/// Tells the dispatcher what happened. Cheap to clone.
#[derive(Clone)]
pub struct Dispatcher {
    inputs: mpsc::UnboundedSender<DispatchInput>,
}

enum DispatchInput {
    Reported(Vec<ReportedHost>),
    Changed(HostId, Box<Desired>),
}

impl Dispatcher {
    /// Starts the task; it ends when the last of its dispatchers is dropped.
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

    /// These hosts have reported; of each, something is desired.
    pub fn seen(&self, hosts: Vec<ReportedHost>) {
        if !hosts.is_empty() {
            // The task ends after all who could tell it something.
            let _ = self.inputs.send(DispatchInput::Reported(hosts));
        }
    }

    /// This host's desired state is now this one.
    pub fn changed(&self, host: HostId, desired: Desired) {
        let _ = self.inputs.send(DispatchInput::Changed(host, Box::new(desired)));
    }
}

/// What was sent to a host last.
struct LastSent {
    generation: u64,
    times: u32,
    again_from: Instant,
}

/// How a sending went.
enum SendOutcome {
    Sent {
        generation: u64,
    },
    /// Nothing is desired any more.
    Nothing,
    Away,
    Failed(String),
}

struct DispatchTask {
    store: Store,
    publisher: Publisher,
    metrics: Metrics,
    /// To be sent to, in turn, each once.
    queue: VecDeque<HostId>,
    queued: HashSet<HostId>,
    /// What was desired a moment ago, of some of them: it need not be read again to be sent. If another master has stored
    /// a newer one since, that one has the higher generation, by which hosts tell.
    in_hand: HashMap<HostId, Box<Desired>>,
    under_way: HashSet<HostId>,
    sent: HashMap<HostId, LastSent>,
    /// Those whose last word asks for a sending that came too soon after the one before, and when it may be. Their next
    /// word may be a heartbeat away, and what was sent may be lost: a broker keeps it in memory only.
    due: HashMap<HostId, Instant>,
    /// Could not be sent for lack of a broker or database: tried again when the link is up anew.
    undelivered: HashSet<HostId>,
}

/// What failed for another reason than the link is tried again this often.
const RETRY_PERIOD: std::time::Duration = std::time::Duration::from_secs(5);
/// Confirms waited for at a time.
const PARALLEL: usize = 512;
/// Desired states kept until they are sent; those of more hosts are read again.
const MAX_IN_HAND: usize = 10_000;

impl DispatchTask {
    fn new(store: Store, publisher: Publisher, metrics: Metrics) -> Self {
        Self {
            store,
            publisher,
            metrics,
            queue: VecDeque::new(),
            queued: HashSet::new(),
            in_hand: HashMap::new(),
            under_way: HashSet::new(),
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
                self.under_way.insert(host.clone());
                let desired = self.in_hand.remove(&host);
                sending.push(Box::pin(send(
                    self.store.clone(),
                    self.publisher.clone(),
                    host,
                    desired,
                )));
            }
            // All branches only receive: none loses anything when another is taken.
            tokio::select! {
                input = inbox.recv() => match input {
                    Some(DispatchInput::Reported(hosts)) => hosts.into_iter().for_each(|seen| self.consider(seen)),
                    Some(DispatchInput::Changed(host, desired)) => {
                        self.sent.remove(&host);
                        self.due.remove(&host);
                        self.keep_in_hand(&host, desired);
                        self.enqueue(host);
                    }
                    None => return,
                },
                Some((host, outcome)) = sending.next() => self.settle(host, outcome),
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
        // One that is being sent to now may be sent something older: it is sent to again after that.
        if self.queued.insert(host.clone()) && !self.under_way.contains(&host) {
            self.queue.push_back(host);
        }
    }

    /// Answers of the store may come here in another order than they were stored in.
    fn keep_in_hand(&mut self, host: &HostId, desired: Box<Desired>) {
        let has_room = self.in_hand.len() < MAX_IN_HAND;
        match self.in_hand.get_mut(host) {
            Some(kept) if kept.generation > desired.generation => {}
            Some(kept) => *kept = desired,
            None if has_room => {
                self.in_hand.insert(host.clone(), desired);
            }
            None => {}
        }
    }

    fn consider(&mut self, seen: ReportedHost) {
        self.due.remove(&seen.host_id);
        match decide(&seen) {
            Decision::Leave(LeaveReason::Satisfied) => {
                self.sent.remove(&seen.host_id);
            }
            Decision::Leave(LeaveReason::Ahead) => tracing::warn!(
                host = %seen.host_id,
                "has generation {}, and the store only {}: was it restored? The next change of its desired state goes above",
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
                } else if !self.under_way.contains(&seen.host_id) {
                    self.enqueue(seen.host_id);
                }
            }
        }
    }

    fn settle(&mut self, host: HostId, outcome: SendOutcome) {
        self.under_way.remove(&host);
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
                tracing::info!("{host}: no queue, will be sent when it reports");
                self.metrics.count_dispatch("away");
                self.sent.remove(&host);
            }
            SendOutcome::Failed(reason) => {
                tracing::warn!(%host, "its desired state could not be sent, to be tried again: {reason}");
                self.metrics.count_dispatch("failed");
                self.undelivered.insert(host);
            }
        }
    }

    /// Once for each word of a host: one that says no more is not sent to again and again.
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
    in_hand: Option<Box<Desired>>,
) -> (HostId, SendOutcome) {
    let desired = match in_hand {
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

/// The message that tells a host what is desired of it.
pub fn set_config(desired: Desired) -> SetConfig<Arc<Apps>> {
    SetConfig {
        id: Some(message_id(desired.generation)),
        generation: Some(desired.generation),
        apps: desired.apps,
        // Once taken it holds: what the host has lost of it since is no part of that plan.
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

    fn says(satisfied: bool) -> ReportedHost {
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

    /// A message is lost with its broker, and the host says how it is once, right after: without this it would be
    /// sent to only at its next heartbeat.
    #[tokio::test]
    async fn a_host_that_needs_it_too_soon_is_sent_to_when_it_may_be_and_once_for_each_word() {
        let folder = tempfile::tempdir().unwrap();
        let mut task = task(folder.path()).await;
        tokio::time::pause();
        let host = HostId::new("h").unwrap();
        task.settle(host.clone(), SendOutcome::Sent { generation: 7 });
        task.consider(says(false));
        task.send_due();
        assert!(task.queue.is_empty(), "it was sent to a moment ago");
        tokio::time::advance(pause_after(1)).await;
        task.send_due();
        assert_eq!(task.queue.pop_front(), Some(host.clone()));
        task.queued.clear();
        task.settle(host.clone(), SendOutcome::Sent { generation: 7 });
        tokio::time::advance(pause_after(9)).await;
        task.send_due();
        assert!(task.queue.is_empty(), "it has said nothing since");

        task.settle(host, SendOutcome::Sent { generation: 7 });
        task.consider(says(false));
        task.consider(says(true));
        tokio::time::advance(pause_after(9)).await;
        task.send_due();
        assert!(task.queue.is_empty(), "it has what is desired");
    }
}
