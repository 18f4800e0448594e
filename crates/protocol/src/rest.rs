//! Bodies of the master's REST API, shared by `bbmaster` and `bbctl`. Routes: docs/master.md, /openapi.json.
//!
//! Readers must take fields they do not know. Times are RFC 3339, UTC, microseconds. Desired applications
//! travel as [`Apps`]; a master decodes them with [`crate::decode_apps`], as an agent would.

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

pub use crate::enroll::{CreatedEnrollToken, Enroll, EnrollToken, EnrollTokenList, Enrolled, NewEnrollToken};
use crate::name::{AppName, HostId};
pub use crate::plan::PlanAnswer;
use crate::spec::Apps;
use crate::status::{AgentInfo, AppStatus, ErrorReport, Rejected, State};

/// Label -> value. A label's name: a plain name of up to 63 characters, `/` allowed inside.
pub type Labels = BTreeMap<String, String>;

/// A host's state as the master sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum HostState {
    Ok,
    Converging,
    Errors,
    /// Something is desired of it (or it has labels), but it has never reported.
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

/// `GET /v1/hosts/{id}`: all that is known of one host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Host {
    pub host_id: HostId,
    pub status: HostState,
    /// Whether it has reported lately (`[bbmaster] silent_after`).
    pub responding: bool,
    /// Whether `apps` is what `desired_apps` asks. `true` where nothing was ever desired.
    pub satisfied: bool,
    /// One line on what the agent is doing, while `converging`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
    /// Facts: `hostname`, `os_family`, `arch`, `os_info` and more.
    pub info: BTreeMap<String, Value>,
    /// Installed applications, as last reported.
    pub apps: BTreeMap<AppName, AppStatus>,
    /// As last set over this API; absent: nothing was ever desired.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub desired_apps: Option<Apps>,
    /// Of `desired_apps`; 0: nothing was ever desired.
    pub generation: u64,
    /// Of the desired state that the host itself reported last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reported_generation: Option<u64>,
    pub errors: Vec<ErrorReport>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_rejected: Option<Rejected>,
    pub host_agent: AgentInfo,
    pub labels: Labels,
    /// Of the last status, by the host's clock; absent: never reported.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub timestamp: Option<String>,
    /// By the master's clock.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first_seen: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_seen: Option<String>,
    /// Of the last status: which start of the agent, and its count in it.
    pub boot_id: String,
    pub seq: u64,
    /// Statuses known to be lost, by gaps in `seq`.
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
    /// Application -> version, installed.
    pub apps: BTreeMap<String, String>,
    /// Message of the first error.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    pub generation: u64,
    pub labels: Labels,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_seen: Option<String>,
}

/// Query of `GET /v1/hosts/` and `GET /v1/hosts/ids/`. All that are given must hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct HostQuery {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<HostState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub responding: Option<bool>,
    /// Whether the host runs what is desired of it.
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
    /// Rows a page, 1 to 1000; 100 where not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1000)))]
    pub limit: Option<u32>,
    /// `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// A page of `GET /v1/hosts/`, ordered by host id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HostList {
    pub hosts: Vec<HostSummary>,
    /// For `?after=`; absent on the last page.
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

/// Query of `POST /v1/hosts/{id}/ping`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct PingQuery {
    /// Seconds to wait for the answer, up to 60; 5 where not given. 0: do not wait (answers 202).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 60)))]
    pub wait: Option<f64>,
}

/// Answer to a ping; also to `POST /v1/ping`, which asks all hosts and waits for none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PingAnswer {
    /// Milliseconds from the broker's confirm of the ping until the master had the status.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub round_trip_ms: Option<f64>,
    /// As it answered.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub status: Option<HostState>,
}

/// Answer to `POST /v1/hosts/{id}/retry`: the host has been told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RetryAnswer {
    /// Of the desired state that it tries again to reach.
    pub generation: u64,
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

/// What an event tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A host reported for the first time.
    HostAppeared,
    /// A host's `status` is another one than before, or its errors are; `data`: `from`, `to`, `errors`.
    StatusChanged,
    /// A host has not reported for `[bbmaster] silent_after`.
    HostSilent,
    /// A silent host reported again.
    HostReturned,
    /// `data`: `generation`, `apps`.
    DesiredChanged,
    /// Somebody had a host try again what failed; `data`: `generation`.
    RetryAsked,
    /// `data`: `labels`.
    LabelsChanged,
    HostDeleted,
    TokenCreated,
    TokenRevoked,
    EnrollTokenCreated,
    EnrollTokenRevoked,
    /// A host has got its login at the broker.
    HostEnrolled,
}

impl EventKind {
    pub const ALL: [Self; 13] = [
        Self::HostAppeared,
        Self::StatusChanged,
        Self::HostSilent,
        Self::HostReturned,
        Self::DesiredChanged,
        Self::RetryAsked,
        Self::LabelsChanged,
        Self::HostDeleted,
        Self::TokenCreated,
        Self::TokenRevoked,
        Self::EnrollTokenCreated,
        Self::EnrollTokenRevoked,
        Self::HostEnrolled,
    ];

    /// As in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HostAppeared => "host_appeared",
            Self::StatusChanged => "status_changed",
            Self::HostSilent => "host_silent",
            Self::HostReturned => "host_returned",
            Self::DesiredChanged => "desired_changed",
            Self::RetryAsked => "retry_asked",
            Self::LabelsChanged => "labels_changed",
            Self::HostDeleted => "host_deleted",
            Self::TokenCreated => "token_created",
            Self::TokenRevoked => "token_revoked",
            Self::EnrollTokenCreated => "enroll_token_created",
            Self::EnrollTokenRevoked => "enroll_token_revoked",
            Self::HostEnrolled => "host_enrolled",
        }
    }
}

