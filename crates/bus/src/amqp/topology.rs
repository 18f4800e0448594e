//! Exchange, queue and bindings: used as they are, or declared (docs/protocol.md).

use std::collections::BTreeSet;
use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::AMQPSoftError;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ExchangeKind};
use protocol::topic::EXCHANGE;
use tokio::sync::watch;

use super::failure::{Failure, answered, channel_error};
use crate::Queue;

/// Declares exchange and queue. A refused declaration closes its channel, so the next one needs a
/// new channel.
pub(super) struct Topology<'a> {
    pub(super) connection: &'a Connection,
    pub(super) answer_limit: Duration,
    pub(super) queue: &'a Queue,
}

impl Topology<'_> {
    pub(super) async fn open_channel(&self) -> Result<Channel, Failure> {
        let doing = "opening a channel";
        answered(
            self.connection,
            self.answer_limit,
            doing,
            self.connection.create_channel(),
        )
        .await?
        .map_err(Failure::amqp(doing))
    }

    /// Makes sure that the exchange and the queue exist. Returns an open channel.
    pub(super) async fn declare(&self) -> Result<Channel, Failure> {
        let channel = self.declare_exchange().await?;
        self.declare_queue(channel).await
    }

    async fn declare_exchange(&self) -> Result<Channel, Failure> {
        let channel = self.open_channel().await?;
        match self.exchange(&channel, true).await? {
            Ok(()) => return Ok(channel),
            Err(error) if channel_error(&error) == Some(&AMQPSoftError::NOTFOUND) => {}
            Err(error) => return Err(Failure::amqp("looking for the exchange")(error)),
        }
        let channel = self.open_channel().await?;
        match self.exchange(&channel, false).await? {
            Ok(()) => Ok(channel),
            Err(error) => match channel_error(&error) {
                Some(AMQPSoftError::ACCESSREFUSED) => Err(Failure::NoExchange { exchange: EXCHANGE }),
                // Another program has just declared it in another way: the next attempt finds it.
                _ => Err(Failure::amqp("declaring the exchange")(error)),
            },
        }
    }

    async fn exchange(&self, channel: &Channel, passive: bool) -> Result<lapin::Result<()>, Failure> {
        let options = ExchangeDeclareOptions {
            passive,
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let call = channel.exchange_declare(
            EXCHANGE.into(),
            ExchangeKind::Direct,
            options,
            FieldTable::default(),
        );
        answered(self.connection, self.answer_limit, "declaring the exchange", call).await
    }

    async fn declare_queue(&self, channel: Channel) -> Result<Channel, Failure> {
        let error = match self.queue(&channel, false).await? {
            Ok(()) => return Ok(channel),
            Err(error) => error,
        };
        let refused = match channel_error(&error) {
            Some(AMQPSoftError::PRECONDITIONFAILED) => false,
            Some(AMQPSoftError::ACCESSREFUSED) => true,
            _ => return Err(Failure::amqp("declaring the queue")(error)),
        };
        let channel = self.open_channel().await?;
        match self.queue(&channel, true).await? {
            Ok(()) => {
                tracing::debug!(
                    queue = self.queue.name,
                    refused,
                    "using the existing queue as it is"
                );
                Ok(channel)
            }
            Err(error) if refused && channel_error(&error) == Some(&AMQPSoftError::NOTFOUND) => {
                Err(Failure::NoQueue {
                    queue: self.queue.name.clone(),
                })
            }
            Err(error) => Err(Failure::amqp("looking for the queue")(error)),
        }
    }

    async fn queue(&self, channel: &Channel, passive: bool) -> Result<lapin::Result<()>, Failure> {
        let options = QueueDeclareOptions {
            passive,
            durable: self.queue.durable,
            ..QueueDeclareOptions::default()
        };
        let mut arguments = FieldTable::default();
        if let Some(expires) = self.queue.expires {
            // RabbitMQ accepts at most 49 days. The integer type matters when arguments are
            // compared.
            let millis = i32::try_from(expires.as_millis()).unwrap_or(i32::MAX);
            arguments.insert("x-expires".into(), AMQPValue::LongInt(millis));
        }
        let call = channel.queue_declare(self.queue.name.as_str().into(), options, arguments);
        Ok(
            answered(self.connection, self.answer_limit, "declaring the queue", call)
                .await?
                .map(|_| ()),
        )
    }
}

/// The bindings of one consumed queue: the fixed ones and the current [`crate::Link::topics`].
pub(super) struct Bindings<'a> {
    queue: &'a Queue,
    channel: Channel,
    bound: BTreeSet<String>,
}

impl<'a> Bindings<'a> {
    pub(super) fn new(queue: &'a Queue, channel: Channel) -> Self {
        Self {
            queue,
            channel,
            bound: BTreeSet::new(),
        }
    }

    /// Binds and unbinds until the bindings match `topics`.
    pub(super) async fn apply(
        &mut self,
        topics: &mut watch::Receiver<BTreeSet<String>>,
    ) -> Result<(), Failure> {
        let mut wanted = self.queue.topics.clone();
        wanted.extend(topics.borrow_and_update().iter().cloned());
        for key in wanted.difference(&self.bound) {
            self.bind(key).await?;
        }
        for key in self.bound.difference(&wanted) {
            self.channel
                .queue_unbind(
                    self.queue.name.as_str().into(),
                    EXCHANGE.into(),
                    key.as_str().into(),
                    FieldTable::default(),
                )
                .await
                .map_err(Failure::amqp("unbinding the queue"))?;
        }
        self.bound = wanted;
        Ok(())
    }

    /// Binds everything again. Existing bindings stay as they are.
    pub(super) async fn renew(&self) -> Result<(), Failure> {
        for key in &self.bound {
            self.bind(key).await?;
        }
        Ok(())
    }

    async fn bind(&self, key: &str) -> Result<(), Failure> {
        self.channel
            .queue_bind(
                self.queue.name.as_str().into(),
                EXCHANGE.into(),
                key.into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .map_err(Failure::amqp("binding the queue"))
    }
}
