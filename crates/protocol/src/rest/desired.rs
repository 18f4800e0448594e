//! Desired applications of one host or of many, and the applications of the fleet.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::hosts::{HostQuery, HostState};
use crate::spec::Apps;

/// Answer to `GET` and `PUT /v1/hosts/{id}/apps`. The `ETag` is the generation in quotes; a PUT
/// whose `If-Match` has another generation is answered with 412. The body of a PUT is [`Apps`] or a
/// whole `set_config`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DesiredApps {
    pub apps: Apps,
    /// 0: there was never a desired state.
    pub generation: u64,
    /// Name of the token that set it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub author: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub changed_at: Option<String>,
    /// The host accepts it only if its plan has this hash; see [`PutQuery`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub only_if_plan: Option<String>,
}

/// Query of `PUT /v1/hosts/{id}/apps`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct PutQuery {
    /// Change nothing, but ask the host what it would do. The answer is [`PlanAnswer`].
    pub dry_run: bool,
    /// Hash of a plan, from the answer to `dry_run`. The host accepts the desired state only if its
    /// plan still has this hash. Otherwise it changes nothing and reports this in `errors` (phase
    /// `check`) and `last_rejected`. Ignored with `dry_run`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(regex(pattern = r"^[0-9a-f]{6,64}$")))]
    pub only_if_plan: Option<String>,
}

/// Query of `PUT /v1/apps/`: the hosts whose desired state is set. A host must match all filters,
/// as in [`HostQuery`].
// The filters are repeated here, because a flattened struct can neither read booleans from a query
// nor refuse unknown fields.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct FleetQuery {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<HostState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub responding: Option<bool>,
    /// Whether the host satisfies its present desired state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub satisfied: Option<bool>,
    /// Has this application installed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application: Option<String>,
    /// Has `application` in exactly this version; without `application`, any application.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `name`, or `name=value`; several separated by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Part of the host id, hostname or OS, in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Every known host, instead of filters.
    pub all: bool,
    /// Change nothing, but count the hosts.
    pub dry_run: bool,
}

impl From<&FleetQuery> for HostQuery {
    fn from(fleet: &FleetQuery) -> Self {
        let fleet = fleet.clone();
        Self {
            status: fleet.status,
            responding: fleet.responding,
            satisfied: fleet.satisfied,
            application: fleet.application,
            version: fleet.version,
            label: fleet.label,
            text: fleet.text,
            limit: None,
            after: None,
        }
    }
}

/// Answer to `PUT /v1/apps/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FleetSet {
    /// Hosts that match.
    pub hosts: u64,
    /// Matching hosts whose desired state has changed. With `dry_run`: would change.
    pub changed: u64,
}

/// Answer to `GET /v1/apps/`: every application of the fleet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AppList {
    pub apps: Vec<AppUsage>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AppUsage {
    pub name: String,
    /// Version -> hosts that have it installed.
    pub installed: BTreeMap<String, u64>,
    /// Version -> hosts that should have it.
    pub desired: BTreeMap<String, u64>,
    /// Hosts on which its services run.
    pub running: u64,
    /// Hosts on which its health fails.
    pub failing: u64,
}
