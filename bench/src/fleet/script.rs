//! How simulated hosts behave.

use std::ops::RangeInclusive;
use std::time::Duration;

/// One script for all hosts of a fleet. Random values are drawn for each host.
#[derive(Debug, Clone)]
pub struct Script {
    /// How long a change takes, drawn for each change.
    pub install_time: RangeInclusive<Duration>,
    /// Share of changes, from 0 to 1, that end in `errors` and are rolled back.
    pub failure_rate: f64,
    /// `None`: hosts send a status only when they are asked.
    pub heartbeat: Option<Duration>,
    /// Mean time between restarts of an agent. Each restart sends a status.
    pub restart_mean: Option<Duration>,
    /// Number of applications that each host has from the start.
    pub applications: usize,
}

impl Default for Script {
    /// Hosts that converge at once, and send a status only when they are asked.
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

    /// Restarts are independent of each other: the time between two is distributed exponentially.
    pub(super) fn draw_restart(&self, random: &mut fastrand::Rng) -> Option<Duration> {
        let mean = self.restart_mean?;
        Some(mean.mul_f64(-(1.0 - random.f64()).ln()))
    }
}
