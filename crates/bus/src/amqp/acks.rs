//! Acknowledgements on their way to the broker: what was acknowledged in a row is told in one.
//!
//! One is under way at a time. lapin may write two of them in either order, and the broker closes a channel that
//! acknowledges what an earlier, larger one had covered.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lapin::Channel;
use lapin::options::BasicAckOptions;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

/// What a channel has delivered and the broker does not know to be settled.
#[derive(Default)]
pub(super) struct Acks {
    /// Delivery tags: not acknowledged, or about to be given back.
    open: BTreeSet<u64>,
    /// Acknowledged here; to be told.
    acked: BTreeSet<u64>,
    /// When the first of them must be told.
    due: Option<Instant>,
    telling: Option<BoxFuture<'static, lapin::Result<()>>>,
}

/// What acknowledgements may wait for.
pub(super) struct Company<'a> {
    /// Told when a message is on its way out.
    pub(super) outgoing: &'a Notify,
    pub(super) patience: Duration,
}

impl Acks {
    pub(super) fn received(&mut self, tag: u64) {
        self.open.insert(tag);
    }

    pub(super) fn acked(&mut self, tag: u64) {
        self.open.remove(&tag);
        self.acked.insert(tag);
    }

    /// What is acknowledged is told at once: there will be no answer for it to travel with.
    pub(super) fn hurry(&mut self) {
        self.due = Some(Instant::now());
    }

    /// The broker was told that this one comes back to it.
    pub(super) fn returned(&mut self, tag: u64) {
        self.open.remove(&tag);
    }

    /// What can be told next: up to which message, and whether all before it are settled with it.
    fn take(&mut self) -> Option<(u64, bool)> {
        let first_open = self.open.first().copied().unwrap_or(u64::MAX);
        let Some(last) = self.acked.range(..first_open).next_back().copied() else {
            // Behind one that is still open: alone.
            return self.acked.pop_first().map(|tag| (tag, false));
        };
        self.acked = self.acked.split_off(&(last + 1));
        Some((last, true))
    }

    pub(super) fn is_settled(&self) -> bool {
        self.acked.is_empty() && self.telling.is_none()
    }

    /// Returns when what is to be told has had its time to find company; never, where there is nothing to tell.
    /// Cancel-safe.
    async fn is_due(&mut self, company: &Company<'_>) {
        if self.acked.is_empty() {
            return std::future::pending().await;
        }
        if company.patience.is_zero() {
            return;
        }
        let due = *self.due.get_or_insert_with(|| Instant::now() + company.patience);
        let late = async {
            // The answer is mostly on its way before all tasks have had their turn: no timer for that.
            yield_now().await;
            sleep_until(due).await;
        };
        // Told or late: it goes. Listening begins with the first poll, before the turn of the others.
        tokio::select! {
            biased;
            () = company.outgoing.notified() => {}
            () = late => {}
        }
        self.due = None;
    }

    /// Tells the broker of what can be told, over the channel that it came by; returns when it was told of some, never
    /// where there is nothing to tell. Cancel-safe.
    pub(super) async fn tell(&mut self, channel: &Channel, company: &Company<'_>) -> lapin::Result<()> {
        if self.telling.is_none() {
            self.is_due(company).await;
            self.telling = self.take().map(|(tag, multiple)| {
                let channel = channel.clone();
                async move { channel.basic_ack(tag, BasicAckOptions { multiple }).await }.boxed()
            });
        }
        match &mut self.telling {
            Some(telling) => {
                let told = telling.await;
                self.telling = None;
                told
            }
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_settled_up_to_a_message_is_told_in_one() {
        let mut acks = Acks::default();
        (1..=8).for_each(|tag| acks.received(tag));
        assert_eq!(acks.take(), None);
        [3, 1, 2].into_iter().for_each(|tag| acks.acked(tag));
        assert_eq!(acks.take(), Some((3, true)));
        assert_eq!(acks.take(), None);
        // 4 is still open, so each behind it is told alone.
        [6, 5].into_iter().for_each(|tag| acks.acked(tag));
        assert_eq!(acks.take(), Some((5, false)));
        assert_eq!(acks.take(), Some((6, false)));
        // 4 goes back to the broker: what comes after it is a row again.
        acks.returned(4);
        [8, 7].into_iter().for_each(|tag| acks.acked(tag));
        assert_eq!(acks.take(), Some((8, true)));
        assert_eq!(acks.take(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_acknowledgement_waits_for_company_and_not_for_long() {
        let outgoing = Notify::new();
        let patience = Duration::from_millis(5);
        let company = Company {
            outgoing: &outgoing,
            patience,
        };
        let mut acks = Acks::default();
        // Nothing to tell: never.
        assert_eq!(acks.is_due(&company).now_or_never(), None);
        acks.received(1);
        acks.acked(1);
        assert_eq!(acks.is_due(&company).now_or_never(), None);
        outgoing.notify_waiters();
        // Nobody was waiting just then.
        assert_eq!(acks.is_due(&company).now_or_never(), None);
        let began = Instant::now();
        let (due, ()) = tokio::join!(acks.is_due(&company).map(|()| began.elapsed()), async {
            tokio::time::sleep(patience / 5).await;
            outgoing.notify_waiters();
        });
        assert_eq!(due, patience / 5, "it goes with the message");

        // Alone, when its time is over; which does not begin anew with each look.
        let began = Instant::now();
        for _ in 0..100 {
            let look = patience / 10;
            if tokio::time::timeout(look, acks.is_due(&company)).await.is_ok() {
                break;
            }
        }
        assert_eq!(began.elapsed(), patience);

        let impatient = Company {
            outgoing: &outgoing,
            patience: Duration::ZERO,
        };
        assert_eq!(acks.is_due(&impatient).now_or_never(), Some(()));
    }
}
