//! Publishes messages: mandatory, confirmed, in order, many at a time.

use std::future::pending;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection};
use protocol::topic::EXCHANGE;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};

use super::failure::{Failure, answered};
use super::topology::Topology;
use crate::{Outgoing, PublishError};

/// Largest number of unconfirmed messages. It limits memory. A master reaches it; an agent sends
/// one at a time.
const UNCONFIRMED_MAX: usize = 512;

/// A channel in confirm mode. Cheap to clone.
#[derive(Clone)]
pub(super) struct PublishChannel {
    channel: Channel,
    user_id: Option<String>,
}

impl PublishChannel {
    pub(super) async fn open(topology: &Topology<'_>, user_id: Option<String>) -> Result<Self, Failure> {
        let channel = topology.open_channel().await?;
        let doing = "enabling publisher confirms";
        let call = channel.confirm_select(ConfirmSelectOptions::default());
        answered(topology.connection, topology.answer_limit, doing, call)
            .await?
            .map_err(Failure::amqp(doing))?;
        Ok(Self { channel, user_id })
    }

    /// Properties of every message. RabbitMQ checks that `user_id` is the logged-in user.
    pub(super) fn properties(&self) -> BasicProperties {
        match &self.user_id {
            Some(user_id) => BasicProperties::default().with_user_id(user_id.as_str().into()),
            None => BasicProperties::default(),
        }
    }

    /// Sends one message and waits for the result. The outer error means that the channel is
    /// closed.
    pub(super) async fn publish(
        &self,
        routing_key: &str,
        body: &[u8],
        properties: BasicProperties,
    ) -> lapin::Result<Result<(), PublishError>> {
        let options = BasicPublishOptions {
            mandatory: true,
            immediate: false,
        };
        let confirm = self
            .channel
            .basic_publish(EXCHANGE.into(), routing_key.into(), options, body, properties)
            .await?;
        Ok(match confirm.await? {
            Confirmation::Ack(None) => Ok(()),
            // The broker has both returned and acknowledged it: `is_ack()` would be true.
            Confirmation::Ack(Some(_returned)) => Err(PublishError::Unroutable),
            Confirmation::Nack(_) | Confirmation::NotRequested => Err(PublishError::Refused),
        })
    }

    async fn publish_outgoing(&self, outgoing: Outgoing) -> lapin::Result<()> {
        match self
            .publish(&outgoing.routing_key, &outgoing.body, self.properties())
            .await
        {
            Ok(result) => {
                let _ = outgoing.done.send(result);
                Ok(())
            }
            Err(error) => {
                let _ = outgoing.done.send(Err(PublishError::Disconnected));
                Err(error)
            }
        }
    }

    /// Publishes the messages of `outbox` until the channel fails or the broker confirms nothing
    /// for `confirm_limit`. Unconfirmed messages then get [`PublishError::Disconnected`]: they may
    /// have arrived or not. `on_publish` is notified of each message.
    pub(super) async fn run(
        &self,
        outbox: &mut mpsc::Receiver<Outgoing>,
        connection: &Connection,
        confirm_limit: Duration,
        on_publish: &Notify,
    ) -> Failure {
        let mut unconfirmed = FuturesUnordered::new();
        let mut open = true;
        let mut deadline = Instant::now() + confirm_limit;
        loop {
            if !open && unconfirmed.is_empty() {
                // All publishers were dropped. The link continues for its deliveries.
                return pending().await;
            }
            tokio::select! {
                Some(result) = unconfirmed.next() => {
                    deadline = Instant::now() + confirm_limit;
                    if let Err(error) = result {
                        return Failure::amqp("publishing")(error);
                    }
                }
                outgoing = outbox.recv(), if open && unconfirmed.len() < UNCONFIRMED_MAX => match outgoing {
                    Some(outgoing) => {
                        if unconfirmed.is_empty() {
                            deadline = Instant::now() + confirm_limit;
                        }
                        unconfirmed.push(self.publish_outgoing(outgoing));
                        // The waiter runs in the same task, after the next iteration has passed the
                        // message to lapin.
                        on_publish.notify_waiters();
                    }
                    None => open = false,
                },
                () = sleep_until(deadline), if !unconfirmed.is_empty() => {
                    if !connection.status().blocked() {
                        return Failure::Unconfirmed { seconds: confirm_limit.as_secs() };
                    }
                    deadline = Instant::now() + confirm_limit;
                }
            }
        }
    }
}
