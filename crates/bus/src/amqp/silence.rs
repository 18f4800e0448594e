//! Detects a connection that is dead but was not closed.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::Event;
use tokio::time::{Instant, sleep_until};

use super::connect::Wire;
use super::failure::Failure;
use crate::slack;

/// Ends when the broker has sent nothing for 1.75 heartbeats. A working broker sends something at
/// least every half heartbeat. lapin's own check may take 2.5 heartbeats, because it runs only
/// every half heartbeat.
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
            // Early rather than late: if data has arrived meanwhile, the loop waits again.
            () = sleep_until(slack::not_after(Instant::now() + limit - silence)) => {}
            event = events.next() => match event {
                Some(Event::ConnectionBlocked(reason)) => {
                    tracing::warn!(reason, "the broker blocks publishers; outgoing messages wait");
                }
                Some(Event::ConnectionUnblocked) => tracing::info!("the broker accepts messages again"),
                // Also sent for errors of single channels, which their users handle.
                Some(Event::Error(_)) if connection.status().connected() => {}
                Some(Event::Error(source)) => return Failure::Amqp { doing: "connection lost", source },
                Some(Event::Connected | Event::SendFlow(_)) => {}
                Some(_) => {}
                None => return Failure::Closed,
            }
        }
    }
}
