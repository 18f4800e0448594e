//! Hosts and lists of hosts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::name::{AppName, HostId};
use crate::spec::Apps;
use crate::status::{AgentInfo, AppStatus, ErrorReport, Rejected, State};

/// Label -> value. A label's name is a plain name of up to 63 characters; `/` is allowed inside.
pub type Labels = BTreeMap<String, String>;

/// A host's state as the master sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum HostState {
    Ok,
    Converging,
    Errors,
    /// It has a desired state or labels, but has never reported.
    Missing,
}

impl From<State> for HostState {
    fn from(state: State) -> Self {
        match state {
            State::Ok => Self::Ok,
            State::Converging => Self::Converging,
            State::Errors => Self::Errors,
        }
    }
}

impl HostState {
    pub const ALL: [Self; 4] = [Self::Ok, Self::Converging, Self::Errors, Self::Missing];

    /// As in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Converging => "converging",
            Self::Errors => "errors",
            Self::Missing => "missing",
        }
    }
}

/// Answer to `GET /v1/hosts/{id}`: everything that the master knows about one host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Host {
    pub host_id: HostId,
    pub status: HostState,
    /// Whether it has reported recently (`[bbmaster] silent_after`).
    pub responding: bool,
    /// Whether `apps` satisfies `desired_apps`. `true` if there was never a desired state.
    pub satisfied: bool,
    /// One line on what the agent is doing, while `converging`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
    /// Facts: `hostname`, `os_family`, `arch`, `os_info` and more.
    pub info: BTreeMap<String, Value>,
    /// Installed applications, as last reported.
    pub apps: BTreeMap<AppName, AppStatus>,
    /// As last set over this API. Absent: there was never a desired state.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub desired_apps: Option<Apps>,
    /// Generation of `desired_apps`; 0: there was never a desired state.
    pub generation: u64,
    /// Generation that the host reported last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reported_generation: Option<u64>,
    pub errors: Vec<ErrorReport>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_rejected: Option<Rejected>,
    pub host_agent: AgentInfo,
    pub labels: Labels,
    /// Time of the last status, by the host's clock. Absent: it has never reported.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub timestamp: Option<String>,
    /// Time of the first status, by the master's clock.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first_seen: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_seen: Option<String>,
    /// `boot_id` and `seq` of the last status.
    pub boot_id: String,
    pub seq: u64,
    /// Number of lost statuses, counted by gaps in `seq`.
    pub lost_statuses: u64,
}

/// One row of `GET /v1/hosts/`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HostSummary {
    pub host_id: HostId,
    pub status: HostState,
    pub responding: bool,
    pub satisfied: bool,
    pub hostname: String,
    pub os_info: String,
    pub agent_version: String,
    /// Application -> installed version.
    pub apps: BTreeMap<String, String>,
    /// Message of the first error.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    pub generation: u64,
    pub labels: Labels,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_seen: Option<String>,
}

/// Query of `GET /v1/hosts/` and `GET /v1/hosts/ids/`. A host must match all filters.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct HostQuery {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<HostState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub responding: Option<bool>,
    /// Whether the host satisfies its desired state.
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
    /// Rows per page, 1 to 1000; default 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1000)))]
    pub limit: Option<u32>,
    /// `next` of the previous page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// A page of `GET /v1/hosts/`, ordered by host id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HostList {
    pub hosts: Vec<HostSummary>,
    /// Value of `?after=` for the next page. Absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<String>,
    /// Hosts that match, on all pages.
    pub total: u64,
}

/// A page of `GET /v1/hosts/ids/`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HostIds {
    pub ids: Vec<HostId>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<String>,
}
