//! The task of a link. It connects, serves the connection, and after any failure connects again.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::activity::Activity;
use super::connect::{ConnectError, Wire};
use super::consume::{self, ConsumeAnswer, ConsumeEnd};
use super::failure::Failure;
use super::probe::{self, Probe, jittered};
use super::publish::PublishChannel;
use super::settings::AmqpSettings;
use super::silence;
use super::topology::{Bindings, Topology};
use crate::backoff::Backoff;
use crate::{Delivery, Link, LinkState, Outgoing, PublishError, Publisher, Queue};

/// How long reconnects stay frequent. After an outage shorter than this, the link is up again
/// within one `retry_period` of the broker's return.
const HOLD: Duration = Duration::from_secs(60);
/// In retry periods: a duplicate that has not reported for this long is no longer running.
const DUPLICATE_FORGOTTEN_AFTER: u32 = 5;

/// Connects to RabbitMQ and stays connected; must be called within a tokio runtime.
pub fn connect(settings: AmqpSettings, queue: Queue) -> Link {
    let (delivery_tx, deliveries) = mpsc::channel(usize::from(queue.prefetch.max(1)));
    let (outbox_tx, outbox) = mpsc::channel(16);
    let (topics, wanted) = watch::channel(BTreeSet::new());
    let (state_tx, state) = watch::channel(LinkState::Down {
        reason: String::new(),
    });
    let supervisor = Supervisor {
        ends: ChannelEnds {
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

/// The supervisor's ends of the link's channels.
struct ChannelEnds {
    deliveries: mpsc::Sender<Delivery>,
    outbox: mpsc::Receiver<Outgoing>,
    topics: watch::Receiver<BTreeSet<String>>,
}

struct Supervisor {
    settings: AmqpSettings,
    queue: Queue,
    ends: ChannelEnds,
    state: watch::Sender<LinkState>,
    backoff: Backoff,
    epoch: u64,
    /// Distinguishes our own messages from those of a duplicate.
    number: u64,
    /// Since when another consumer has had the queue. Kept over reconnects until we get the queue.
    refused_since: Option<Instant>,
    /// The last reason that was logged since the link was last up.
    logged: Option<String>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum Outage {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Live(#[from] Failure),
}

/// The owner of the link has dropped it.
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

    /// Sets the state of the link, and logs the reason if it is new.
    fn report(&mut self, reason: String, delay: Duration) {
        if self.logged.as_ref() == Some(&reason) {
            tracing::debug!(reason, ?delay, "still no link");
        } else {
            tracing::warn!(reason, ?delay, "no link to the broker; retrying");
            self.logged = Some(reason.clone());
        }
        // A duplicate host id is reported until we get the queue, even if the connection fails
        // meanwhile.
        let still_duplicate =
            self.refused_since.is_some() && matches!(*self.state.borrow(), LinkState::Clone { .. });
        if !still_duplicate {
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
            // This also sends the last acknowledgements.
            ConsumeEnd::Dropped => {
                wire.close(Duration::from_secs(1)).await;
                Ok(Dropped)
            }
            ConsumeEnd::Failed(failure) => {
                if wire.connection.status().connected() {
                    wire.close(Duration::from_millis(200)).await;
                }
                Err(failure.into())
            }
        }
    }

    /// Runs all parts of a connection concurrently until one of them ends.
    async fn serve(&mut self, wire: &Wire, activity: &Activity) -> ConsumeEnd {
        let queue = self.queue.clone();
        let topology = Topology {
            connection: &wire.connection,
            answer_limit: self.settings.handshake_timeout,
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
            Err(Dropped) => return ConsumeEnd::Dropped,
        };
        let ChannelEnds {
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
        // Biased: publishing comes first, so that acknowledgements are sent together with outgoing
        // messages.
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

/// The consuming half of a connection. The publishing half works while this waits for its queue.
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
    async fn run(mut self, mut channel: lapin::Channel) -> ConsumeEnd {
        loop {
            match consume::start(self.topology, &channel).await {
                Ok(ConsumeAnswer::Consuming(consumer)) => return self.consume(channel, consumer).await,
                Ok(ConsumeAnswer::Refused) => self.refused(),
                Err(failure) => return failure.into(),
            }
            if let Err(failure) = self.inform_duplicate().await {
                return failure.into();
            }
            let pause = jittered(self.settings.retry_period);
            tokio::select! {
                () = sleep(pause) => {}
                () = self.deliveries.closed() => return ConsumeEnd::Dropped,
            }
            channel = match self.topology.open_channel().await {
                Ok(channel) => channel,
                Err(failure) => return failure.into(),
            };
        }
    }

    /// Another consumer has our queue. It may be our own previous connection, if the broker does
    /// not know yet that it is dead. After three heartbeats it must be another agent.
    fn refused(&mut self) {
        let since = *self.refused_since.get_or_insert_with(Instant::now);
        let heartbeat = Duration::from_secs(self.wire.connection.configuration().heartbeat().into());
        let queue = &self.topology.queue.name;
        let (state, reason) = if since.elapsed() < heartbeat * 3 {
            let reason =
                format!("queue {queue} is in use by another consumer, perhaps our own previous connection");
            (
                LinkState::Down {
                    reason: reason.clone(),
                },
                reason,
            )
        } else {
            let reason = format!(
                "queue {queue} is in use by another agent: duplicate host id; give one of the two hosts \
                 another host id"
            );
            (
                LinkState::Clone {
                    reason: reason.clone(),
                },
                reason,
            )
        };
        if !self.is_duplicate() || matches!(state, LinkState::Clone { .. }) {
            self.state.send_if_modified(|current| {
                let changed = *current != state;
                *current = state;
                changed
            });
        }
        if self.logged.as_ref() != Some(&reason) {
            tracing::warn!(reason, "not consuming; retrying");
            *self.logged = Some(reason);
        }
    }

    fn is_duplicate(&self) -> bool {
        matches!(*self.state.borrow(), LinkState::Clone { .. })
    }

    /// Informs the agent that has the queue, if this agent has a duplicate host id: the other agent
    /// cannot notice it itself.
    async fn inform_duplicate(&self) -> Result<(), Failure> {
        match &self.topology.queue.probe {
            Some(key) if self.is_duplicate() => {
                probe::report_duplicate(key, self.number, self.settings.retry_period, &self.publishing).await
            }
            Some(_) | None => Ok(()),
        }
    }

    async fn consume(self, channel: lapin::Channel, consumer: lapin::Consumer) -> ConsumeEnd {
        let queue = self.topology.queue;
        // Bound only now that the queue is ours: a duplicate must not change the bindings of the
        // other agent.
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
        let duplicates = follow_duplicate(
            &probe,
            self.settings.retry_period * DUPLICATE_FORGOTTEN_AFTER,
            self.state,
            *self.epoch,
            &queue.name,
        );
        tokio::select! {
            ended = consume::run(&channel, consumer, queue, self.deliveries, self.activity, &probe) => ended,
            failure = keep_bound(&mut bindings, self.topics, renewal, self.activity) => failure.into(),
            failure = probing => failure.into(),
            never = duplicates => match never {},
        }
    }
}

/// Sets the link's state while another agent with this host id reports. After `forget_after`
/// without a report the state is normal again.
async fn follow_duplicate(
    probe: &Probe,
    forget_after: Duration,
    state: &watch::Sender<LinkState>,
    epoch: u64,
    queue: &str,
) -> Infallible {
    loop {
        probe.duplicate_reported().await;
        let reason = format!(
            "another agent tries to consume queue {queue} of this agent: duplicate host id; give one of \
             the two hosts another host id"
        );
        tracing::warn!(reason, "consuming");
        state.send_replace(LinkState::Contested { epoch, reason });
        while timeout(forget_after, probe.duplicate_reported()).await.is_ok() {}
        tracing::info!(queue, "other agents no longer try to consume this queue");
        state.send_replace(LinkState::Up { epoch });
    }
}

/// Keeps the bindings as `topics` says. Without a probe, also binds everything again at intervals.
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
                // The sender was dropped: the bindings stay as they are.
                Err(_) => {
                    open = false;
                    Ok(())
                }
            },
            () = due => {
                // The consumer has lasted for one period, so it works.
                activity.proven.store(true, Ordering::Relaxed);
                bindings.renew().await
            }
        };
        if let Err(failure) = result {
            return failure;
        }
    }
}

impl ChannelEnds {
    /// Runs `work`. Meanwhile every publish fails with [`PublishError::Disconnected`].
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
