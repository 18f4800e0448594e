//! Full-jitter exponential backoff.
//!
//! The time since the first failure is divided into windows: first some of length `base`, then each
//! twice as long as the one before, up to `cap`. Each window has one attempt, at a random point
//! that is drawn once per outage. So many hosts that fail together reconnect evenly: `hosts /
//! window` per second.
//!
//! The usual full jitter draws each *delay* anew. Then attempts of the second round overlap those
//! of the first, and the rate peaks at e = 2.7 times the even one
//! (docs/decisions/0002-spread-of-reconnects.md).

use std::time::Duration;

/// The default of `cap`.
pub const CAP: Duration = Duration::from_secs(300);

/// Gives the delays one after another. The caller sleeps, and calls [`Self::reset`] after a
/// success.
pub struct Backoff {
    base: Duration,
    cap: Duration,
    /// Number of windows of length `base` before windows grow, as configured.
    hold: u32,
    /// The same in the current outage.
    hold_now: u32,
    /// Number of the current window.
    window: Option<u32>,
    /// The point of the attempt in each window, from 0 to 1. Drawn when an outage begins.
    phase: f64,
    random: Box<dyn FnMut() -> f64 + Send>,
}

impl Backoff {
    /// Delays within windows of `base`, 2 `base`, 4 `base`, ... `cap`.
    pub fn new(base: Duration, cap: Duration) -> Self {
        Self::with_random(base, cap, fastrand::f64)
    }

    /// As [`Self::new`], with `random` (from 0 to 1) in place of the thread's generator.
    pub fn with_random(base: Duration, cap: Duration, random: impl FnMut() -> f64 + Send + 'static) -> Self {
        let base = base.max(Duration::from_millis(1));
        Self {
            base,
            cap: cap.max(base),
            hold: 0,
            hold_now: 0,
            window: None,
            phase: 0.0,
            random: Box::new(random),
        }
    }

    /// Windows keep the length `base` until this much time has passed, so that the end of a short
    /// outage is noticed soon.
    pub fn hold_for(mut self, time: Duration) -> Self {
        // One more, so that after an outage of exactly this length the attempt still comes within
        // `base`.
        self.hold = u32::try_from(time.as_millis().div_ceil(self.base.as_millis()) + 1).unwrap_or(u32::MAX);
        self.hold_now = self.hold;
        self
    }

