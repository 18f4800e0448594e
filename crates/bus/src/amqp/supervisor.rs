//! The one task of a link: connects, serves, and starts over whatever happens.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::activity::Activity;
use super::connect::{ConnectError, Wire};
use super::consume::{self, Ended, Start};
use super::failure::Failure;
use super::probe::{self, Probe, jittered};
use super::publish::PublishChannel;
use super::settings::AmqpSettings;
use super::silence;
use super::topology::{Bindings, Topology};
use crate::backoff::Backoff;
use crate::{Delivery, Link, LinkState, Outgoing, PublishError, Publisher, Queue};

/// How long reconnects stay frequent: an outage within it ends one `retry_period` after the broker's
/// return, at most.
const HOLD: Duration = Duration::from_secs(60);
/// Times the retry period: a clone that has not said for so long that it wants our queue has gone.
const TWIN_FORGOTTEN: u32 = 5;

/// Connects to RabbitMQ and stays connected; must be called within a tokio runtime.
pub fn connect(settings: AmqpSettings, queue: Queue) -> Link {
    let (delivery_tx, deliveries) = mpsc::channel(usize::from(queue.prefetch.max(1)));
    let (outbox_tx, outbox) = mpsc::channel(16);
    let (topics, wanted) = watch::channel(BTreeSet::new());
    let (state_tx, state) = watch::channel(LinkState::Down {
        reason: String::new(),
    });
    let supervisor = Supervisor {
        ends: Ends {
            deliveries: delivery_tx,
            outbox,
            topics: wanted,
        },
        backoff: Backoff::new(settings.retry_period, settings.retry_max).hold_for(HOLD),
        settings,
        queue,
        state: state_tx,
        epoch: 0,
        number: fastrand::u64(..),
        refused_since: None,
        logged: None,
    };
    tokio::spawn(supervisor.run());
    Link {
        deliveries,
        publisher: Publisher::new(outbox_tx),
        topics,
        state,
    }
}

/// Our ends of the link's channels.
struct Ends {
    deliveries: mpsc::Sender<Delivery>,
    outbox: mpsc::Receiver<Outgoing>,
    topics: watch::Receiver<BTreeSet<String>>,
}

struct Supervisor {
    settings: AmqpSettings,
    queue: Queue,
    ends: Ends,
    state: watch::Sender<LinkState>,
    backoff: Backoff,
    epoch: u64,
    /// By which a clone's messages are told from our own.
    number: u64,
    /// Since when another consumer has had the queue, over all connections until we get it.
    refused_since: Option<Instant>,
    /// The reason that was logged last, since the link was last up.
    logged: Option<String>,
}

/// Why there is no connection (any more).
#[derive(Debug, thiserror::Error)]
enum Outage {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Live(#[from] Failure),
}

/// The link's user has dropped it.
struct Dropped;

impl Supervisor {
    async fn run(mut self) {
        loop {
            let Err(outage) = self.connect_and_serve().await else {
                return;
            };
            match &outage {
                Outage::Connect(error) if error.is_overload() => self.backoff.end_hold(),
                Outage::Live(Failure::ProbeRefused) => self.queue.probe = None,
                Outage::Connect(_) | Outage::Live(_) => {}
            }
            let delay = self.backoff.next_delay();
            self.report(outage.to_string(), delay);
            if self.ends.unless_dropped(sleep(delay)).await.is_err() {
                return;
            }
        }
    }

    /// Publishes the state, and logs it if the reason is news.
    fn report(&mut self, reason: String, delay: Duration) {
        if self.logged.as_ref() == Some(&reason) {
            tracing::debug!(reason, ?delay, "still no link");
        } else {
            tracing::warn!(reason, ?delay, "no link to the broker; trying again");
            self.logged = Some(reason.clone());
        }
        // A clone stays one until we have the queue: that the connection failed as well is no news of it.
        let still_clone =
            self.refused_since.is_some() && matches!(*self.state.borrow(), LinkState::Clone { .. });
        if !still_clone {
            self.state.send_replace(LinkState::Down { reason });
        }
    }

