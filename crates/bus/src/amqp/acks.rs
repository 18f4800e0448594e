//! Acknowledgements on their way to the broker: what was acknowledged in a row is told in one.
//!
//! One is under way at a time. lapin may write two of them in either order, and the broker closes a channel that
//! acknowledges what an earlier, larger one had covered.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lapin::Acker;
use lapin::options::BasicAckOptions;

/// What a channel has delivered and the broker does not know to be settled.
pub(super) struct Acks<A = Acker> {
    /// Not acknowledged, or about to be given back.
    open: BTreeSet<u64>,
    /// Acknowledged here, by delivery tag; to be told.
    acked: BTreeMap<u64, A>,
    telling: Option<BoxFuture<'static, lapin::Result<()>>>,
}

impl<A> Default for Acks<A> {
    fn default() -> Self {
        Self {
            open: BTreeSet::new(),
            acked: BTreeMap::new(),
            telling: None,
        }
    }
}

impl<A> Acks<A> {
    pub(super) fn received(&mut self, tag: u64) {
        self.open.insert(tag);
    }

    pub(super) fn acked(&mut self, tag: u64, acker: A) {
        self.open.remove(&tag);
        self.acked.insert(tag, acker);
    }

    /// The broker was told that this one comes back to it.
    pub(super) fn returned(&mut self, tag: u64) {
        self.open.remove(&tag);
    }

    /// What can be told next: up to which message, and whether all before it are settled with it.
    fn take(&mut self) -> Option<(A, bool)> {
        let first_open = self.open.first().copied().unwrap_or(u64::MAX);
        let Some(last) = self.acked.range(..first_open).next_back().map(|(tag, _)| *tag) else {
            // Behind one that is still open: alone.
            return self.acked.pop_first().map(|(_, acker)| (acker, false));
        };
        let beyond = self.acked.split_off(&(last + 1));
        let settled = std::mem::replace(&mut self.acked, beyond);
        settled.into_values().next_back().map(|acker| (acker, true))
    }
}

impl Acks {
    pub(super) fn is_settled(&self) -> bool {
        self.acked.is_empty() && self.telling.is_none()
    }

    /// Tells the broker of what can be told; returns when it was told of some, never where there is nothing to tell.
    /// Cancel-safe.
    pub(super) async fn tell(&mut self) -> lapin::Result<()> {
        if self.telling.is_none() {
            self.telling = self.take().map(|(acker, multiple)| {
                async move { acker.ack(BasicAckOptions { multiple }).await.map(|_| ()) }.boxed()
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
        [3, 1, 2].into_iter().for_each(|tag| acks.acked(tag, tag));
        assert_eq!(acks.take(), Some((3, true)));
        assert_eq!(acks.take(), None);
        // 4 is still open, so each behind it is told alone.
        [6, 5].into_iter().for_each(|tag| acks.acked(tag, tag));
        assert_eq!(acks.take(), Some((5, false)));
        assert_eq!(acks.take(), Some((6, false)));
        // 4 goes back to the broker: what comes after it is a row again.
        acks.returned(4);
        [8, 7].into_iter().for_each(|tag| acks.acked(tag, tag));
        assert_eq!(acks.take(), Some((8, true)));
        assert_eq!(acks.take(), None);
    }
}
