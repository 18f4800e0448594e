//! Checks that messages still reach the consumer.
//!
//! The broker cancels a consumer when its queue is deleted, but not when its exchange and thus all
//! bindings are deleted. The first agent that publishes notices this and declares the exchange
//! again. Then the others see no error but receive nothing. So each link sends itself a probe
//! message at intervals.
//!
//! An agent with a duplicate host id uses the same routing key to inform the agent that has the
//! queue.

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

/// AMQP property `type` of a probe. Such a message is acknowledged and never delivered to the
/// caller.
const KIND: &str = "backbone.probe";
/// Prefix of the AMQP property `message_id` of a message from an agent with a duplicate host id.
/// The number of its link follows.
const REFUSED: &str = "refused-";

/// The probe of one connection.
pub(super) struct Probe {
    /// Distinguishes this connection's probes from older ones that were still in the queue.
    connection: u64,
    /// Distinguishes our link's messages from those of a duplicate.
    link: u64,
    sent: AtomicU64,
    arrived: Notify,
    duplicate: Notify,
}

impl Probe {
    /// `link`: any number that stays the same over the link's connections.
    pub(super) fn new(link: u64) -> Self {
        Self {
            connection: fastrand::u64(..),
            link,
            sent: AtomicU64::new(0),
            arrived: Notify::new(),
            duplicate: Notify::new(),
        }
    }

    /// Returns when another agent has reported that it cannot consume our queue. Cancel-safe.
    pub(super) async fn duplicate_reported(&self) {
        self.duplicate.notified().await;
    }

    fn message_id(&self) -> String {
        format!("{:016x}-{}", self.connection, self.sent.load(Ordering::Relaxed))
    }

    /// Whether `received` is a probe (a current or an old one) or the message of a duplicate.
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
        // Our own report may still have been in the queue when we got the queue.
        let refused = id.and_then(|id| id.strip_prefix(REFUSED)).filter(|_| is_probe);
        if refused.is_some_and(|link| link != format!("{:016x}", self.link)) {
            self.duplicate.notify_one();
        }
        is_probe
    }

    /// Sends a probe with `routing_key` now and every `period`, until one is lost.
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
                // If the queue is full, old probes must not stay in it for ever.
                .with_expiration(period.as_millis().to_string().into());
            // Waits while the broker blocks publishers. If the broker dies meanwhile, `silence`
            // notices.
            let publish = channel.publish(routing_key, b"", properties);
            let Ok(published) = answered(&wire.connection, period, "publishing the probe", publish).await
            else {
                return Failure::NotDelivered;
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
            // With unsettled messages, the prefetch limit may delay the probe. A blocked connection
            // sends no acknowledgements.
            let busy = activity.unsettled.load(Ordering::Relaxed) > 0 || wire.connection.status().blocked();
            if !arrived && !busy {
                return Failure::NotDelivered;
            }
            if arrived {
                sleep_until(slack::not_before(Instant::now() + jittered(period), period)).await;
            }
        }
    }
}

/// Informs the agent that has the queue of `routing_key` that link `link` cannot consume it. Gives
/// up after `period`, when the next report is due: the broker may block publishers.
pub(super) async fn report_duplicate(
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
        // Nobody receives it, or the queue is full: the next report may succeed.
        Ok(Ok(_)) | Err(_) => Ok(()),
        Ok(Err(error)) if channel_error(&error) == Some(&AMQPSoftError::ACCESSREFUSED) => {
            Err(Failure::ProbeRefused)
        }
        Ok(Err(error)) => Err(Failure::amqp("informing the other agent with this host id")(
            error,
        )),
    }
}

/// A random time from 3/4 to 5/4 of `period`, so that a fleet's probes do not coincide.
pub(super) fn jittered(period: Duration) -> Duration {
    period.mul_f64(0.75 + fastrand::f64() / 2.0)
}
