//! Inexact timers, chosen so that the thread wakes up only once for each.
//!
//! tokio keeps timers in wheels whose slots are 1 ms, 64 ms, 4,096 ms and so on wide. A distant
//! timer wakes the thread when its wide slot begins, again when a narrower slot begins, and when it
//! is due: three wake-ups, two of which do nothing. A timer that is due exactly at the start of a
//! wide slot needs one wake-up, shared with all other timers due then. With another version of
//! tokio this may only cost additional wake-ups.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// Width of a slot of tokio's third wheel. No timer is moved by more.
const SLOT: Duration = Duration::from_millis(4096);
/// tokio rounds a deadline up to a whole tick.
const TICK: Duration = Duration::from_millis(1);
/// Shorter waits are not moved, so that no wait becomes longer by more than half.
const FAR: Duration = SLOT.saturating_mul(2);

thread_local! {
    /// Start of the clock of this thread's runtime.
    static START: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Builds the runtime of this thread and records its start. Without this, no timer of the thread is
/// moved.
pub fn for_runtime<T>(build: impl FnOnce() -> T) -> T {
    let before = Instant::now();
    let built = build();
    // The runtime reads the clock between the two instants. Half a tick is subtracted, so that an
    // error of half a tick in either direction is rounded away.
    let middle = before + before.elapsed() / 2;
    START.set(middle.checked_sub(TICK / 2));
    built
}

/// When to wake up for `deadline`, which recurs every `period`: up to 4.1 s later if the period is
/// long.
pub fn not_before(deadline: Instant, period: Duration) -> Instant {
    match START.get() {
        Some(start) if period >= FAR => slot_at(start, deadline) + SLOT,
        Some(_) | None => deadline,
    }
}

/// When to check whether `deadline` has passed: up to 4.1 s earlier if it is distant, else at the
/// deadline.
pub fn not_after(deadline: Instant) -> Instant {
    let is_far = deadline.saturating_duration_since(Instant::now()) >= FAR;
    match START.get() {
        Some(start) if is_far => slot_at(start, deadline),
        Some(_) | None => deadline,
    }
}

/// The start of the slot that contains `deadline`.
fn slot_at(start: Instant, deadline: Instant) -> Instant {
    let into_slot = (deadline - start).as_nanos() % SLOT.as_nanos();
    deadline - Duration::from_nanos(u64::try_from(into_slot).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::runtime::Builder;
    use tokio::time::{sleep, sleep_until};

    use super::*;

    /// How often the thread parks while it waits for `timer`, and how long that takes.
    fn waits(timer: fn(Instant) -> Instant, seconds: u64) -> (u32, Duration) {
        let parked = Arc::new(AtomicU32::new(0));
        let counter = parked.clone();
        let runtime = for_runtime(|| {
            Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .on_thread_park(move || _ = counter.fetch_add(1, Ordering::Relaxed))
                .build()
        })
        .unwrap();
        runtime.block_on(async {
            sleep(Duration::from_millis(1234)).await;
            let (started, before) = (Instant::now(), parked.load(Ordering::Relaxed));
            sleep_until(timer(started + Duration::from_secs(seconds))).await;
            (parked.load(Ordering::Relaxed) - before, started.elapsed())
        })
    }

    #[test]
    fn a_distant_timer_needs_two_wake_ups_less_than_an_exact_one() {
        for seconds in [15, 37, 60] {
            let wanted = Duration::from_secs(seconds);
            let (exact, _) = waits(|deadline| deadline, seconds);
            let (later, late) = waits(|deadline| not_before(deadline, FAR), seconds);
            let (earlier, early) = waits(not_after, seconds);
            assert_eq!((exact - later, exact - earlier), (2, 2), "{seconds} s");
            assert!((wanted..wanted + SLOT + TICK).contains(&late), "{late:?}");
            assert!((wanted - SLOT..wanted + TICK).contains(&early), "{early:?}");
        }
    }

    #[test]
    fn short_periods_and_near_deadlines_are_exact() {
        let often: fn(Instant) -> Instant = |deadline| not_before(deadline, Duration::from_secs(8));
        for timer in [often, not_after] {
            let (_, took) = waits(timer, 8);
            assert!(took < Duration::from_millis(8002), "{took:?}");
        }
    }

    #[test]
    fn the_rest_of_a_long_period_may_be_stretched_too() {
        let (_, took) = waits(|deadline| not_before(deadline, FAR), 1);
        assert!(
            (Duration::from_secs(1)..Duration::from_secs(1) + SLOT + TICK).contains(&took),
            "{took:?}"
        );
    }

    #[tokio::test]
    async fn on_other_threads_no_timer_is_moved() {
        let far = Instant::now() + Duration::from_secs(60);
        let there = std::thread::spawn(move || (not_before(far, FAR), not_after(far)));
        assert_eq!(there.join().unwrap(), (far, far));
    }
}