/// Something that happened. As a server-sent event: `id` is the SSE id, `kind` its name, this its data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Event {
    /// Counts up, with gaps.
    pub id: u64,
    pub at: String,
    pub kind: EventKind,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub host_id: Option<HostId>,
    /// Name of the token, for what someone did; absent for what a host did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub author: Option<String>,
    /// For people.
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub data: Option<Value>,
}

/// Query of `GET /v1/events`. With `Accept: text/event-stream`: the events after `after` (or the header
/// `Last-Event-ID`; without either, only new ones), then live for as long as the connection stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct EventQuery {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_id: Option<HostId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<EventKind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Events with a higher id, oldest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Events with a lower id, newest first: the way when `after` is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// 1 to 1000; 100 where not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1000)))]
    pub limit: Option<u32>,
}

/// A page of `GET /v1/events`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EventList {
    pub events: Vec<Event>,
    /// For `?after=` or `?before=`, whichever way this page went; absent where there is no more.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<u64>,
}

/// What a token's holder may do; each may what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look.
    Viewer,
    /// Change desired applications and labels, ping, let hosts enrol.
    Operator,
    /// Delete hosts, make and revoke tokens.
    Admin,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    /// As in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// A row of `GET /v1/tokens/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Token {
    /// Whom or what it is for; the author of what is done with it.
    pub name: String,
    pub role: Role,
    pub created_at: String,
    pub created_by: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expires_at: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TokenList {
    pub tokens: Vec<Token>,
}

/// Body of `POST /v1/tokens/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// A plain name of up to 64 characters; `@` is allowed, too.
    #[cfg_attr(
        feature = "schema",
        schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9+._@-]{0,63}$"))
    )]
    pub name: String,
    pub role: Role,
    /// Seconds until it is worth nothing; absent: for good.
    #[serde(
        skip_serializing_if = "Option::is_none",
        default,
        deserialize_with = "whole_number"
    )]
    #[cfg_attr(
        feature = "schema",
        schemars(with = "Option<u64>", range(min = 1, max = 3_155_760_000u64))
    )]
    pub expires_in: Option<u64>,
}

/// `420.0` is a whole number, too, for JSON and its schemas.
pub(crate) fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    /// Up to here, doubles hold every whole number.
    const LARGEST: f64 = 9_007_199_254_740_992.0;
    match Option::<f64>::deserialize(deserializer)? {
        None => Ok(None),
        Some(number) if number.fract() == 0.0 && (0.0..=LARGEST).contains(&number) => Ok(Some(number as u64)),
        Some(_) => Err(D::Error::custom("a whole number, not below 0, is needed")),
    }
}

/// Answer to `POST /v1/tokens/`: the one time that the secret is shown. Sent as `Authorization: Bearer SECRET`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CreatedToken {
    pub token: Token,
    pub secret: String,
}

/// `GET /v1/whoami`: whose token this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WhoAmI {
    pub name: String,
    pub role: Role,
    pub master_version: String,
}

/// `GET /healthz` and `GET /readyz` (503 where something is not ready).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Health {
    /// What is not well; empty: all is.
    pub problems: Vec<String>,
}

/// An error: RFC 9457, `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Problem {
    /// `about:blank`, or a name of the kind of problem that does not change (`urn:backbone:...`).
    #[serde(rename = "type", default = "blank")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What is wrong with this request, and what to do.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
    /// JSON path into the body of the request (`$.app_foo.version`), or the name of a query parameter.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub path: Option<String>,
}

fn blank() -> String {
    "about:blank".to_owned()
}

/// Values of [`Problem::kind`].
pub mod problem {
    /// 412: `If-Match` names another generation than the current one.
    pub const GENERATION: &str = "urn:backbone:generation-changed";
    /// 504: the host did not answer in time.
    pub const NO_ANSWER: &str = "urn:backbone:host-does-not-answer";
    /// 409: no queue of the host is bound: it is away, or does not exist.
    pub const AWAY: &str = "urn:backbone:host-away";
    /// 409: nothing is desired of the host, so there is nothing to try again.
    pub const NOTHING_DESIRED: &str = "urn:backbone:nothing-desired";
    /// 501: the host's agent is too old for what is asked.
    pub const UNSUPPORTED: &str = "urn:backbone:agent-too-old";
    /// 409: this master has no [enroll] settings.
    pub const ENROLMENT_OFF: &str = "urn:backbone:enrolment-off";
    /// 409: a host of this id is known; it needs a token that names it.
    pub const HOST_KNOWN: &str = "urn:backbone:host-known";
    /// 503: the master has no connection to its broker.
    pub const NO_BROKER: &str = "urn:backbone:broker-away";
    /// 400, 422: the body is not valid; `path` says where.
    pub const INVALID: &str = "urn:backbone:invalid";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_same_in_json_and_in_code() {
        for kind in EventKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
        for state in HostState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        for role in Role::ALL {
            assert_eq!(serde_json::to_value(role).unwrap(), role.as_str());
        }
    }

    #[test]
    fn a_problem_needs_no_more_than_rfc_9457_asks() {
        let problem: Problem = serde_json::from_str(r#"{"title": "Not Found", "status": 404}"#).unwrap();
        assert_eq!(problem.kind, "about:blank");
    }
}
