//! The desired state of an application: one entry of a `set_config`.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::name::AppName;

/// Section -> key -> value, as in a `set_config` and in the output of a hook.
pub type Config = BTreeMap<String, BTreeMap<String, Value>>;

/// A host's whole desired state.
pub type Apps = BTreeMap<AppName, AppSpec>;

/// The desired state of one application. Fields: docs/protocol.md.
// `Deserialize` is for data that was validated before (the ledger, a status). Input from outside is
// decoded by `crate::decode`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AppSpec {
    /// A full version, or an upstream version that any release satisfies.
    #[cfg_attr(feature = "schema", schemars(regex(pattern = r"^(?!-)[!-.0-~]{1,256}$")))]
    pub version: String,
    /// An http, https or file URL of an .rpm or .deb. Absent: the host's own repositories.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "schema",
        schemars(regex(pattern = r"^([Hh][Tt][Tt][Pp][Ss]?|[Ff][Ii][Ll][Ee]):[ -~]{0,4000}$"))
    )]
    pub url: Option<String>,
    /// The package's name. Absent: it is read from the package file.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "schema",
        schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9+._-]{0,127}$"))
    )]
    pub package: Option<String>,
    /// SHA-256 of the package file, hexadecimal. Decoding makes it lower case.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(regex(pattern = r"^[0-9A-Fa-f]{64}$")))]
    pub sha256: Option<String>,
    /// Whether the application's services run (and start at boot).
    #[serde(default = "yes")]
    pub running: bool,
    #[serde(default)]
    pub config: Config,
    /// Service -> whether it runs; overrides `running` for that service.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "schema",
        schemars(with = "Option<BTreeMap<crate::schema::ServiceName, bool>>")
    )]
    pub service_states: Option<BTreeMap<String, bool>>,
    /// Order of work: lower first, removals in reverse, applications without a rank last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<Rank>,
    /// Other applications of the same desired state. If one of them fails and is rolled back, so is
    /// this one.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    #[cfg_attr(feature = "schema", schemars(extend("uniqueItems" = true)))]
    pub requires: Vec<AppName>,
}

/// The fields of an application. Hosts ignore other fields, which may belong to a later protocol.
/// In an operator's file, another field is a mistake.
pub const FIELDS: [&str; 9] = [
    "version",
    "url",
    "package",
    "sha256",
    "running",
    "config",
    "service_states",
    "rank",
    "requires",
];

fn yes() -> bool {
    true
}

/// Order of work among applications: a finite number. It is read from a number or, as older masters
/// send it, from a numeric string. It is written as a number.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rank(pub f64);

impl Rank {
    /// `None` for NaN and infinities, which have no order and are not valid JSON.
    pub fn new(number: f64) -> Option<Self> {
        number.is_finite().then_some(Self(number))
    }

    /// From a JSON number or numeric string.
    pub fn from_json(value: &Value) -> Option<Self> {
        match value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().parse().ok(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        }
        .and_then(Self::new)
    }
}

impl<'de> Deserialize<'de> for Rank {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Self::from_json(&value)
            .ok_or_else(|| D::Error::custom("a rank must be a finite number or a numeric string"))
    }
}

/// Lower ranks first. An application without a rank comes after all that have one.
pub fn cmp_rank(a: Option<Rank>, b: Option<Rank>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => a.0.total_cmp(&b.0),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}

impl AppSpec {
    /// Whether `service` should run: its entry in `service_states`, else `running`.
    pub fn wants_service(&self, service: &str) -> bool {
        match &self.service_states {
            Some(states) => states
                .get(service)
                .or_else(|| states.get(&format!("{service}.service")))
                .copied()
                .unwrap_or(self.running),
            None => self.running,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_fields_has_every_serialized_field() {
        let spec = AppSpec {
            version: "1".into(),
            url: Some(String::new()),
            package: Some(String::new()),
            sha256: Some(String::new()),
            running: true,
            config: Config::new(),
            service_states: Some(BTreeMap::new()),
            rank: Rank::new(1.0),
            requires: vec![AppName::new("web").unwrap()],
        };
        let Value::Object(written) = serde_json::to_value(spec).unwrap() else {
            panic!("no object");
        };
        let mut fields = FIELDS;
        fields.sort_unstable();
        let mut written: Vec<_> = written.keys().map(String::as_str).collect();
        written.sort_unstable();
        assert_eq!(written, fields);
    }
}
