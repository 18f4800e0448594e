//! What simulated hosts do with what they are told.

use std::ops::RangeInclusive;
use std::time::Duration;

/// One script for all hosts of a fleet; each draws its own luck.
#[derive(Debug, Clone)]
pub struct Script {
    /// How long a change takes, drawn anew for each.
    pub install_time: RangeInclusive<Duration>,
    /// How many changes out of one end in `errors`, rolled back.
    pub failure_rate: f64,
    /// `None`: only what is asked for is said.
    pub heartbeat: Option<Duration>,
    /// Mean time between restarts of an agent, each of which says so.
    pub restart_mean: Option<Duration>,
    /// Applications that each host has from the start, as the last message that an earlier master sent left them.
    pub applications: usize,
}

impl Default for Script {
    /// Hosts that do at once what they are told, and say nothing of their own accord.
    fn default() -> Self {
        Self {
            install_time: Duration::ZERO..=Duration::ZERO,
            failure_rate: 0.0,
            heartbeat: None,
            restart_mean: None,
            applications: 2,
        }
    }
}

impl Script {
    pub(super) fn draw_install_time(&self, random: &mut fastrand::Rng) -> Duration {
        let (shortest, longest) = (*self.install_time.start(), *self.install_time.end());
        shortest + longest.saturating_sub(shortest).mul_f64(random.f64())
    }

    pub(super) fn draw_failure(&self, random: &mut fastrand::Rng) -> bool {
        random.f64() < self.failure_rate
    }

    /// Restarts fall as independent accidents do: exponentially.
    pub(super) fn draw_restart(&self, random: &mut fastrand::Rng) -> Option<Duration> {
        let mean = self.restart_mean?;
        Some(mean.mul_f64(-(1.0 - random.f64()).ln()))
    }
}