    /// The time to wait before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        match self.window {
            None => {
                self.phase = (self.random)().clamp(0.0, 1.0);
                self.window = Some(0);
                self.length(0).mul_f64(self.phase)
            }
            Some(last) => {
                let next = last.saturating_add(1);
                self.window = Some(next);
                self.length(last).mul_f64(1.0 - self.phase) + self.length(next).mul_f64(self.phase)
            }
        }
    }

    /// The peer is overloaded: windows grow from now on.
    pub fn end_hold(&mut self) {
        self.hold_now = self.hold_now.min(self.window.map_or(0, |window| window + 1));
    }

    /// After a success: the next failure begins with the first window and a new random point.
    pub fn reset(&mut self) {
        self.window = None;
        self.hold_now = self.hold;
    }

    fn length(&self, window: u32) -> Duration {
        let doublings = (window + 1).saturating_sub(self.hold_now.max(1)).min(31);
        self.base.saturating_mul(1 << doublings).min(self.cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// The times of attempts since the failure, of one host whose random point is `phase`.
    fn tries(base_s: u64, hold_s: u64, phase: f64, until: Duration) -> Vec<Duration> {
        let mut backoff = Backoff::with_random(base_s as u32 * SECOND, CAP, move || phase)
            .hold_for(Duration::from_secs(hold_s));
        let mut at = Duration::ZERO;
        let mut tries = Vec::new();
        loop {
            at += backoff.next_delay();
            if at > until {
                return tries;
            }
            tries.push(at);
        }
    }

    #[test]
    fn each_window_has_one_attempt_and_windows_double_up_to_the_cap() {
        for phase in [0.0, 0.25, 0.999] {
            let tries = tries(5, 0, phase, Duration::from_secs(2000));
            let mut start = 0.0;
            let windows = [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0];
            for (at, window) in tries.iter().zip(windows) {
                let due = start + phase * window;
                assert!((at.as_secs_f64() - due).abs() < 0.001, "{at:?}, not {due}");
                start += window;
            }
            assert!(tries.len() >= windows.len());
        }
    }

    /// FAULTS.md row 1, for any outage up to the hold time.
    #[test]
    fn during_the_hold_an_attempt_comes_within_one_base_of_the_brokers_return() {
        for phase in [0.0, 0.1, 0.5, 0.9, 0.999] {
            let tries = tries(5, 60, phase, Duration::from_secs(70));
            for back_at in 0..=60 {
                let back_at = Duration::from_secs(back_at);
                let next = tries.iter().find(|at| **at >= back_at).unwrap();
                assert!(
                    *next - back_at <= 5 * SECOND,
                    "back at {back_at:?}, tried at {next:?}"
                );
            }
        }
    }

    #[test]
    fn after_the_hold_an_attempt_comes_within_the_length_of_the_outage() {
        for phase in [0.0, 0.3, 0.999] {
            let tries = tries(5, 60, phase, Duration::from_secs(7200));
            for pair in tries.windows(2).filter(|pair| pair[0] > 60 * SECOND) {
                assert!(pair[1] - pair[0] <= pair[0] + 5 * SECOND && pair[1] - pair[0] <= CAP);
            }
        }
    }

    #[test]
    fn a_sign_of_overload_ends_the_hold() {
        let mut backoff = Backoff::with_random(SECOND, CAP, || 0.0).hold_for(60 * SECOND);
        let held: Vec<_> = (0..3).map(|_| backoff.next_delay()).collect();
        assert_eq!(held, [Duration::ZERO, SECOND, SECOND]);
        backoff.end_hold();
        let grown: Vec<_> = (0..4).map(|_| backoff.next_delay()).collect();
        assert_eq!(grown, [SECOND, 2 * SECOND, 4 * SECOND, 8 * SECOND]);
        backoff.reset();
        let held: Vec<_> = (0..3).map(|_| backoff.next_delay()).collect();
        assert_eq!(held, [Duration::ZERO, SECOND, SECOND]);
    }

    #[test]
    fn each_outage_draws_anew() {
        let mut draws = [0.25, 0.75].into_iter();
        let mut backoff = Backoff::with_random(4 * SECOND, CAP, move || draws.next().unwrap());
        assert_eq!(backoff.next_delay(), SECOND);
        backoff.next_delay();
        backoff.reset();
        assert_eq!(backoff.next_delay(), 3 * SECOND);
    }

    /// The most attempts in any one second, of `hosts` that all lose the broker at the same time,
    /// which stays away for `until`.
    fn peak_rate(hosts: usize, base_s: u64, until: Duration) -> u32 {
        let mut random = fastrand::Rng::with_seed(8);
        let mut per_second = vec![0u32; until.as_secs() as usize + 1];
        for _ in 0..hosts {
            for at in tries(base_s, 60, random.f64(), until) {
                per_second[at.as_secs() as usize] += 1;
            }
        }
        per_second.into_iter().max().unwrap()
    }

    /// FAULTS.md row 8. A fleet of N hosts sets `connection_retry_period` to N / 66
    /// (docs/operations.md); the default of 5 s is for 330.
    #[test]
    fn a_fleet_reconnects_at_no_more_than_100_a_second() {
        let hour = Duration::from_secs(3600);
        for (hosts, base_s) in [(330, 5), (500, 8), (10_000, 152)] {
            let peak = peak_rate(hosts, base_s, hour);
            assert!(peak <= 100, "{hosts} hosts, {base_s} s: {peak} a second");
        }
    }

    #[test]
    fn once_windows_have_grown_even_an_untuned_fleet_of_10_000_stays_below_100_a_second() {
        let mut random = fastrand::Rng::with_seed(8);
        let (from, until) = (Duration::from_secs(600), Duration::from_secs(3600));
        let mut per_second = vec![0u32; 3601];
        for _ in 0..10_000 {
            for at in tries(5, 60, random.f64(), until)
                .into_iter()
                .filter(|at| *at >= from)
            {
                per_second[at.as_secs() as usize] += 1;
            }
        }
        assert!(per_second.into_iter().max().unwrap() <= 100);
    }
}
