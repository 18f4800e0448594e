//! Notices a connection that is dead without having been closed.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::Event;
use tokio::time::{Instant, sleep_until};

use super::connect::Wire;
use super::failure::Failure;
use crate::slack;

/// Ends when the broker has sent nothing for 1.75 heartbeats, where a live one sends something at least
/// every half. lapin's own check looks only every half heartbeat, and so may take 2.5.
pub(super) async fn watch(wire: &Wire) -> Failure {
    let connection = &wire.connection;
    let heartbeat = Duration::from_secs(connection.configuration().heartbeat().into());
    let limit = heartbeat * 7 / 4;
    let mut events = std::pin::pin!(connection.events_listener());
    loop {
        let silence = wire.last_read.silence();
        if silence >= limit {
            return Failure::Silent;
        }
        tokio::select! {
            // Early rather than late: where the broker was heard of meanwhile, as it should, it makes no difference.
            () = sleep_until(slack::not_after(Instant::now() + limit - silence)) => {}
            event = events.next() => match event {
                Some(Event::ConnectionBlocked(reason)) => {
                    tracing::warn!(reason, "the broker takes no messages for now; statuses wait");
                }
                Some(Event::ConnectionUnblocked) => tracing::info!("the broker takes messages again"),
                // Also said of single channels, whose users see to it themselves.
                Some(Event::Error(_)) if connection.status().connected() => {}
                Some(Event::Error(source)) => return Failure::Amqp { doing: "connection lost", source },
                Some(Event::Connected | Event::SendFlow(_)) => {}
                Some(_) => {}
                None => return Failure::Closed,
            }
        }
    }
}
