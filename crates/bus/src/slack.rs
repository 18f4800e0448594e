//! Timers that need not be exact, set so that the thread wakes once for each.
//!
//! tokio keeps timers on wheels whose slots are 1 ms, 64 ms, 4,096 ms and so on wide. One that is far off is taken in
//! hand when its wide slot begins, again when a narrower one does, and at last when it is due: three wake-ups of an idle
//! process, of which two do nothing. One that is due just as a wide slot begins takes one, together with all others
//! that are due then. Where this is not so (another tokio), only the wake-ups come back.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// Width of a slot of tokio's third wheel: what a timer may be late, or early, at most.
const SLOT: Duration = Duration::from_millis(4096);
/// tokio rounds a deadline up to a whole one.
const TICK: Duration = Duration::from_millis(1);
/// Waits are stretched only where they become half as long again at most.
const FAR: Duration = SLOT.saturating_mul(2);

thread_local! {
    /// When the clock of this thread's runtime began to count.
    static START: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Builds the runtime of this thread. Without it no timer of the thread is moved.
pub fn for_runtime<T>(build: impl FnOnce() -> T) -> T {
    let before = Instant::now();
    let built = build();
    // The runtime read the clock in between. Half a tick early, so that half a tick of error either way is rounded off.
    let middle = before + before.elapsed() / 2;
    START.set(middle.checked_sub(TICK / 2));
    built
}

/// When to wake for `deadline`, which comes once in each `period`: up to 4.1 s later, if the period is long.
pub fn not_before(deadline: Instant, period: Duration) -> Instant {
    match START.get() {
        Some(start) if period >= FAR => slot_at(start, deadline) + SLOT,
        Some(_) | None => deadline,
    }
}

/// When to look whether `deadline` has come: up to 4.1 s before it, if it is far off; else when it has.
pub fn not_after(deadline: Instant) -> Instant {
    let is_far = deadline.saturating_duration_since(Instant::now()) >= FAR;
    match START.get() {
        Some(start) if is_far => slot_at(start, deadline),
        Some(_) | None => deadline,
    }
}

/// The beginning of the slot that `deadline` is in.
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

    /// How often the thread goes to sleep while it waits for `timer`, after it has waited for a while.
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
    fn a_timer_that_is_far_off_takes_two_waits_less_than_an_exact_one() {
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
    fn what_comes_often_and_what_is_near_is_exact() {
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
    async fn elsewhere_no_timer_is_moved() {
        let far = Instant::now() + Duration::from_secs(60);
        let there = std::thread::spawn(move || (not_before(far, FAR), not_after(far)));
        assert_eq!(there.join().unwrap(), (far, far));
    }
}