    async fn connect_and_serve(&mut self) -> Result<Dropped, Outage> {
        let wire = match self.ends.unless_dropped(Wire::open(&self.settings)).await {
            Ok(opened) => opened?,
            Err(dropped) => return Ok(dropped),
        };
        let activity = Activity::default();
        let ended = self.serve(&wire, &activity).await;
        if activity.proven.load(Ordering::Relaxed) {
            self.backoff.reset();
        }
        match ended {
            // Also carries the last acknowledgements out.
            Ended::Dropped => {
                wire.close(Duration::from_secs(1)).await;
                Ok(Dropped)
            }
            Ended::Failed(failure) => {
                if wire.connection.status().connected() {
                    wire.close(Duration::from_millis(200)).await;
                }
                Err(failure.into())
            }
        }
    }

    /// Runs everything that a connection does, side by side, until one part ends.
    async fn serve(&mut self, wire: &Wire, activity: &Activity) -> Ended {
        let queue = self.queue.clone();
        let topology = Topology {
            connection: &wire.connection,
            patience: self.settings.handshake_timeout,
            queue: &queue,
        };
        let user_id = self.settings.user_id().map(str::to_owned);
        let prepared = self
            .ends
            .unless_dropped(async {
                let consuming = topology.declare().await?;
                let publishing = PublishChannel::open(&topology, user_id).await?;
                Ok::<_, Failure>((consuming, publishing))
            })
            .await;
        let (channel, publishing) = match prepared {
            Ok(Ok(channels)) => channels,
            Ok(Err(failure)) => return failure.into(),
            Err(Dropped) => return Ended::Dropped,
        };
        let Ends {
            deliveries,
            outbox,
            topics,
        } = &mut self.ends;
        let consumer = Consuming {
            settings: &self.settings,
            topology: &topology,
            wire,
            activity,
            publishing: publishing.clone(),
            deliveries,
            topics,
            state: &self.state,
            epoch: &mut self.epoch,
            number: self.number,
            refused_since: &mut self.refused_since,
            logged: &mut self.logged,
        };
        // In this order, so that acknowledgements see what is on its way out before they look at the time.
        tokio::select! {
            biased;
            failure = publishing.run(
                outbox,
                &wire.connection,
                self.settings.confirm_timeout,
                &activity.outgoing,
            ) => failure.into(),
            ended = consumer.run(channel) => ended,
            failure = silence::watch(wire) => failure.into(),
        }
    }
}

/// The consuming half of a connection. The publishing half goes on while this waits for its queue.
struct Consuming<'a> {
    settings: &'a AmqpSettings,
    topology: &'a Topology<'a>,
    wire: &'a Wire,
    activity: &'a Activity,
    publishing: PublishChannel,
    deliveries: &'a mpsc::Sender<Delivery>,
    topics: &'a mut watch::Receiver<BTreeSet<String>>,
    state: &'a watch::Sender<LinkState>,
    epoch: &'a mut u64,
    number: u64,
    refused_since: &'a mut Option<Instant>,
    logged: &'a mut Option<String>,
}

