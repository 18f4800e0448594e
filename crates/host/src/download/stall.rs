//! Tells when a transfer stalls.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Samples a transfer's byte count, and tells when it has grown too little for too long.
pub struct StallWatch {
    /// Times and byte counts of the last `limit`, oldest first.
    samples: VecDeque<(Instant, u64)>,
    limit: Duration,
    /// Fewer bytes than this within `limit` are a stall.
    least: u64,
}

impl StallWatch {
    /// A stall: fewer than `min_rate` bytes a second for `limit`; if it is 0, no byte at all.
    pub fn new(limit: Duration, min_rate: u64, now: Instant) -> Self {
        Self {
            samples: VecDeque::from([(now, 0)]),
            limit,
            least: min_rate.saturating_mul(limit.as_secs().max(1)).max(1),
        }
    }

    /// `received`: all bytes so far.
    pub fn is_stalled(&mut self, now: Instant, received: u64) -> bool {
        self.samples.push_back((now, received));
        // Keeps one sample that is `limit` old, for comparison.
        while let Some((second, _)) = self.samples.get(1)
            && now.duration_since(*second) >= self.limit
        {
            self.samples.pop_front();
        }
        self.samples.front().is_some_and(|(oldest, before)| {
            now.duration_since(*oldest) >= self.limit && received - before < self.least
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second at which a transfer with these bytes in each second counts as stalled.
    fn stalls_at(min_rate: u64, bytes: impl IntoIterator<Item = u64>) -> Option<usize> {
        let start = Instant::now();
        let mut watch = StallWatch::new(Duration::from_secs(10), min_rate, start);
        let mut received = 0;
        bytes.into_iter().enumerate().position(|(second, bytes)| {
            received += bytes;
            watch.is_stalled(start + Duration::from_secs(second as u64 + 1), received)
        })
    }

    #[test]
    fn silence_slowness_and_bursts() {
        assert_eq!(stalls_at(1024, [0; 60]), Some(9), "silence ends at the limit");
        assert_eq!(stalls_at(1024, [1; 60]), Some(9), "1 byte a second, too");
        assert_eq!(stalls_at(1024, [1024; 60]), None);
        assert_eq!(stalls_at(1024, [1023; 60]), Some(9));
        assert_eq!(
            stalls_at(0, [0; 60]),
            Some(9),
            "without a rate, silence still counts"
        );
        assert_eq!(stalls_at(0, [1; 60]), None);
        let burst_then_silence = [1 << 20; 5].into_iter().chain([0; 60]);
        assert_eq!(
            stalls_at(1024, burst_then_silence),
            Some(14),
            "10 s after the last byte"
        );
        let pauses = [0, 0, 0, 0, 0, 20_000].into_iter().cycle().take(120);
        assert_eq!(stalls_at(1024, pauses), None);
    }
}
