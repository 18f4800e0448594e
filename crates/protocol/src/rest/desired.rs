//! What hosts should run, one by one or many at once, and what the fleet runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::hosts::{HostQuery, HostState};
use crate::spec::Apps;

/// `GET /v1/hosts/{id}/apps`, and the answer to a PUT there. The `ETag` is the generation in quotes; a PUT with
/// `If-Match` of another one answers 412. The body of a PUT is [`Apps`] or a whole `set_config`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DesiredApps {
    pub apps: Apps,
    /// 0: nothing was ever desired.
    pub generation: u64,
    /// Name of the token that set it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub author: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub changed_at: Option<String>,
    /// The host takes it only if its plan has this hash; see [`PutQuery`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub only_if_plan: Option<String>,
}

/// Query of `PUT /v1/hosts/{id}/apps`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct PutQuery {
    /// Ask the host what it would do instead: answers [`PlanAnswer`].
    pub dry_run: bool,
    /// Hash of a plan, as `dry_run` answers it. The host takes the desired state only if its plan is still that
    /// one; else it says so in its `errors` (phase `check`) and `last_rejected`, and changes nothing. Not used
    /// with `dry_run`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(regex(pattern = r"^[0-9a-f]{6,64}$")))]
    pub only_if_plan: Option<String>,
}

/// Query of `PUT /v1/apps/`: whose desired state is to be set. All filters that are given must hold, as in [`HostQuery`].
// The filters stand here again: flattened, serde takes no booleans out of a query, and refuses no unknown fields.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct FleetQuery {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<HostState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub responding: Option<bool>,
    /// Whether the host runs what is desired of it so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub satisfied: Option<bool>,
    /// Has this application installed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application: Option<String>,
    /// Has `application` (or any, without one) in exactly this version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `name`, or `name=value`; several separated by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Part of the host id, hostname or OS, in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Every host that is known; instead of filters.
    pub all: bool,
    /// Only count them.
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
    /// That match.
    pub hosts: u64,
    /// Of these, those of which something else was desired before. With `dry_run`: is desired now.
    pub changed: u64,
}

/// `GET /v1/apps/`: each application anywhere in the fleet.
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
    /// Hosts whose services of it run.
    pub running: u64,
    /// Hosts on which its health fails.
    pub failing: u64,
}
