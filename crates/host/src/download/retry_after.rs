//! `Retry-After` (RFC 9110, 10.2.3).

use std::time::Duration;

use ureq::http::HeaderMap;

/// How long the server asks to wait: seconds, or a date. A date is compared with the server's own
/// `Date`, so that the two clocks need not agree.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let header = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let asked = header("retry-after")?;
    if let Ok(seconds) = asked.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = |text| httpdate::parse_http_date(text).ok();
    let (then, now) = (date(asked)?, date(header("date")?)?);
    Some(then.duration_since(now).unwrap_or_default())
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
