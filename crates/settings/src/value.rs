//! Parses the text of one key into its type.

use std::path::PathBuf;
use std::time::Duration;

use protocol::HostId;

use crate::{Gathered, Origin, ProxyUrl, Secret};

/// The values that a key may have.
#[derive(Debug)]
pub enum Kind {
    /// Whole or decimal seconds, or a time with a unit.
    Seconds {
        min: u64,
        max: u64,
    },
    /// Bytes, or a size with a unit.
    Size {
        min: u64,
        max: u64,
    },
    Count {
        min: u64,
        max: u64,
    },
    Bool,
    Port,
    /// Absolute.
    Path,
    Text,
    /// Separated by commas.
    List,
    /// One of these, in any case.
    Choice(&'static [&'static str]),
    Secret,
    ProxyUrl,
    HostId,
}

impl Kind {
    /// The allowed values in words, for errors and the default file.
    pub fn allowed(&self) -> String {
        match self {
            Self::Seconds { min, max } => format!("seconds, {min} to {max} (30, 1.5, 5m)"),
            Self::Size { min, max } => {
                format!(
                    "bytes, {} to {} (4096, 64KiB, 2GiB)",
                    show_size(*min),
                    show_size(*max)
                )
            }
            Self::Count { min, max } => format!("a whole number, {min} to {max}"),
            Self::Bool => "true or false".to_owned(),
            Self::Port => "a port, 1 to 65535".to_owned(),
            Self::Path => "an absolute path".to_owned(),
            Self::Text | Self::Secret => "text without control characters".to_owned(),
            Self::List => "names separated by commas".to_owned(),
            Self::Choice(names) => format!("one of {}", names.join(", ")),
            Self::ProxyUrl => "http://[user:password@]host[:port]".to_owned(),
            Self::HostId => {
                "1 to 127 printable ASCII characters without / * #, not `slaves` or `master`".to_owned()
            }
        }
    }

    /// Whether a value of this kind must not be printed.
    pub fn is_secret(&self) -> bool {
        matches!(self, Self::Secret)
    }

    /// A value as it may be printed.
    pub fn show(&self, raw: &str) -> String {
        match self {
            Self::Secret if raw.is_empty() => String::new(),
            Self::Secret => crate::secret::HIDDEN.to_owned(),
            Self::ProxyUrl => crate::without_credentials(raw),
            _ => raw.to_owned(),
        }
    }
}

/// The lowest level to log, with Python's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    Debug,
    Info,
    Warning,
    Error,
    Critical,
}

impl LogLevel {
    pub const NAMES: &'static [&'static str] = &["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"];
}

/// Types of settings. `parse` returns `None` if the value is not allowed; [`Kind::allowed`] says
/// what is.
pub trait Parse: Sized {
    fn parse(raw: &str, kind: &Kind) -> Option<Self>;
}

/// The value of one key, or its default. An empty value means the default, so that a drop-in can
/// cancel a value of the main file. A bad value is added to the problems.
pub fn take<T: Parse>(
    gathered: &mut Gathered,
    section: &'static str,
    key: &'static str,
    default: &str,
    kind: &Kind,
) -> Option<T> {
    let (raw, origin) = match gathered.values.get(&(section, key)) {
        Some(setting) if !setting.raw.is_empty() => (setting.raw.as_str(), setting.origin.clone()),
        _ => (default, Origin::Default),
    };
    let parsed = T::parse(raw, kind);
    if parsed.is_none() {
        let found = match kind {
            Kind::Secret | Kind::ProxyUrl => "a value that is not shown".to_owned(),
            _ => format!("{raw:?}"),
        };
        let mut problem = format!(
            "{origin}: [{section}] {key}: found {found}, allowed: {}",
            kind.allowed()
        );
        if raw.contains(" #") || raw.contains(" ;") {
            problem.push_str(". A comment must be on a separate line");
        }
        gathered.problems.push(problem);
    }
    parsed
}

impl<T: Parse> Parse for Option<T> {
    fn parse(raw: &str, kind: &Kind) -> Option<Self> {
        match raw {
            "" => Some(None),
            raw => T::parse(raw, kind).map(Some),
        }
    }
}

impl Parse for Duration {
    fn parse(raw: &str, kind: &Kind) -> Option<Self> {
        let Kind::Seconds { min, max } = kind else {
            return None;
        };
        let is_number = raw.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let duration = match is_number {
            true => Duration::try_from_secs_f64(raw.parse().ok()?).ok()?,
            false => humantime::parse_duration(raw).ok()?,
        };
        (Duration::from_secs(*min)..=Duration::from_secs(*max))
            .contains(&duration)
            .then_some(duration)
    }
}

impl Parse for u64 {
    fn parse(raw: &str, kind: &Kind) -> Option<Self> {
        let (number, min, max) = match kind {
            Kind::Size { min, max } => (parse_size(raw)?, *min, *max),
            Kind::Count { min, max } => (raw.parse().ok()?, *min, *max),
            _ => return None,
        };
        (min..=max).contains(&number).then_some(number)
    }
}

