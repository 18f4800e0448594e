//! How often drift may wake the engine: a token bucket for each thing that changes, and one for the
//! host.

use std::time::Duration;

use tokio::time::Instant;

/// Wake-ups without a delay. A repair causes two: the second is for its own changes.
pub(super) const BURST: u32 = 10;
/// After them, one in this time: a service that keeps failing costs little.
const EVERY: Duration = Duration::from_secs(5);
/// The same for the whole host, if many things change.
const HOST_BURST: u32 = 20;
const HOST_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Pace {
    burst: u32,
    every: Duration,
    tokens: u32,
    /// When the last token was added.
    filled: Instant,
}

impl Pace {
    pub(super) fn of_one(now: Instant) -> Self {
        Self::new(BURST, EVERY, now)
    }

    pub(super) fn of_host(now: Instant) -> Self {
        Self::new(HOST_BURST, HOST_EVERY, now)
    }

    fn new(burst: u32, every: Duration, now: Instant) -> Self {
        Self {
            burst,
            every,
            tokens: burst,
            filled: now,
        }
    }

    /// The first instant at or after `wanted` with a token.
    pub(super) fn next(&self, wanted: Instant) -> Instant {
        match self.tokens {
            0 => wanted.max(self.filled + self.every),
            _ => wanted,
        }
    }

    /// Takes a token. [`Self::next`] must have allowed `now`.
    pub(super) fn take(&mut self, now: Instant) {
        self.fill(now);
        if self.tokens >= self.burst {
            // A full bucket begins to fill when a token is taken.
            self.filled = now;
        }
        self.tokens = self.tokens.saturating_sub(1);
    }

    /// Whether it is as a new one.
    pub(super) fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.tokens >= self.burst
    }

    fn fill(&mut self, now: Instant) {
        while self.tokens < self.burst && now >= self.filled + self.every {
            self.tokens += 1;
            self.filled += self.every;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_then_it_is_one_token_at_a_time() {
        let start = Instant::now();
        let mut pace = Pace::of_one(start);
        for _ in 0..BURST {
            assert_eq!(pace.next(start), start);
            pace.take(start);
        }
        for n in 1..20 {
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
        assert!(!pace.is_full(later + EVERY * (BURST - 1)));
        assert!(pace.is_full(later + EVERY * BURST));
    }
}
