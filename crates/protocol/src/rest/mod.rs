//! Bodies of the master's REST API, used by `bbmaster` and `bbctl`. Routes: docs/master.md and
//! /openapi.json.
//!
//! Readers must accept fields that they do not know. Times are RFC 3339, UTC, microseconds. Desired
//! applications are [`Apps`](crate::Apps); a master decodes them with [`crate::decode_apps`], as an
//! agent would.

mod desired;
mod enroll;
mod events;
mod hosts;
mod ping;
mod tokens;

use serde::{Deserialize, Serialize};

pub use crate::plan::PlanAnswer;
pub use desired::{AppList, AppUsage, DesiredApps, FleetQuery, FleetSet, PutQuery};
pub use enroll::{CreatedEnrollToken, Enroll, EnrollToken, EnrollTokenList, Enrolled, NewEnrollToken};
pub use events::{Event, EventKind, EventList, EventQuery};
pub use hosts::{Host, HostIds, HostList, HostQuery, HostState, HostSummary, Labels};
pub use ping::{PingAnswer, PingQuery, RetryAnswer};
pub use tokens::{CreatedToken, NewToken, Role, Token, TokenList, WhoAmI};

/// Answer to `GET /healthz` and `GET /readyz` (503 if something is not ready).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Health {
    /// What is not ready. Empty: everything is ready.
    pub problems: Vec<String>,
}

/// An error: RFC 9457, `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Problem {
    /// `about:blank`, or a permanent name of the kind of problem (`urn:backbone:...`).
    #[serde(rename = "type", default = "blank")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What is wrong with this request, and what to do.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
    /// JSON path in the body of the request (`$.app_foo.version`), or the name of a query
    /// parameter.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub path: Option<String>,
}

fn blank() -> String {
    "about:blank".to_owned()
}

/// Values of [`Problem::kind`].
pub mod problem {
    /// 412: `If-Match` has another generation than the current one.
    pub const GENERATION: &str = "urn:backbone:generation-changed";
    /// 504: the host did not answer in time.
    pub const NO_ANSWER: &str = "urn:backbone:host-does-not-answer";
    /// 409: no queue of the host is bound. The host is not connected or does not exist.
    pub const AWAY: &str = "urn:backbone:host-away";
    /// 409: the host has no desired state, so there is nothing to retry.
    pub const NOTHING_DESIRED: &str = "urn:backbone:nothing-desired";
    /// 501: the host's agent is too old for this request.
    pub const UNSUPPORTED: &str = "urn:backbone:agent-too-old";
    /// 409: this master has no [enroll] settings.
    pub const ENROLMENT_OFF: &str = "urn:backbone:enrolment-off";
    /// 409: this host id is already known; the token must name the host.
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
