//! Receives messages, delivers them in order, and acknowledges or returns each as its receiver
//! decides.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery as Received;
use lapin::options::{BasicConsumeOptions, BasicNackOptions, BasicQosOptions};
use lapin::protocol::AMQPSoftError;
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::acks::{AckDelay, Acks};
use super::activity::Activity;
use super::failure::{Failure, answered, channel_error};
use super::probe::Probe;
use super::topology::Topology;
use crate::{Delivery, Queue};

/// Time limit for sending the remaining acknowledgements when the link is dropped.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// The broker's answer to the request to consume.
pub(super) enum ConsumeAnswer {
    Consuming(Consumer),
    /// Another consumer has the queue, or the broker does not know yet that it is dead. The channel
    /// is closed.
    Refused,
}

pub(super) async fn start(topology: &Topology<'_>, channel: &Channel) -> Result<ConsumeAnswer, Failure> {
    let queue = topology.queue;
    let doing = "starting to consume";
    let options = BasicConsumeOptions {
        exclusive: queue.exclusive_consumer,
        ..BasicConsumeOptions::default()
    };
    let call = async {
        channel
            .basic_qos(queue.prefetch.max(1), BasicQosOptions::default())
            .await?;
        channel
            .basic_consume(
                queue.name.as_str().into(),
                "".into(),
                options,
                FieldTable::default(),
            )
            .await
    };
    match answered(topology.connection, topology.answer_limit, doing, call).await? {
        Ok(consumer) => Ok(ConsumeAnswer::Consuming(consumer)),
        // A missing permission has the same code; only the text is different.
        Err(error)
            if channel_error(&error) == Some(&AMQPSoftError::ACCESSREFUSED)
                && error.to_string().contains("exclusive") =>
        {
            Ok(ConsumeAnswer::Refused)
        }
        Err(error) => Err(Failure::amqp(doing)(error)),
    }
}

/// Why consuming ended.
pub(super) enum ConsumeEnd {
    /// The link was dropped. Its acknowledgements have been passed to lapin.
    Dropped,
    Failed(Failure),
}

impl From<Failure> for ConsumeEnd {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Delivers what `consumer` receives over `channel`, until it fails or `deliveries` is dropped.
pub(super) async fn run(
    channel: &Channel,
    mut consumer: Consumer,
    queue: &Queue,
    deliveries: &mpsc::Sender<Delivery>,
    activity: &Activity,
    probe: &Probe,
) -> ConsumeEnd {
    let mut settling = FuturesUnordered::new();
    let mut acks = Acks::default();
    let ack_delay = AckDelay {
        outgoing: &activity.outgoing,
        longest: queue.ack_patience,
    };
    // One message for which `deliveries` has no room. Happens only after a reconnect, while
    // `deliveries` still contains messages of the previous connection.
    let mut waiting: Option<Received> = None;
    loop {
        // Takes all decisions that are ready, so that consecutive messages are acknowledged
        // together.
        while let Some(Some(settled)) = settling.next().now_or_never() {
            if let Err(error) = record(settled, &mut acks) {
                return Failure::amqp("returning a message")(error).into();
            }
        }
        let unsettled = settling.len() + usize::from(!acks.is_settled());
        activity.unsettled.store(unsettled, Ordering::Relaxed);
        tokio::select! {
            () = deliveries.closed() => {
                // Sends the remaining acknowledgements. Other messages are requeued when the
                // connection closes.
                let _ = timeout(FLUSH_LIMIT, flush(channel, settling, acks)).await;
                return ConsumeEnd::Dropped;
            }
            sent = acks.send(channel, &ack_delay) => {
                if let Err(error) = sent {
                    return Failure::amqp("acknowledging")(error).into();
                }
            }
            Some(settled) = settling.next() => {
                if let Err(error) = record(settled, &mut acks) {
                    return Failure::amqp("returning a message")(error).into();
                }
            }
            permit = deliveries.reserve(), if waiting.is_some() => {
                if let (Ok(permit), Some(received)) = (permit, waiting.take()) {
                    let (delivery, settle) = split(received);
                    permit.send(delivery);
                    settling.push(settle.boxed());
                }
            }
            received = consumer.next(), if waiting.is_none() => match received {
                Some(Ok(received)) => {
                    activity.proven.store(true, Ordering::Relaxed);
                    acks.received(received.delivery_tag);
                    if probe.recognise(&received) {
                        acks.acked(received.delivery_tag);
                        acks.send_now();
                    } else {
                        waiting = Some(received);
                    }
                }
                Some(Err(error)) => return Failure::amqp("consuming")(error).into(),
                None => return Failure::Cancelled { queue: queue.name.clone() }.into(),
            },
        }
    }
}

/// What the receiver decided about a message.
enum Settled {
    Acked(u64),
    Returned(u64, lapin::Result<()>),
}

fn record(settled: Settled, acks: &mut Acks) -> lapin::Result<()> {
    match settled {
        Settled::Acked(tag) => acks.acked(tag),
        Settled::Returned(tag, result) => {
            result?;
            acks.returned(tag);
        }
    }
    Ok(())
}

/// Sends all acknowledgements and returns all other messages.
async fn flush(
    channel: &Channel,
    mut settling: FuturesUnordered<impl Future<Output = Settled>>,
    mut acks: Acks,
) {
    let no_delay = AckDelay {
        outgoing: &Notify::new(),
        longest: Duration::ZERO,
    };
    while !settling.is_empty() || !acks.is_settled() {
        let result = tokio::select! {
            sent = acks.send(channel, &no_delay) => sent,
            Some(settled) = settling.next() => record(settled, &mut acks),
        };
        if result.is_err() {
            return;
        }
    }
}

/// Splits a message into the delivery for its receiver and a future that waits for the decision.
fn split(received: Received) -> (Delivery, impl Future<Output = Settled>) {
    let (acker, acked) = oneshot::channel();
    let user_id = received
        .properties
        .user_id()
        .as_ref()
        .map(|id| id.as_str().to_owned());
    let redelivered = received.redelivered;
    let delivery = Delivery::new(received.routing_key.as_str().to_owned(), received.data, acker)
        .from_user(user_id)
        .redelivered(redelivered);
    let settle = async move {
        if acked.await.is_ok() {
            return Settled::Acked(received.delivery_tag);
        }
        // Pause before a repeated return: the receiver may drop the message again.
        if redelivered {
            sleep(Duration::from_secs(1)).await;
        }
        let requeue = BasicNackOptions {
            requeue: true,
            ..BasicNackOptions::default()
        };
        let returned = received.acker.nack(requeue).await.map(|_| ());
        Settled::Returned(received.delivery_tag, returned)
    };
    (delivery, settle)
}
