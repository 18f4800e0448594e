//! Does what is observed satisfy what is desired? Pure, and shared by agent and master.

use serde_json::Value;

use crate::spec::Config;

/// Whether a package of full version `installed` (`[epoch:]upstream[-release]`) is what `desired` asks.
///
/// So it is if both are the same full version (an epoch of 0 may be left out), or if `desired` has no
/// release part and names the installed upstream version.
pub fn version_satisfied(desired: &str, installed: &str) -> bool {
    let (d_epoch, d_rest) = split_epoch(desired);
    let (i_epoch, i_rest) = split_epoch(installed);
    let upstream = i_rest
        .rsplit_once('-')
        .map_or(i_rest, |(upstream, _release)| upstream);
    match d_epoch {
        Some(_) => same_epoch(d_epoch, i_epoch) && (d_rest == i_rest || d_rest == upstream),
        None => d_rest == upstream || (d_rest == i_rest && same_epoch(None, i_epoch)),
    }
}

fn split_epoch(version: &str) -> (Option<&str>, &str) {
    match version.split_once(':') {
        Some((epoch, rest)) if !epoch.is_empty() && epoch.bytes().all(|b| b.is_ascii_digit()) => {
            (Some(epoch), rest)
        }
        _ => (None, version),
    }
}

fn same_epoch(a: Option<&str>, b: Option<&str>) -> bool {
    fn number(e: Option<&str>) -> &str {
        e.unwrap_or("0").trim_start_matches('0')
    }
    number(a) == number(b)
}

/// Whether every key of `desired` has the same value in `current`.
pub fn config_satisfied(desired: &Config, current: &Config) -> bool {
    desired.iter().all(|(section, keys)| {
        let have = current.get(section);
        keys.iter().all(|(key, want)| {
            have.and_then(|h| h.get(key))
                .is_some_and(|have| same_value(want, have))
        })
    })
}

/// Equal values; a scalar equals the string that spells it, since INI and environment files know
/// strings only (`8080` is `"8080"`, `true` is `"true"`), and 1 equals 1.0.
pub fn same_value(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::String(s), other) | (other, Value::String(s)) => match other {
            Value::String(t) => s == t,
            Value::Number(_) | Value::Bool(_) => *s == other.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => false,
        },
        (Value::Number(x), Value::Number(y)) => x == y || (x.as_f64().is_some() && x.as_f64() == y.as_f64()),
        (Value::Array(x), Value::Array(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same_value(x, y))
        }
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(k, v)| y.get(k).is_some_and(|w| same_value(v, w)))
        }
        (a, b) => a == b,
    }
}
