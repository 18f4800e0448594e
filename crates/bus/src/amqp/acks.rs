//! Sends acknowledgements to the broker. Consecutive messages are acknowledged together.
//!
//! Only one is being sent at a time: lapin may reorder two, and the broker closes a channel that
//! acknowledges a message twice.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lapin::Channel;
use lapin::options::BasicAckOptions;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

/// The messages of one channel that the broker still counts as unacknowledged.
#[derive(Default)]
pub(super) struct Acks {
    /// Delivery tags of messages that are neither acknowledged nor returned.
    open: BTreeSet<u64>,
    /// Delivery tags of messages whose acknowledgement is not sent yet.
    acked: BTreeSet<u64>,
    /// When the first of them must be sent.
    due: Option<Instant>,
    sending: Option<BoxFuture<'static, lapin::Result<()>>>,
}

/// How long acknowledgements may be delayed, so that they are sent together with an outgoing
/// message.
pub(super) struct AckDelay<'a> {
    /// Notified when a message is about to be published.
    pub(super) outgoing: &'a Notify,
    pub(super) longest: Duration,
}

impl Acks {
    pub(super) fn received(&mut self, tag: u64) {
        self.open.insert(tag);
    }

    pub(super) fn acked(&mut self, tag: u64) {
        self.open.remove(&tag);
        self.acked.insert(tag);
    }

    /// Sends without delay: the message will not be answered.
    pub(super) fn send_now(&mut self) {
        self.due = Some(Instant::now());
    }

    /// The message was returned to the broker.
    pub(super) fn returned(&mut self, tag: u64) {
        self.open.remove(&tag);
    }

    /// The next acknowledgement: a delivery tag, and whether it includes all earlier messages.
    fn take(&mut self) -> Option<(u64, bool)> {
        let first_open = self.open.first().copied().unwrap_or(u64::MAX);
        let Some(last) = self.acked.range(..first_open).next_back().copied() else {
            // An earlier message is still open, so this one is acknowledged alone.
            return self.acked.pop_first().map(|tag| (tag, false));
        };
        self.acked = self.acked.split_off(&(last + 1));
        Some((last, true))
    }

    pub(super) fn is_settled(&self) -> bool {
        self.acked.is_empty() && self.sending.is_none()
    }

    /// Returns when an acknowledgement must be sent; never if there is none. Cancel-safe.
    async fn is_due(&mut self, delay: &AckDelay<'_>) {
        if self.acked.is_empty() {
            return std::future::pending().await;
        }
        if delay.longest.is_zero() {
            return;
        }
        let due = *self.due.get_or_insert_with(|| Instant::now() + delay.longest);
        let late = async {
            // The answer usually comes before all other tasks have run once, so no timer is set
            // before.
            yield_now().await;
            sleep_until(due).await;
        };
        // Biased: `notified` must be polled first, so that it is registered before other tasks run.
        tokio::select! {
            biased;
            () = delay.outgoing.notified() => {}
            () = late => {}
        }
        self.due = None;
    }

    /// Sends the next acknowledgement over `channel` and returns when it is sent; never returns if
    /// there is none. Cancel-safe.
    pub(super) async fn send(&mut self, channel: &Channel, delay: &AckDelay<'_>) -> lapin::Result<()> {
        if self.sending.is_none() {
            self.is_due(delay).await;
            self.sending = self.take().map(|(tag, multiple)| {
                let channel = channel.clone();
                async move { channel.basic_ack(tag, BasicAckOptions { multiple }).await }.boxed()
            });
        }
        match &mut self.sending {
            Some(sending) => {
                let sent = sending.await;
                self.sending = None;
                sent
            }
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_consecutive_messages_are_acknowledged_together() {
        let mut acks = Acks::default();
        (1..=8).for_each(|tag| acks.received(tag));
        assert_eq!(acks.take(), None);
        [3, 1, 2].into_iter().for_each(|tag| acks.acked(tag));
        assert_eq!(acks.take(), Some((3, true)));
        assert_eq!(acks.take(), None);
        // 4 is still open, so each later message is acknowledged alone.
        [6, 5].into_iter().for_each(|tag| acks.acked(tag));
        assert_eq!(acks.take(), Some((5, false)));
        assert_eq!(acks.take(), Some((6, false)));
        // 4 is returned to the broker: 7 and 8 are consecutive again.
        acks.returned(4);
        [8, 7].into_iter().for_each(|tag| acks.acked(tag));
        assert_eq!(acks.take(), Some((8, true)));
        assert_eq!(acks.take(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_acknowledgement_waits_for_an_outgoing_message_but_not_for_long() {
        let outgoing = Notify::new();
        let longest = Duration::from_millis(5);
        let delay = AckDelay {
            outgoing: &outgoing,
            longest,
        };
        let mut acks = Acks::default();
        // Nothing to send: never due.
        assert_eq!(acks.is_due(&delay).now_or_never(), None);
        acks.received(1);
        acks.acked(1);
        assert_eq!(acks.is_due(&delay).now_or_never(), None);
        outgoing.notify_waiters();
        // Nothing was waiting at that moment.
        assert_eq!(acks.is_due(&delay).now_or_never(), None);
        let began = Instant::now();
        let (due, ()) = tokio::join!(acks.is_due(&delay).map(|()| began.elapsed()), async {
            tokio::time::sleep(longest / 5).await;
            outgoing.notify_waiters();
        });
        assert_eq!(due, longest / 5, "it is sent with the message");

        // Alone, after the longest delay, which does not begin anew with each call.
        let began = Instant::now();
        for _ in 0..100 {
            let limit = longest / 10;
            if tokio::time::timeout(limit, acks.is_due(&delay)).await.is_ok() {
                break;
            }
        }
        assert_eq!(began.elapsed(), longest);

        let no_delay = AckDelay {
            outgoing: &outgoing,
            longest: Duration::ZERO,
        };
        assert_eq!(acks.is_due(&no_delay).now_or_never(), Some(()));
    }
}
