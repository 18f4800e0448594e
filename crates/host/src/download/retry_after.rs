//! `Retry-After` (RFC 9110, 10.2.3).

use std::time::Duration;

use ureq::http::HeaderMap;

/// How long the server asks to wait: seconds, or a date, which counts from the server's own `Date`, so
/// that the two clocks need not agree.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let header = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let asked = header("retry-after")?;
    if let Ok(seconds) = asked.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let wait = parse_date(asked)? - parse_date(header("date")?)?;
    Some(Duration::from_secs(wait.try_into().unwrap_or(0)))
}

/// Seconds since some day, of `Sun, 06 Nov 1994 08:49:37 GMT`.
fn parse_date(text: &str) -> Option<i64> {
    let (_, rest) = text.split_once(", ")?;
    let mut words = rest.split(' ');
    let day: i64 = words.next()?.parse().ok()?;
    let month = words.next()?;
    let month = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ]
    .iter()
    .position(|name| *name == month)? as i64
        + 1;
    let year: i64 = words.next()?.parse().ok()?;
    let mut seconds = 0;
    for part in words.next()?.split(':') {
        seconds = seconds * 60 + i64::from(part.parse::<u8>().ok()?);
    }
    if !(0..10_000).contains(&year) || !(1..=31).contains(&day) || words.next() != Some("GMT") {
        return None;
    }
    // Years from March on, so that the leap day is the last.
    let (year, month) = match month {
        1 | 2 => (year - 1, month + 9),
        _ => (year, month - 3),
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day;
    Some(days * 86_400 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates() {
        const DATE: &str = "Thu, 29 Feb 2024 23:59:50 GMT";
        for (asked, date, seconds) in [
            ("120", None, Some(120)),
            ("Fri, 01 Mar 2024 00:00:20 GMT", Some(DATE), Some(30)),
            (
                "Wed, 01 Jan 2025 00:00:00 GMT",
                Some("Tue, 31 Dec 2024 23:59:59 GMT"),
                Some(1),
            ),
            ("Thu, 29 Feb 2024 00:00:00 GMT", Some(DATE), Some(0)),
            ("Fri, 01 Mar 2024 00:00:20 GMT", None, None),
            ("Fri, 01 Foo 2024 00:00:20 GMT", Some(DATE), None),
            ("-5", Some(DATE), None),
            ("soon", Some(DATE), None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", asked.parse().unwrap());
            if let Some(date) = date {
                headers.insert("date", date.parse().unwrap());
            }
            assert_eq!(retry_after(&headers), seconds.map(Duration::from_secs), "{asked}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
