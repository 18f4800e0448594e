//! Events: what happened in the fleet.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::name::HostId;

/// The kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A host reported for the first time.
    HostAppeared,
    /// A host's `status` or its errors have changed; `data`: `from`, `to`, `errors`.
    StatusChanged,
    /// A host has not reported for `[bbmaster] silent_after`.
    HostSilent,
    /// A silent host reported again.
    HostReturned,
    /// `data`: `generation`, `apps`.
    DesiredChanged,
    /// Somebody asked a host to retry what failed; `data`: `generation`.
    RetryAsked,
    /// `data`: `labels`.
    LabelsChanged,
    HostDeleted,
    TokenCreated,
    TokenRevoked,
    EnrollTokenCreated,
    EnrollTokenRevoked,
    /// A host got its login at the broker.
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

/// Something that happened. As a server-sent event: `id` is the SSE id, `kind` is the event name,
/// and this object is the data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Event {
    /// Counts up, with gaps.
    pub id: u64,
    pub at: String,
    pub kind: EventKind,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub host_id: Option<HostId>,
    /// Name of the token that did it. Absent: a host did it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub author: Option<String>,
    /// For people.
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub data: Option<Value>,
}

/// Query of `GET /v1/events`. With `Accept: text/event-stream`: the events after `after` (or after
/// the header `Last-Event-ID`; without either, only new events), then new events until the
/// connection ends.
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
    /// Events with a lower id, newest first. Without `after` and `before`, the newest events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// 1 to 1000; default 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1000)))]
    pub limit: Option<u32>,
}

/// A page of `GET /v1/events`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EventList {
    pub events: Vec<Event>,
    /// Value of `?after=` or `?before=` (as in the request) for the next page. Absent on the last
    /// page.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<u64>,
}
