//! A broker in this process, for the demo and for tests: direct exchange, queues with bindings,
//! acknowledgements, prefetch, exclusive consumers, mandatory publishes. It ignores `expires`: a
//! queue exists as long as its broker.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::{Delivery, Link, LinkState, Outgoing, PublishError, Publisher, Queue};

/// Cheap to clone. All clones are the same broker.
#[derive(Clone, Default)]
pub struct LocalBroker {
    shared: Arc<SharedBroker>,
}

#[derive(Default)]
struct SharedBroker {
    exchange: Mutex<Exchange>,
    /// Notified when queues, consumers or messages have changed.
    changed: Notify,
}

impl SharedBroker {
    fn exchange(&self) -> MutexGuard<'_, Exchange> {
        // Code that holds the lock does not panic, so the data is consistent.
        self.exchange.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Exchange {
    queues: BTreeMap<String, QueueState>,
    stopped: bool,
    next_message: u64,
    next_consumer: u64,
}

#[derive(Default)]
struct QueueState {
    bindings: BTreeSet<String>,
    /// Keys are in the order of arrival. A requeued message gets its old place.
    ready: BTreeMap<u64, Message>,
    unacked: BTreeMap<u64, (u64, Message)>,
    consumers: BTreeMap<u64, bool>,
}

struct Message {
    routing_key: String,
    body: Vec<u8>,
    user_id: Option<String>,
    redelivered: bool,
}

impl LocalBroker {
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares `queue` and consumes it as the user `user_id`. Must be called within a tokio
    /// runtime.
    pub fn connect_as(&self, queue: Queue, user_id: Option<String>) -> Link {
        let prefetch = usize::from(queue.prefetch.max(1));
        let (delivery_tx, deliveries) = mpsc::channel(prefetch);
        let (outbox_tx, outbox) = mpsc::channel(64);
        let (topics, wanted) = watch::channel(BTreeSet::new());
        let (state_tx, state) = watch::channel(LinkState::Down {
            reason: String::new(),
        });
        let end = LocalEnd {
            shared: self.shared.clone(),
            queue,
            user_id,
            deliveries: delivery_tx,
            outbox,
            topics: wanted,
            state: state_tx,
            epoch: 0,
        };
        tokio::spawn(end.run());
        Link {
            deliveries,
            publisher: Publisher::new(outbox_tx),
            topics,
            state,
        }
    }

    pub fn connect(&self, queue: Queue) -> Link {
        self.connect_as(queue, None)
    }

    /// Ends all connections and refuses new ones until [`Self::start`]. Queues and their messages
    /// stay. Messages that were not acknowledged are delivered again.
    pub fn stop(&self) {
        self.shared.exchange().stopped = true;
        self.shared.changed.notify_waiters();
    }

    pub fn start(&self) {
        self.shared.exchange().stopped = false;
        self.shared.changed.notify_waiters();
    }
}

impl Exchange {
    /// Adds the message to every queue that is bound to its key.
    fn route(&mut self, outgoing: &Outgoing, user_id: &Option<String>) -> Result<(), PublishError> {
        let mut routed = Err(PublishError::Unroutable);
        for queue in self.queues.values_mut() {
            if queue.bindings.contains(&outgoing.routing_key) {
                self.next_message += 1;
                let message = Message {
                    routing_key: outgoing.routing_key.clone(),
                    body: outgoing.body.clone(),
                    user_id: user_id.clone(),
                    redelivered: false,
                };
                queue.ready.insert(self.next_message, message);
                routed = Ok(());
            }
        }
        routed
    }

    /// Declares the queue and adds a consumer. `None` if an exclusive consumer prevents it.
    fn consume(&mut self, wanted: &Queue) -> Option<u64> {
        let queue = self.queues.entry(wanted.name.clone()).or_default();
        let refused = match wanted.exclusive_consumer {
            true => !queue.consumers.is_empty(),
            false => queue.consumers.values().any(|exclusive| *exclusive),
        };
        if refused {
            return None;
        }
        self.next_consumer += 1;
        queue
            .consumers
            .insert(self.next_consumer, wanted.exclusive_consumer);
        Some(self.next_consumer)
    }
}

impl QueueState {
    /// Removes a consumer and requeues the messages that it has not acknowledged.
    fn remove_consumer(&mut self, consumer: u64) {
        self.consumers.remove(&consumer);
        let held: Vec<u64> = self
            .unacked
            .iter()
            .filter(|(_, (holder, _))| *holder == consumer)
            .map(|(number, _)| *number)
            .collect();
        for number in held {
            self.requeue(number);
        }
    }

    fn requeue(&mut self, number: u64) {
        if let Some((_, mut message)) = self.unacked.remove(&number) {
            message.redelivered = true;
            self.ready.insert(number, message);
        }
    }

