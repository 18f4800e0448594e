//! Messages in: handed on in order, settled as their receiver says.

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

use super::acks::{Acks, Company};
use super::activity::Activity;
use super::failure::{Failure, answered, channel_error};
use super::probe::Probe;
use super::topology::Topology;
use crate::{Delivery, Queue};

/// How long acknowledgements may take to leave when the link is dropped.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How the broker answered our wish to consume.
pub(super) enum Start {
    Consuming(Consumer),
    /// Another consumer has the queue, or had it and is not yet known to be dead. The channel is closed.
    Refused,
}

pub(super) async fn start(topology: &Topology<'_>, channel: &Channel) -> Result<Start, Failure> {
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
    match answered(topology.connection, topology.patience, doing, call).await? {
        Ok(consumer) => Ok(Start::Consuming(consumer)),
        // Also the code of a missing permission; only the text tells them apart.
        Err(error)
            if channel_error(&error) == Some(&AMQPSoftError::ACCESSREFUSED)
                && error.to_string().contains("exclusive") =>
        {
            Ok(Start::Refused)
        }
        Err(error) => Err(Failure::amqp(doing)(error)),
    }
}

/// How consuming ended.
pub(super) enum Ended {
    /// The link's user dropped it; all that it had acknowledged is on its way to the broker.
    Dropped,
    Failed(Failure),
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Hands on what `consumer` receives, over `channel`, until it fails or `deliveries` is dropped.
pub(super) async fn run(
    channel: &Channel,
    mut consumer: Consumer,
    queue: &Queue,
    deliveries: &mpsc::Sender<Delivery>,
    activity: &Activity,
    probe: &Probe,
) -> Ended {
    let mut settling = FuturesUnordered::new();
    let mut acks = Acks::default();
    let company = Company {
        outgoing: &activity.outgoing,
        patience: queue.ack_patience,
    };
    // One message that has no room in `deliveries`; only after a reconnect, when the room is taken by
    // deliveries of the connection before.
    let mut waiting: Option<Received> = None;
    loop {
        // All verdicts that are there, so that those in a row are told in one.
        while let Some(Some(settled)) = settling.next().now_or_never() {
            if let Err(error) = take(settled, &mut acks) {
                return Failure::amqp("giving back")(error).into();
            }
        }
        let unsettled = settling.len() + usize::from(!acks.is_settled());
        activity.unsettled.store(unsettled, Ordering::Relaxed);
        tokio::select! {
            () = deliveries.closed() => {
                // Acknowledgements given so far, or about to be; the rest goes back when the connection closes.
                let _ = timeout(LAST_WORDS, last_words(channel, settling, acks)).await;
                return Ended::Dropped;
            }
            told = acks.tell(channel, &company) => {
                if let Err(error) = told {
                    return Failure::amqp("acknowledging")(error).into();
                }
            }
            Some(settled) = settling.next() => {
                if let Err(error) = take(settled, &mut acks) {
                    return Failure::amqp("giving back")(error).into();
                }
            }
            permit = deliveries.reserve(), if waiting.is_some() => {
                if let (Ok(permit), Some(received)) = (permit, waiting.take()) {
                    let (delivery, settle) = hand_on(received);
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
                        acks.hurry();
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

/// What became of a message.
enum Settled {
    Acked(u64),
    Returned(u64, lapin::Result<()>),
}

fn take(settled: Settled, acks: &mut Acks) -> lapin::Result<()> {
    match settled {
        Settled::Acked(tag) => acks.acked(tag),
        Settled::Returned(tag, result) => {
            result?;
            acks.returned(tag);
        }
    }
    Ok(())
}

async fn last_words(
    channel: &Channel,
    mut settling: FuturesUnordered<impl Future<Output = Settled>>,
    mut acks: Acks,
) {
    let alone = Company {
        outgoing: &Notify::new(),
        patience: Duration::ZERO,
    };
    while !settling.is_empty() || !acks.is_settled() {
        let taken = tokio::select! {
            told = acks.tell(channel, &alone) => told,
            Some(settled) = settling.next() => take(settled, &mut acks),
        };
        if taken.is_err() {
            return;
        }
    }
}

/// Splits a message into what its receiver gets and what waits for the verdict.
fn hand_on(received: Received) -> (Delivery, impl Future<Output = Settled>) {
    let (acker, verdict) = oneshot::channel();
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
        if verdict.await.is_ok() {
            return Settled::Acked(received.delivery_tag);
        }
        // Not twice in a row without a pause: whoever drops a message may drop it again.
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
