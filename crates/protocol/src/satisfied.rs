//! Compares the observed state with the desired state. Pure functions, used by agent and master.

use std::collections::BTreeMap;

use serde_json::{Number, Value};

use crate::name::AppName;
use crate::spec::{AppSpec, Apps, Config};
use crate::status::AppStatus;

/// The agent's own package. It is not removed when a desired state does not name it.
const AGENT: &str = "hostagent";

/// Whether `observed` satisfies `desired`: the same set of applications, each of them satisfied.
pub fn apps_satisfied(desired: &Apps, observed: &BTreeMap<AppName, AppStatus>) -> bool {
    desired.iter().all(|(name, spec)| {
        observed
            .get(name)
            .is_some_and(|status| app_satisfied(spec, status))
    }) && observed
        .keys()
        .all(|name| desired.contains_key(name) || name.as_str() == AGENT)
}

/// Whether an installed application satisfies `desired`. `health` does not count: a satisfied
/// application may be unhealthy, and an unsatisfied one may be healthy.
pub fn app_satisfied(desired: &AppSpec, observed: &AppStatus) -> bool {
    version_satisfied(&desired.version, observed.exact_version())
        && desired
            .package
            .as_ref()
            .is_none_or(|package| *package == observed.package)
        && services_satisfied(desired, observed)
        && config_satisfied(&desired.config, &observed.config)
}

/// Whether every service runs or is stopped as desired. A service named in `service_states` must
/// exist.
fn services_satisfied(desired: &AppSpec, observed: &AppStatus) -> bool {
    let as_desired = observed
        .services
        .iter()
        .all(|(name, service)| service.running == desired.wants_service(name));
    as_desired
        && match &desired.service_states {
            Some(states) => states.keys().all(|name| observed.services.contains_key(name)),
            None => observed.running == desired.running,
        }
}

/// Whether a package of full version `installed` (`[epoch:]upstream[-release]`) satisfies
/// `desired`.
///
/// It does if both are the same full version (an epoch of 0 may be omitted), or if `desired` has no
/// release part and equals the installed upstream version. A pattern, which ends with `*`, is
/// satisfied by every version that begins as it does: `*` by any version, `1.22.*` by `1.22.9-1`,
/// with any epoch if the pattern has none.
pub fn version_satisfied(desired: &str, installed: &str) -> bool {
    let (d_epoch, d_rest) = split_epoch(desired);
    let (i_epoch, i_rest) = split_epoch(installed);
    if let Some(beginning) = d_rest.strip_suffix('*') {
        let epoch_fits = d_epoch.is_none() || same_epoch(d_epoch, i_epoch);
        return epoch_fits && i_rest.starts_with(beginning);
    }
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

/// Whether two config values are equal. A number or boolean equals its text, because INI and
/// environment files have only strings (`8080` equals `"8080"`, `true` equals `"true"`); 1 equals
/// 1.0.
pub fn same_value(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::String(s), other) | (other, Value::String(s)) => match other {
            Value::String(t) => s == t,
            Value::Number(number) => {
                let spelled = number.to_string();
                *s == spelled
            }
            Value::Bool(true) => s == "true",
            Value::Bool(false) => s == "false",
            Value::Null | Value::Array(_) | Value::Object(_) => false,
        },
        (Value::Number(x), Value::Number(y)) => same_number(x, y),
        (Value::Array(x), Value::Array(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same_value(x, y))
        }
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(k, v)| y.get(k).is_some_and(|w| same_value(v, w)))
        }
        (a, b) => a == b,
    }
}

/// Two integers are compared as integers: as doubles, different integers above 2^53 could be equal.
fn same_number(x: &Number, y: &Number) -> bool {
    x == y || ((x.is_f64() || y.is_f64()) && x.as_f64() == y.as_f64())
}
