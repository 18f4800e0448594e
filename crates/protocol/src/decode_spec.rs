//! Decodes the desired applications of a `set_config`: a JSON tree becomes [`AppSpec`]s. Strings
//! are moved, not copied.
//!
//! No fault quotes a config value or a URL, because either may contain a secret.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::fault::{Fault, clip};
use crate::fields::{boolean, kind, object, optional, string, wrong_type};
use crate::name::{AppName, NameError, check_plain_name, check_service_name};
use crate::spec::{AppSpec, Apps, Config, Rank};

/// Bytes; longer than any version that a package manager accepts.
const MAX_VERSION_LEN: usize = 256;
/// Bytes.
const MAX_URL_LEN: usize = 4096;

/// Decodes the object application -> specification. Paths of faults begin at this object.
pub(crate) fn apps(data: Value) -> Result<Apps, Fault> {
    let apps = object(data)?
        .into_iter()
        .map(|(name, value)| {
            AppName::check(&name).map_err(|error| bad_name("application", &error).under(&name))?;
            let spec = app(value).map_err(|fault| fault.under(&name))?;
            Ok((AppName::from_checked(name), spec))
        })
        .collect::<Result<Apps, Fault>>()?;
    for (name, spec) in &apps {
        check_requires(name, spec, &apps).map_err(|fault| fault.under("requires").under(name.as_str()))?;
    }
    Ok(apps)
}

/// Checks that each required application is another application of the same message. A cycle is
/// allowed: its applications succeed or are rolled back together.
fn check_requires(name: &AppName, spec: &AppSpec, apps: &Apps) -> Result<(), Fault> {
    let mut seen = BTreeSet::new();
    for (index, required) in spec.requires.iter().enumerate() {
        let reason = if required == name {
            "is the application itself; name another application of this message"
        } else if !apps.contains_key(required) {
            "is not an application of this message; add it, or remove it from this list"
        } else if !seen.insert(required) {
            "is given twice; an application may appear only once in this list"
        } else {
            continue;
        };
        return Err(Fault::new(reason).under_index(index));
    }
    Ok(())
}

fn bad_name(what: &str, error: &NameError) -> Fault {
    Fault::new(format!("is not a valid {what} name: it {error}"))
}

fn app(value: Value) -> Result<AppSpec, Fault> {
    let mut fields = object(value)?;
    let fields = &mut fields;
    let version =
        string(fields, "version")?.ok_or_else(|| Fault::missing("version", "a string is needed"))?;
    check_version(&version).map_err(|fault| fault.under("version"))?;
    let url = string(fields, "url")?;
    if let Some(url) = &url {
        check_url(url).map_err(|fault| fault.under("url"))?;
    }
    let package = string(fields, "package")?;
    if let Some(package) = &package {
        check_plain_name(package, AppName::MAX_LEN)
            .map_err(|error| bad_name("package", &error).under("package"))?;
    }
    Ok(AppSpec {
        version,
        url,
        package,
        sha256: string(fields, "sha256")?
            .map(|digest| sha256(digest).map_err(|fault| fault.under("sha256")))
            .transpose()?,
        running: optional(fields, "running", boolean)?.unwrap_or(true),
        config: optional(fields, "config", config)?.unwrap_or_default(),
        service_states: optional(fields, "service_states", service_states)?,
        rank: optional(fields, "rank", rank)?,
        requires: optional(fields, "requires", requires)?.unwrap_or_default(),
    })
}

fn check_version(version: &str) -> Result<(), Fault> {
    if version.is_empty() {
        return Err(Fault::new("is empty; a version is needed"));
    }
    if version.len() > MAX_VERSION_LEN {
        return Err(Fault::new(format!(
            "is {} bytes long; at most {MAX_VERSION_LEN} are allowed",
            version.len()
        )));
    }
    if version.starts_with('-') {
        return Err(Fault::new("begins with '-'; a version must not begin with '-'"));
    }
    match version.chars().find(|c| !c.is_ascii_graphic() || *c == '/') {
        Some(c) => Err(Fault::new(format!(
            "contains {c:?}; allowed are printable ASCII characters other than space and '/'"
        ))),
        None => Ok(()),
    }
}

/// Checks only the length, the characters and the scheme. The downloader parses the rest.
fn check_url(url: &str) -> Result<(), Fault> {
    if url.len() > MAX_URL_LEN {
        return Err(Fault::new(format!(
            "is {} bytes long; at most {MAX_URL_LEN} are allowed",
            url.len()
        )));
    }
    if let Some(c) = url.chars().find(|c| c.is_control()) {
        return Err(Fault::new(format!("contains the control character {c:?}")));
    }
    const ALLOWED: &str = "http, https and file are allowed";
    // RFC 3986, section 3.1.
    let scheme = url.split_once(':').map(|(scheme, _)| scheme).filter(|scheme| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    });
    match scheme {
        None => Err(Fault::new(format!("has no scheme; {ALLOWED}"))),
        Some(scheme)
            if ["http", "https", "file"]
                .iter()
                .any(|s| s.eq_ignore_ascii_case(scheme)) =>
        {
            Ok(())
        }
        Some(scheme) => Err(Fault::new(format!(
            "has the scheme {:?}; {ALLOWED}",
            clip(scheme)
        ))),
    }
}

fn sha256(mut digest: String) -> Result<String, Fault> {
    if digest.len() != 64 || !digest.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Fault::new(
            "is not a SHA-256 digest; 64 hexadecimal digits are needed",
        ));
    }
    digest.make_ascii_lowercase();
    Ok(digest)
}

pub(crate) fn config(value: Value) -> Result<Config, Fault> {
    object(value)?
        .into_iter()
        .map(|(section, keys)| match keys {
            Value::Object(keys) => Ok((section, keys.into_iter().collect())),
            other => Err(Fault::new(format!(
                "is {}; a section of config must be an object of keys: \
                 {{\"<section>\": {{\"<key>\": <value>}}}}",
                kind(&other)
            ))
            .under(&section)),
        })
        .collect()
}

fn service_states(value: Value) -> Result<BTreeMap<String, bool>, Fault> {
    object(value)?
        .into_iter()
        .map(|(service, state)| {
            check_service_name(&service).map_err(|error| bad_name("service", &error).under(&service))?;
            let state = boolean(state).map_err(|fault| fault.under(&service))?;
            Ok((service, state))
        })
        .collect()
}

fn requires(value: Value) -> Result<Vec<AppName>, Fault> {
    let Value::Array(names) = value else {
        return Err(wrong_type(&value, "an array of application names"));
    };
    let name = |value| match value {
        Value::String(name) => AppName::new(name).map_err(|error| bad_name("application", &error)),
        other => Err(wrong_type(&other, "a string")),
    };
    names
        .into_iter()
        .enumerate()
        .map(|(index, value)| name(value).map_err(|fault| fault.under_index(index)))
        .collect()
}

fn rank(value: Value) -> Result<Rank, Fault> {
    Rank::from_json(&value).ok_or_else(|| wrong_type(&value, "a finite number or a numeric string"))
}
