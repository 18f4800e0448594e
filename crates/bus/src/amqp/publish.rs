//! Messages out: mandatory, confirmed, in order, many under way at a time.

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

/// Messages sent and not yet confirmed. Bounds memory; a master reaches it, an agent sends one at a time.
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
        answered(topology.connection, topology.patience, doing, call)
            .await?
            .map_err(Failure::amqp(doing))?;
        Ok(Self { channel, user_id })
    }

    /// What comes with each message. RabbitMQ checks that `user_id` is who we logged in as.
    pub(super) fn properties(&self) -> BasicProperties {
        match &self.user_id {
            Some(user_id) => BasicProperties::default().with_user_id(user_id.as_str().into()),
            None => BasicProperties::default(),
        }
    }

    /// Sends one message and waits for what becomes of it. An outer error means that the channel is gone.
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
            // The broker has acknowledged it, and returned it: `is_ack()` would be true.
            Confirmation::Ack(Some(_returned)) => Err(PublishError::Unroutable),
            Confirmation::Nack(_) | Confirmation::NotRequested => Err(PublishError::Refused),
        })
    }

    async fn carry_out(&self, outgoing: Outgoing) -> lapin::Result<()> {
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

    /// Publishes what comes through `outbox` until the channel fails, or the broker confirms nothing for `patience`. What is
    /// under way then is told [`PublishError::Disconnected`]: it may have arrived, or not. `on_its_way` is told of each.
    pub(super) async fn run(
        &self,
        outbox: &mut mpsc::Receiver<Outgoing>,
        connection: &Connection,
        patience: Duration,
        on_its_way: &Notify,
    ) -> Failure {
        let mut unconfirmed = FuturesUnordered::new();
        let mut open = true;
        let mut deadline = Instant::now() + patience;
        loop {
            if !open && unconfirmed.is_empty() {
                // All publishers are gone; the link lives on for its deliveries.
                return pending().await;
            }
            tokio::select! {
                Some(result) = unconfirmed.next() => {
                    deadline = Instant::now() + patience;
                    if let Err(error) = result {
                        return Failure::amqp("publishing")(error);
                    }
                }
                outgoing = outbox.recv(), if open && unconfirmed.len() < UNCONFIRMED_MAX => match outgoing {
                    Some(outgoing) => {
                        if unconfirmed.is_empty() {
                            deadline = Instant::now() + patience;
                        }
                        unconfirmed.push(self.carry_out(outgoing));
                        // Who hears of it runs in the same task, after the next round has given it to lapin.
                        on_its_way.notify_waiters();
                    }
                    None => open = false,
                },
                () = sleep_until(deadline), if !unconfirmed.is_empty() => {
                    if !connection.status().blocked() {
                        return Failure::Unconfirmed { seconds: patience.as_secs() };
                    }
                    deadline = Instant::now() + patience;
                }
            }
        }
    }
}