    /// Gives the oldest ready message to `consumer`.
    fn take(&mut self, consumer: u64, acker: oneshot::Sender<()>) -> Option<(u64, Delivery)> {
        let (number, message) = self.ready.pop_first()?;
        let delivery = Delivery::new(message.routing_key.clone(), message.body.clone(), acker)
            .from_user(message.user_id.clone())
            .redelivered(message.redelivered);
        self.unacked.insert(number, (consumer, message));
        Some((number, delivery))
    }
}

/// The broker's side of one link.
struct LocalEnd {
    shared: Arc<SharedBroker>,
    queue: Queue,
    user_id: Option<String>,
    deliveries: mpsc::Sender<Delivery>,
    outbox: mpsc::Receiver<Outgoing>,
    topics: watch::Receiver<BTreeSet<String>>,
    state: watch::Sender<LinkState>,
    epoch: u64,
}

/// Why a link stopped consuming.
enum LocalStop {
    /// The owner of the link has dropped it.
    Dropped,
    BrokerStopped,
}

impl LocalEnd {
    async fn run(mut self) {
        loop {
            // Registered before reading the state, so that no change is missed in between.
            let shared = self.shared.clone();
            let mut changed = std::pin::pin!(shared.changed.notified());
            changed.as_mut().enable();
            let stopped = shared.exchange().stopped;
            let consumer = if stopped {
                None
            } else {
                shared.exchange().consume(&self.queue)
            };
            if let Some(consumer) = consumer {
                let stop = self.consume(consumer).await;
                if let Some(queue) = shared.exchange().queues.get_mut(&self.queue.name) {
                    queue.remove_consumer(consumer);
                }
                shared.changed.notify_waiters();
                match stop {
                    LocalStop::Dropped => return,
                    LocalStop::BrokerStopped => continue,
                }
            }
            self.state.send_replace(match stopped {
                true => LinkState::Down {
                    reason: "the broker is stopped".into(),
                },
                false => LinkState::Clone {
                    reason: format!("queue {} is in use by another consumer", self.queue.name),
                },
            });
            tokio::select! {
                () = &mut changed => {}
                () = self.deliveries.closed() => return,
                Some(outgoing) = self.outbox.recv() => {
                    let result = match stopped {
                        true => Err(PublishError::Disconnected),
                        false => self.publish(&outgoing),
                    };
                    let _ = outgoing.done.send(result);
                }
            }
        }
    }

    fn publish(&self, outgoing: &Outgoing) -> Result<(), PublishError> {
        let result = self.shared.exchange().route(outgoing, &self.user_id);
        self.shared.changed.notify_waiters();
        result
    }

    fn bind(&self) {
        let mut bindings = self.queue.topics.clone();
        bindings.extend(self.topics.borrow().iter().cloned());
        if let Some(queue) = self.shared.exchange().queues.get_mut(&self.queue.name) {
            queue.bindings = bindings;
        }
    }

    async fn consume(&mut self, consumer: u64) -> LocalStop {
        self.bind();
        self.epoch += 1;
        self.state.send_replace(LinkState::Up { epoch: self.epoch });
        let mut unacked = FuturesUnordered::new();
        let shared = self.shared.clone();
        loop {
            let mut changed = std::pin::pin!(shared.changed.notified());
            changed.as_mut().enable();
            if shared.exchange().stopped {
                return LocalStop::BrokerStopped;
            }
            let mut full = false;
            while unacked.len() < usize::from(self.queue.prefetch.max(1)) {
                // Full only if deliveries from before a disconnect have not been received yet.
                let Ok(permit) = self.deliveries.try_reserve() else {
                    full = true;
                    break;
                };
                let (acker, acked) = oneshot::channel();
                let taken = match shared.exchange().queues.get_mut(&self.queue.name) {
                    Some(queue) => queue.take(consumer, acker),
                    None => None,
                };
                let Some((number, delivery)) = taken else { break };
                permit.send(delivery);
                unacked.push(async move { (number, acked.await.is_ok()) });
            }
            tokio::select! {
                () = &mut changed => {}
                () = self.deliveries.closed() => {
                    // Acknowledgements from before the link was dropped still count.
                    while let Some(Some((number, acked))) = futures_util::FutureExt::now_or_never(unacked.next()) {
                        self.settle(number, acked);
                    }
                    return LocalStop::Dropped;
                }
                Ok(_) = self.deliveries.reserve(), if full => {}
                Some((number, acked)) = unacked.next() => self.settle(number, acked),
                Ok(()) = self.topics.changed() => self.bind(),
                Some(outgoing) = self.outbox.recv() => {
                    let result = self.publish(&outgoing);
                    let _ = outgoing.done.send(result);
                }
            }
        }
    }

    fn settle(&self, number: u64, acked: bool) {
        if let Some(queue) = self.shared.exchange().queues.get_mut(&self.queue.name) {
            if acked {
                queue.unacked.remove(&number);
            } else {
                queue.requeue(number);
            }
        }
        // Any free consumer may get a requeued message.
        self.shared.changed.notify_waiters();
    }
}
