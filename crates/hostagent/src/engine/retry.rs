//! When what failed transiently is tried again: at growing pauses, at another point of each for every agent.

use std::sync::LazyLock;
use std::time::Duration;

use bus::backoff::Backoff;

/// Base and longest pause between two attempts.
const RETRY_BASE: Duration = Duration::from_secs(5);
const RETRY_CAP: Duration = Duration::from_secs(300);
/// From here on pauses no longer grow.
const GROWING: u32 = 10;

/// The pause after so many failed attempts.
pub fn retry_delay(attempts: u32) -> Duration {
    /// Where in each pause this agent tries: agents that fail together come back evenly.
    static PHASE: LazyLock<f64> = LazyLock::new(fastrand::f64);
    let mut backoff = Backoff::with_random(RETRY_BASE, RETRY_CAP, || *PHASE);
    let mut delay = backoff.next_delay();
    for _ in 1..attempts.min(GROWING) {
        delay = backoff.next_delay();
    }
    delay
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_five_minutes() {
        let pauses: Vec<Duration> = (1..=20).map(retry_delay).collect();
        assert!(pauses[0] <= RETRY_BASE, "{pauses:?}");
        assert!(
            pauses[1..].windows(2).all(|pair| pair[0] <= pair[1]),
            "{pauses:?}"
        );
        assert!(
            pauses[19] <= RETRY_CAP && pauses[19] >= Duration::from_secs(200),
            "{pauses:?}"
        );
    }
}
