//! How often drift may wake the reconciler: a token bucket.

use std::time::Duration;

use tokio::time::Instant;

/// Wake-ups that may follow each other at once.
pub(super) const BURST: u32 = 5;
/// After that, one in each of these. A service that fails again and again thus costs little.
const EVERY: Duration = Duration::from_secs(5);

pub(super) struct Pace {
    tokens: u32,
    /// When the last whole token came.
    filled: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            tokens: BURST,
            filled: now,
        }
    }

    /// The first instant at or after `wanted` at which a token is there.
    pub(super) fn next(&self, wanted: Instant) -> Instant {
        match self.tokens {
            0 => wanted.max(self.filled + EVERY),
            _ => wanted,
        }
    }

    /// Takes a token, which [`Self::next`] has promised for `now`.
    pub(super) fn take(&mut self, now: Instant) {
        while self.tokens < BURST && now >= self.filled + EVERY {
            self.tokens += 1;
            self.filled += EVERY;
        }
        if self.tokens >= BURST {
            // A full bucket begins to fill when something is taken.
            self.filled = now;
        }
        self.tokens = self.tokens.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_then_it_is_one_token_at_a_time() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        for _ in 0..BURST {
            assert_eq!(pace.next(start), start);
            pace.take(start);
        }
        for n in 1..10 {
            assert_eq!(pace.next(start), start + EVERY * n);
            pace.take(start + EVERY * n);
        }
        // Rest fills the bucket, but only to its brim.
        let later = start + EVERY * 1000;
        for _ in 0..BURST {
            assert_eq!(pace.next(later), later);
            pace.take(later);
        }
        assert_eq!(pace.next(later), later + EVERY);
    }
}
