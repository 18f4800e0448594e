//! Formats times for people.

use std::time::{Duration, SystemTime};

/// How long ago an RFC 3339 time was: `12 s ago`. A text that is not a time is returned as it is.
pub fn ago(time: &str, now: SystemTime) -> String {
    let Ok(then) = humantime::parse_rfc3339_weak(time) else {
        return time.to_owned();
    };
    match now.duration_since(then) {
        Ok(passed) => format!("{} ago", duration(passed)),
        // The clocks of master and operator may differ a little.
        Err(error) if error.duration() < Duration::from_secs(5) => "0 s ago".to_owned(),
        Err(error) => format!("in {}", duration(error.duration())),
    }
}

/// How long until an RFC 3339 time: `in 12 s`, or `now` if it has passed.
pub fn until(time: &str, now: SystemTime) -> String {
    match humantime::parse_rfc3339_weak(time).map(|then| then.duration_since(now)) {
        Ok(Ok(left)) => format!("in {}", duration(left)),
        Ok(Err(_)) => "now".to_owned(),
        Err(_) => time.to_owned(),
    }
}

/// The time between an RFC 3339 time and `now`, past or future.
pub fn since(time: &str, now: SystemTime) -> Option<Duration> {
    let then = humantime::parse_rfc3339_weak(time).ok()?;
    Some(now.duration_since(then).unwrap_or_else(|error| error.duration()))
}

/// A duration in its largest unit, rounded down; with a second unit where that is useful.
pub fn duration(time: Duration) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    let seconds = time.as_secs();
    match seconds {
        0..MINUTE => format!("{seconds} s"),
        MINUTE..HOUR if seconds < 10 * MINUTE && !seconds.is_multiple_of(MINUTE) => {
            format!("{} min {} s", seconds / MINUTE, seconds % MINUTE)
        }
        MINUTE..HOUR => format!("{} min", seconds / MINUTE),
        HOUR..DAY if seconds % HOUR >= MINUTE => {
            format!("{} h {} min", seconds / HOUR, seconds % HOUR / MINUTE)
        }
        HOUR..DAY => format!("{} h", seconds / HOUR),
        _ => format!("{} d", seconds / DAY),
    }
}

/// An RFC 3339 time without its fraction: `2026-01-01 12:00:00Z`.
pub fn clock(time: &str) -> String {
    match humantime::parse_rfc3339_weak(time) {
        Ok(time) => humantime::format_rfc3339_seconds(time)
            .to_string()
            .replace('T', " "),
        Err(_) => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_at_a_glance() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (61, "1 min 1 s"),
            (661, "11 min"),
            (3600, "1 h"),
            (3661, "1 h 1 min"),
            (86_399, "23 h 59 min"),
            (200_000, "2 d"),
        ] {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn clocks_that_differ_a_little_do_not_matter() {
        let now = humantime::parse_rfc3339("2026-01-01T00:01:00Z").unwrap();
        for (time, text) in [
            ("2026-01-01T00:00:48.123456Z", "11 s ago"),
            ("2026-01-01T00:01:02Z", "0 s ago"),
            ("2026-01-01T00:02:00Z", "in 1 min"),
            ("yesterday", "yesterday"),
        ] {
            assert_eq!(ago(time, now), text);
        }
        assert_eq!(until("2026-01-01T00:02:00Z", now), "in 1 min");
        assert_eq!(until("2026-01-01T00:00:48Z", now), "now");
    }
}
