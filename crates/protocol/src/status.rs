//! The `status` message, in which a host reports its state.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fault::{Fault, clip};
use crate::fields::{object, string};
use crate::inbound::DecodeError;
use crate::json;
use crate::limits::Limits;
use crate::name::{AppName, HostId};
use crate::spec::{Apps, Config};

/// The `data` of a `status` message. Fields: docs/protocol.md.
// A field that agents before Backbone did not send has a default, so that a master can read their
// statuses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Status {
    pub host_id: HostId,
    pub status: State,
    /// One line on what the agent is doing or waiting for, while `converging`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
    /// `hostname`, `os_family`, `arch`, `os_info` and more facts.
    #[serde(default)]
    pub info: BTreeMap<String, Value>,
    #[serde(default)]
    pub apps: BTreeMap<AppName, AppStatus>,
    /// Present unless `status` is `ok`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub desired_apps: Option<Apps>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub errors: Vec<ErrorReport>,
    /// The last message that was refused. Later heartbeats still contain it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_rejected: Option<Rejected>,
    #[serde(default)]
    pub host_agent: AgentInfo,
    /// Generation of the desired state, if its sender gave one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub generation: Option<u64>,
    /// `id` of the message that this status answers.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reply_to: Option<String>,
    /// Counts up from 1 in each run of the agent. A gap means that a status was lost.
    #[serde(default)]
    pub seq: u64,
    /// Changes with each start of the agent. `seq` is ordered within one `boot_id`.
    #[serde(default)]
    pub boot_id: String,
    /// RFC 3339, UTC, microseconds.
    #[serde(default)]
    pub timestamp: String,
}

/// A host's state. There are no other values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The observed state satisfies the desired state, or there was never a desired state.
    Ok,
    /// Applying, or about to.
    Converging,
    /// The last attempt failed, or the last message was rejected.
    Errors,
}

/// An installed application.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AppStatus {
    /// The desired version, if it is satisfied; else the package's version.
    pub version: String,
    /// The exact version in the package database.
    #[serde(default)]
    pub package_version: String,
    #[serde(default)]
    pub package: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub url: Option<String>,
    pub running: bool,
    #[serde(default)]
    pub config: Config,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub services: BTreeMap<String, ServiceStatus>,
    #[serde(default)]
    pub health: Health,
    /// Seconds since `config` was read.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub config_age_s: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ServiceStatus {
    pub running: bool,
    /// Starts at boot.
    pub enabled: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Every service is as desired and every check passes.
    Ok,
    /// A service that should run does not, a check fails, or the package is half-installed.
    Failing,
    /// The application has no service that should run and no check.
    #[default]
    Unknown,
}

/// One thing that went wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ErrorReport {
    /// Absent if the error is about the whole message or host.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub app: Option<AppName>,
    pub phase: Phase,
    pub category: Category,
    /// What failed, on what, why, and what to do. For the operator.
    pub message: String,
    /// Attempts made so far.
    pub attempt: u32,
    /// RFC 3339. Absent: held until something that made it fail changes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_retry: Option<String>,
    pub rolled_back: bool,
}

/// In which phase something failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    Connect,
    Decode,
    Observe,
    Download,
    Verify,
    Check,
    Install,
    Remove,
    Configure,
    Service,
    Health,
    Rollback,
}

/// As in JSON.
impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// As in JSON.
impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// The kind of a failure. It says who can fix it, and whether a retry can succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// The message or the desired state is not valid. Permanent.
    Invalid,
    /// Another host uses this host's id.
    Conflict,
    /// A peer is unreachable, refuses, or does not answer in time. Transient.
    Network,
    /// Another process has the package manager's lock. Transient.
    Locked,
    /// No disk space is left. Transient.
    DiskSpace,
    /// The digest, name, version or architecture is not the requested one. Permanent.
    Verification,
    /// The package, its URL, or a service that it should have does not exist. Permanent.
    NotFound,
    /// Unmet dependencies, or conflicts between files. Permanent.
    Dependency,
    /// A maintainer script, hook or service command failed. Permanent.
    Script,
    /// A deadline passed and the process group was killed. Permanent.
    Timeout,
    /// Services do not keep running, or a check fails. Permanent.
    Unhealthy,
    /// Another error on the host: I/O, or a facility that does not answer. Transient.
    Host,
}

