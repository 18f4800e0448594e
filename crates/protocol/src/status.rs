//! What a host says of itself: the `status` message.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::name::{AppName, HostId};
use crate::spec::{Apps, Config};

/// The `data` of a `status` message. Fields: docs/protocol.md.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub host_id: HostId,
    pub status: State,
    /// One line on what the agent is doing or waiting for, while `converging`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
    /// `hostname`, `os_family`, `arch`, `os_info` and more facts.
    pub info: BTreeMap<String, Value>,
    pub apps: BTreeMap<AppName, AppStatus>,
    /// Present unless `status` is `ok`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub desired_apps: Option<Apps>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub errors: Vec<ErrorReport>,
    /// The newest message that was refused, kept after later heartbeats report the true state again.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_rejected: Option<Rejected>,
    pub host_agent: AgentInfo,
    /// Generation of the desired state, where its sender gave one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub generation: Option<u64>,
    /// `id` of the message that this status answers.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reply_to: Option<String>,
    /// Counts up from 1 in each run of the agent: a gap is a lost status.
    pub seq: u64,
    /// Changes with each start of the agent; `seq` is ordered within one `boot_id`.
    pub boot_id: String,
    /// RFC 3339, UTC, microseconds.
    pub timestamp: String,
}

/// A host's state; there is no other value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Observed satisfies desired, or nothing was ever desired.
    Ok,
    /// Applying, or about to.
    Converging,
    /// The last attempt failed, or the last message was rejected.
    Errors,
}

/// An installed application.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppStatus {
    /// As desired, where satisfied; else the package's own.
    pub version: String,
    /// The exact version in the package database.
    pub package_version: String,
    pub package: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub url: Option<String>,
    pub running: bool,
    pub config: Config,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub services: BTreeMap<String, ServiceStatus>,
    pub health: Health,
    /// Seconds since `config` was read.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub config_age_s: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    pub running: bool,
    /// Starts at boot.
    pub enabled: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Every service is as desired and every check passes.
    Ok,
    /// A service that should run does not, a check fails, or the package is half-installed.
    Failing,
    /// Nothing to check: the application has no service that is to run, and no check.
    Unknown,
}

/// One thing that went wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorReport {
    /// Absent where the whole message or host is meant.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub app: Option<AppName>,
    pub phase: Phase,
    pub category: Category,
    /// What failed, on what, why, and what to do: for the operator.
    pub message: String,
    /// Attempts made so far.
    pub attempt: u32,
    /// RFC 3339; absent: held until the desired state changes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_retry: Option<String>,
    pub rolled_back: bool,
}

/// Where in its way to the host something failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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

/// What kind of failure: says who can help, and whether retrying may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// The message or the desired state itself is not valid. Permanent.
    Invalid,
    /// Another host uses this host's id.
    Conflict,
    /// Unreachable, refused, timed out. Transient.
    Network,
    /// Someone else holds the package manager's lock. Transient.
    Locked,
    /// No space left. Transient.
    DiskSpace,
    /// Digest, name, version or architecture is other than asked. Permanent.
    Verification,
    /// Not found: the package, its URL, or a service it should have. Permanent.
    NotFound,
    /// Dependencies or file conflicts. Permanent.
    Dependency,
    /// A maintainer script, hook or service command failed. Permanent.
    Script,
    /// A deadline ran out and the process group was ended. Permanent.
    Timeout,
    /// Services do not stay up, or a check fails. Permanent.
    Unhealthy,
    /// Anything else on the host: I/O errors, a facility that does not answer. Transient.
    Host,
}

impl Category {
    /// Whether trying again without any change may succeed.
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
pub struct Rejected {
    pub reason: String,
    /// RFC 3339, UTC.
    pub timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub id: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentInfo {
    pub version: String,
    pub uptime_s: u64,
    /// Resident set size in KiB, from /proc/self/status.
    pub rss_kib: u64,
}

impl Status {
    /// The bytes to publish: `{"opcode": "status", "data": {...}}`.
    pub fn encode(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Envelope<'a> {
            opcode: &'static str,
            data: &'a Status,
        }
        // Maps with string keys and no foreign Serialize: this cannot fail.
        serde_json::to_vec(&Envelope {
            opcode: "status",
            data: self,
        })
        .unwrap_or_default()
    }
}