impl Consuming<'_> {
    async fn run(mut self, mut channel: lapin::Channel) -> Ended {
        loop {
            match consume::start(self.topology, &channel).await {
                Ok(Start::Consuming(consumer)) => return self.consume(channel, consumer).await,
                Ok(Start::Refused) => self.refused(),
                Err(failure) => return failure.into(),
            }
            if let Err(failure) = self.tell_twin_if_there_is_one().await {
                return failure.into();
            }
            let pause = jittered(self.settings.retry_period);
            tokio::select! {
                () = sleep(pause) => {}
                () = self.deliveries.closed() => return Ended::Dropped,
            }
            channel = match self.topology.open_channel().await {
                Ok(channel) => channel,
                Err(failure) => return failure.into(),
            };
        }
    }

    /// Another consumer has our queue: perhaps our own last connection, which the broker does not yet
    /// know to be dead. After three heartbeats it can't be.
    fn refused(&mut self) {
        let since = *self.refused_since.get_or_insert_with(Instant::now);
        let heartbeat = Duration::from_secs(self.wire.connection.configuration().heartbeat().into());
        let queue = &self.topology.queue.name;
        let (state, reason) = if since.elapsed() < heartbeat * 3 {
            let reason =
                format!("queue {queue} is in use by another consumer, perhaps our own last connection");
            (
                LinkState::Down {
                    reason: reason.clone(),
                },
                reason,
            )
        } else {
            let reason = format!(
                "queue {queue} is in use by another agent: two hosts have the same host id (a clone?); give one another"
            );
            (
                LinkState::Clone {
                    reason: reason.clone(),
                },
                reason,
            )
        };
        let is_clone = matches!(*self.state.borrow(), LinkState::Clone { .. });
        if !is_clone || matches!(state, LinkState::Clone { .. }) {
            self.state.send_if_modified(|current| {
                let news = *current != state;
                *current = state;
                news
            });
        }
        if self.logged.as_ref() != Some(&reason) {
            tracing::warn!(reason, "not consuming; trying again");
            *self.logged = Some(reason);
        }
    }

    /// The other agent can't know otherwise that there are two.
    async fn tell_twin_if_there_is_one(&self) -> Result<(), Failure> {
        let is_clone = matches!(*self.state.borrow(), LinkState::Clone { .. });
        match &self.topology.queue.probe {
            Some(key) if is_clone => {
                probe::tell_twin(key, self.number, self.settings.retry_period, &self.publishing).await
            }
            Some(_) | None => Ok(()),
        }
    }

    async fn consume(self, channel: lapin::Channel, consumer: lapin::Consumer) -> Ended {
        let queue = self.topology.queue;
        // Bound only now that the queue is ours: a clone must not change its twin's bindings.
        let mut bindings = Bindings::new(queue, channel.clone());
        if let Err(failure) = bindings.apply(self.topics).await {
            return failure.into();
        }
        *self.refused_since = None;
        *self.logged = None;
        *self.epoch += 1;
        tracing::info!(
            queue = queue.name,
            broker = self.settings.address(),
            user = self.settings.user(),
            "consuming"
        );
        self.state.send_replace(LinkState::Up { epoch: *self.epoch });
        let period = self.settings.probe_period;
        let renewal = queue.probe.is_none().then_some(period);
        let probe = Probe::new(self.number);
        let probing = async {
            match &queue.probe {
                Some(key) => {
                    probe
                        .run(key, period, self.wire, &self.publishing, self.activity)
                        .await
                }
                None => std::future::pending().await,
            }
        };
        let twin = follow_twin(
            &probe,
            self.settings.retry_period * TWIN_FORGOTTEN,
            self.state,
            *self.epoch,
            &queue.name,
        );
        tokio::select! {
            ended = consume::run(&channel, consumer, queue, self.deliveries, self.activity, &probe) => ended,
            failure = keep_bound(&mut bindings, self.topics, renewal, self.activity) => failure.into(),
            failure = probing => failure.into(),
            never = twin => match never {},
        }
    }
}

/// Says in the link's state whether another agent wants our queue. It is forgotten when it has been silent for `silence`.
async fn follow_twin(
    probe: &Probe,
    silence: Duration,
    state: &watch::Sender<LinkState>,
    epoch: u64,
    queue: &str,
) -> Infallible {
    loop {
        probe.twin_is_heard().await;
        let reason = format!(
            "another agent wants queue {queue}, which this one has: two hosts have the same host id (a clone?); give one another"
        );
        tracing::warn!(reason, "consuming");
        state.send_replace(LinkState::Contested { epoch, reason });
        while timeout(silence, probe.twin_is_heard()).await.is_ok() {}
        tracing::info!(queue, "no other agent wants the queue any more");
        state.send_replace(LinkState::Up { epoch });
    }
}

/// Follows `topics`; without a probe, also binds everything again from time to time.
async fn keep_bound(
    bindings: &mut Bindings<'_>,
    topics: &mut watch::Receiver<BTreeSet<String>>,
    renewal: Option<Duration>,
    activity: &Activity,
) -> Failure {
    let mut open = true;
    loop {
        let due = async {
            match renewal {
                Some(period) => sleep(jittered(period)).await,
                None => std::future::pending().await,
            }
        };
        let result = tokio::select! {
            changed = topics.changed(), if open => match changed {
                Ok(()) => bindings.apply(topics).await,
                // Nobody will ask for other topics; the bindings stay.
                Err(_) => {
                    open = false;
                    Ok(())
                }
            },
            () = due => {
                // A consumer that has lasted so long lives.
                activity.proven.store(true, Ordering::Relaxed);
                bindings.renew().await
            }
        };
        if let Err(failure) = result {
            return failure;
        }
    }
}

impl Ends {
    /// Runs `work`, telling publishers meanwhile that there is no connection.
    async fn unless_dropped<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Dropped> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                () = self.deliveries.closed() => return Err(Dropped),
                Some(outgoing) = self.outbox.recv() => {
                    let _ = outgoing.done.send(Err(PublishError::Disconnected));
                }
            }
        }
    }
}