impl Category {
    /// Whether a retry without any change can succeed.
    pub fn is_transient(self) -> bool {
        match self {
            Self::Network | Self::Locked | Self::DiskSpace | Self::Host | Self::Conflict => true,
            Self::Invalid
            | Self::Verification
            | Self::NotFound
            | Self::Dependency
            | Self::Script
            | Self::Timeout
            | Self::Unhealthy => false,
        }
    }
}

/// A message that was refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Rejected {
    pub reason: String,
    /// RFC 3339, UTC.
    pub timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub id: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct AgentInfo {
    pub version: String,
    pub uptime_s: u64,
    /// Resident set size in KiB, from /proc/self/status.
    pub rss_kib: u64,
}

impl AppStatus {
    /// The version in the package database, or `version` if an older agent sends only that.
    pub fn exact_version(&self) -> &str {
        if self.package_version.is_empty() {
            &self.version
        } else {
            &self.package_version
        }
    }
}

const STATUS: &str = "status";

impl Status {
    /// Decodes a `status` message. Unlike an agent, a master accepts duplicate keys (the last one
    /// counts): a status is decoded in one pass, and only a refused one is parsed again to find the
    /// place of the error.
    pub fn decode(body: &[u8], limits: Limits) -> Result<Self, DecodeError> {
        #[derive(Deserialize)]
        struct StatusEnvelope<'a> {
            #[serde(borrow)]
            opcode: Cow<'a, str>,
            data: Status,
        }
        if body.len() <= limits.max_size
            && let Ok(envelope) = serde_json::from_slice::<StatusEnvelope>(body)
            && envelope.opcode == STATUS
        {
            return Ok(envelope.data);
        }
        Err(DecodeError::new(why_no_status(body, limits), None))
    }

    /// The bytes to publish: `{"opcode": "status", "data": {...}}`.
    pub fn encode(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct StatusMessage<'a> {
            opcode: &'a str,
            data: &'a Status,
        }
        // Maps with string keys: this cannot fail.
        serde_json::to_vec(&StatusMessage {
            opcode: STATUS,
            data: self,
        })
        .unwrap_or_default()
    }
}

/// What is wrong with a body that is not a `status`. Each field is tried alone, because serde does
/// not report where an error is.
fn why_no_status(body: &[u8], limits: Limits) -> Fault {
    locate(body, limits)
        .err()
        .unwrap_or_else(|| Fault::new("is not a status message"))
}

fn locate(body: &[u8], limits: Limits) -> Result<(), Fault> {
    let mut members = object(json::parse(body, limits)?)?;
    let opcode = string(&mut members, "opcode")?;
    if opcode.as_deref() != Some(STATUS) {
        return Err(Fault::new("is not \"status\"").under("opcode"));
    }
    let data = members
        .remove("data")
        .ok_or_else(|| Fault::missing("data", "an object is needed"))?;
    let in_data = |fault: Fault| fault.under("data");
    let mut fields = object(data).map_err(in_data)?;
    if let Some(Value::Object(apps)) = fields.remove("apps") {
        for (name, app) in apps {
            AppName::check(&name)
                .map_err(|error| in_data(Fault::new(error.to_string()).under(&name).under("apps")))?;
            AppStatus::deserialize(&app)
                .map_err(|error| without_value(&error).under(&name).under("apps"))
                .map_err(in_data)?;
        }
    }
    Status::deserialize(Value::Object(fields))
        .map(drop)
        .map_err(|error| in_data(without_value(&error)))
}

/// serde's message without the value that it quotes, which may be a secret.
pub(crate) fn without_value(error: &serde_json::Error) -> Fault {
    let message = error.to_string();
    Fault::new(
        match (message.split_once(": "), message.rsplit_once(", expected ")) {
            (Some((what, _)), Some((_, expected))) => format!("{what}; {} is needed", clip(expected)),
            _ => clip(&message).replace(char::is_control, "?"),
        },
    )
}
