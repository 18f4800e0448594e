//! What an application should be: one entry of a `set_config`.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::name::AppName;

/// Section -> key -> value, as a `set_config` carries it and a hook prints it.
pub type Config = BTreeMap<String, BTreeMap<String, Value>>;

/// A host's whole desired state.
pub type Apps = BTreeMap<AppName, AppSpec>;

/// The desired state of one application. Fields: docs/protocol.md.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppSpec {
    /// Full version, or an upstream version that any release satisfies.
    pub version: String,
    /// http, https or file URL of an .rpm or .deb; absent: the host's own repositories.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The package's name, where it is not to be read from the package file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    /// Lower-case hex SHA-256 of the package file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Whether the application's services run (and start at boot).
    #[serde(default = "yes")]
    pub running: bool,
    #[serde(default)]
    pub config: Config,
    /// Per service, instead of `running`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_states: Option<BTreeMap<String, bool>>,
    /// Lower first; removals in reverse; those without a rank last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<Rank>,
}

fn yes() -> bool {
    true
}

/// Order of work among applications: a finite number.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rank(pub f64);

impl AppSpec {
    /// Compares by rank; an application without one comes after all that have one.
    pub fn cmp_rank(&self, other: &Self) -> Ordering {
        match (self.rank, other.rank) {
            (Some(a), Some(b)) => a.0.total_cmp(&b.0),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => Ordering::Equal,
        }
    }

    /// Whether `service` is to run.
    pub fn wants_service(&self, service: &str) -> bool {
        match &self.service_states {
            Some(states) => states.get(service).copied().unwrap_or(self.running),
            None => self.running,
        }
    }
}