impl Parse for u32 {
    fn parse(raw: &str, kind: &Kind) -> Option<Self> {
        u64::parse(raw, kind)?.try_into().ok()
    }
}

impl Parse for u16 {
    fn parse(raw: &str, _: &Kind) -> Option<Self> {
        raw.parse().ok().filter(|port| *port != 0)
    }
}

impl Parse for bool {
    fn parse(raw: &str, _: &Kind) -> Option<Self> {
        match raw.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Some(true),
            "false" | "no" | "off" | "0" => Some(false),
            _ => None,
        }
    }
}

impl Parse for String {
    fn parse(raw: &str, _: &Kind) -> Option<Self> {
        (!raw.chars().any(char::is_control)).then(|| raw.to_owned())
    }
}

impl Parse for Secret {
    fn parse(raw: &str, kind: &Kind) -> Option<Self> {
        String::parse(raw, kind).map(Self::new)
    }
}

impl Parse for PathBuf {
    fn parse(raw: &str, kind: &Kind) -> Option<Self> {
        String::parse(raw, kind)
            .map(Self::from)
            .filter(|path| path.is_absolute())
    }
}

impl Parse for Vec<String> {
    fn parse(raw: &str, kind: &Kind) -> Option<Self> {
        raw.split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(|item| String::parse(item, kind))
            .collect()
    }
}

impl Parse for HostId {
    fn parse(raw: &str, _: &Kind) -> Option<Self> {
        HostId::new(raw).ok()
    }
}

impl Parse for ProxyUrl {
    fn parse(raw: &str, _: &Kind) -> Option<Self> {
        let url = url::Url::parse(raw).ok()?;
        (url.scheme() == "http" && url.has_host()).then(|| Self::new(raw))
    }
}

impl Parse for LogLevel {
    fn parse(raw: &str, _: &Kind) -> Option<Self> {
        match raw.to_ascii_uppercase().as_str() {
            "DEBUG" => Some(Self::Debug),
            "INFO" => Some(Self::Info),
            "WARNING" | "WARN" => Some(Self::Warning),
            "ERROR" => Some(Self::Error),
            "CRITICAL" | "FATAL" => Some(Self::Critical),
            _ => None,
        }
    }
}

/// All units are powers of 1024: `k`, `kB` and `KiB` mean the same.
fn parse_size(raw: &str) -> Option<u64> {
    let (number, unit) = raw.split_at(raw.find(|c: char| !c.is_ascii_digit()).unwrap_or(raw.len()));
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn show_size(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let kind = Kind::Seconds { min: 1, max: 3600 };
        for (raw, millis) in [
            ("1", Some(1000)),
            ("1.5", Some(1500)),
            ("5m", Some(300_000)),
            ("1h", Some(3_600_000)),
            ("0", None),
            ("3601", None),
            ("-1", None),
            ("1e3", None),
            ("inf", None),
            ("1.2.3", None),
            (".", None),
            ("99999999999999999999999999", None),
            ("soon", None),
        ] {
            let expected = millis.map(Duration::from_millis);
            assert_eq!(Duration::parse(raw, &kind), expected, "{raw}");
        }
    }

    #[test]
    fn sizes() {
        for (raw, bytes) in [
            ("0", Some(0)),
            ("1024", Some(1024)),
            ("64k", Some(65536)),
            ("1 MiB", Some(1 << 20)),
            ("2GB", Some(2 << 30)),
            ("MiB", None),
            ("1.5G", None),
            ("-1", None),
            ("99999999999T", None),
        ] {
            assert_eq!(parse_size(raw), bytes, "{raw}");
        }
        assert_eq!(
            [0, 1000, 4096, 1 << 30].map(show_size),
            ["0", "1000", "4KiB", "1GiB"]
        );
    }

    #[test]
    fn other_kinds() {
        assert_eq!(bool::parse("Yes", &Kind::Bool), Some(true));
        assert_eq!(bool::parse("maybe", &Kind::Bool), None);
        assert_eq!(u16::parse("0", &Kind::Port), None);
        assert_eq!(u16::parse("65536", &Kind::Port), None);
        assert_eq!(PathBuf::parse("relative", &Kind::Path), None);
        assert_eq!(String::parse("a\u{1b}b", &Kind::Text), None);
        assert_eq!(
            Vec::<String>::parse("a, b,,", &Kind::List),
            Some(vec!["a".to_owned(), "b".to_owned()])
        );
        assert_eq!(ProxyUrl::parse("socks5://h:1", &Kind::ProxyUrl), None);
        assert!(ProxyUrl::parse("http://u:p@h:3128", &Kind::ProxyUrl).is_some());
        assert_eq!(LogLevel::parse("warn", &Kind::Text), Some(LogLevel::Warning));
    }
}
