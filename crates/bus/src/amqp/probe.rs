//! Proves that messages still reach a live consumer.
//!
//! The broker tells a consumer when its queue is deleted, but not when its exchange is, and with it all
//! bindings. The first agent to publish notices and makes the exchange anew: from then on nothing looks
//! wrong to the others, who have gone deaf. So each sends itself a message now and then.
//!
//! By the same way a clone tells its twin that there are two of them: the key that leads to the queue it may not consume
//! leads to whoever does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lapin::message::Delivery as Received;
use lapin::protocol::AMQPSoftError;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use super::activity::Activity;
use super::connect::Wire;
use super::failure::{Failure, answered, channel_error};
use super::publish::PublishChannel;
use crate::{PublishError, slack};

/// AMQP property `type` of a probe. Such a message is acknowledged and never handed on.
const KIND: &str = "backbone.probe";
/// Begins the AMQP property `message_id` of a clone's message; its link's number follows.
const REFUSED: &str = "refused-";

/// The probe of one connection.
pub(super) struct Probe {
    /// Tells this connection's probes from those of an earlier one that waited in the queue.
    connection: u64,
    /// Tells our link's messages from a twin's.
    link: u64,
    sent: AtomicU64,
    arrived: Notify,
    twin: Notify,
}

impl Probe {
    /// `link`: any number that stays the same over the link's connections.
    pub(super) fn new(link: u64) -> Self {
        Self {
            connection: fastrand::u64(..),
            link,
            sent: AtomicU64::new(0),
            arrived: Notify::new(),
            twin: Notify::new(),
        }
    }

    /// Returns when another agent has said that it wants our queue.
    pub(super) async fn twin_is_heard(&self) {
        self.twin.notified().await;
    }

    fn message_id(&self) -> String {
        format!("{:016x}-{}", self.connection, self.sent.load(Ordering::Relaxed))
    }

    /// Whether `received` is a probe, ours or a stale one, or a clone's message.
    pub(super) fn recognise(&self, received: &Received) -> bool {
        let is_probe = received
            .properties
            .kind()
            .as_ref()
            .is_some_and(|kind| kind.as_str() == KIND);
        let id = received.properties.message_id().as_ref().map(|id| id.as_str());
        if is_probe && id == Some(self.message_id().as_str()) {
            self.arrived.notify_one();
        }
        // Our own may have waited until we got the queue after all.
        let refused = id.and_then(|id| id.strip_prefix(REFUSED)).filter(|_| is_probe);
        if refused.is_some_and(|link| link != format!("{:016x}", self.link)) {
            self.twin.notify_one();
        }
        is_probe
    }

    /// Sends a probe over `routing_key` now and every `period`, until one is lost.
    pub(super) async fn run(
        &self,
        routing_key: &str,
        period: Duration,
        wire: &Wire,
        channel: &PublishChannel,
        activity: &Activity,
    ) -> Failure {
        loop {
            self.sent.fetch_add(1, Ordering::Relaxed);
            let properties = channel
                .properties()
                .with_type(KIND.into())
                .with_message_id(self.message_id().into())
                // Where a full queue holds it up, it must not add to the queue for ever.
                .with_expiration(period.as_millis().to_string().into());
            // Waits while the broker blocks publishers; if it dies meanwhile, `silence` notices.
            let publish = channel.publish(routing_key, b"", properties);
            let Ok(published) = answered(&wire.connection, period, "publishing the probe", publish).await
            else {
                return Failure::Deaf;
            };
            match published {
                Ok(Ok(())) => {}
                Ok(Err(PublishError::Unroutable)) => return Failure::Unbound,
                Ok(Err(PublishError::Refused | PublishError::Disconnected)) => {}
                Err(error) if channel_error(&error) == Some(&AMQPSoftError::ACCESSREFUSED) => {
                    return Failure::ProbeRefused;
                }
                Err(error) => return Failure::amqp("publishing the probe")(error),
            }
            let arrived = timeout(period, self.arrived.notified()).await.is_ok();
            // While messages are unsettled the queue may rightly hold the probe back, and a blocked
            // connection does not take their acknowledgements.
            let busy = activity.unsettled.load(Ordering::Relaxed) > 0 || wire.connection.status().blocked();
            if !arrived && !busy {
                return Failure::Deaf;
            }
            if arrived {
                sleep_until(slack::not_before(Instant::now() + jittered(period), period)).await;
            }
        }
    }
}

/// Tells whoever consumes the queue behind `routing_key` that link `link` is refused it. Gives up after `period`, when the next
/// one is due: the broker may be blocking publishers.
pub(super) async fn tell_twin(
    routing_key: &str,
    link: u64,
    period: Duration,
    channel: &PublishChannel,
) -> Result<(), Failure> {
    let properties = channel
        .properties()
        .with_type(KIND.into())
        .with_message_id(format!("{REFUSED}{link:016x}").into())
        .with_expiration(period.as_millis().to_string().into());
    match timeout(period, channel.publish(routing_key, b"", properties)).await {
        // Nobody there to be told, or no room: again next time.
        Ok(Ok(_)) | Err(_) => Ok(()),
        Ok(Err(error)) if channel_error(&error) == Some(&AMQPSoftError::ACCESSREFUSED) => {
            Err(Failure::ProbeRefused)
        }
        Ok(Err(error)) => Err(Failure::amqp("telling the other agent of this host id")(error)),
    }
}

/// Three quarters to five quarters of it, so that a fleet's probes stay apart.
pub(super) fn jittered(period: Duration) -> Duration {
    period.mul_f64(0.75 + fastrand::f64() / 2.0)
}
