//! Pings and retries.

use serde::{Deserialize, Serialize};

use super::hosts::HostState;

/// Query of `POST /v1/hosts/{id}/ping`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct PingQuery {
    /// Seconds to wait for the answer, up to 60; default 5. 0: do not wait (answers 202).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 60)))]
    pub wait: Option<f64>,
}

/// Answer to a ping. Also the answer to `POST /v1/ping`, which pings all hosts and does not wait.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PingAnswer {
    /// Milliseconds from the broker's confirm of the ping until the master had the status.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub round_trip_ms: Option<f64>,
    /// State in the host's answer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub status: Option<HostState>,
}

/// Answer to `POST /v1/hosts/{id}/retry`: the message was sent to the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RetryAnswer {
    /// Generation of the desired state that the host retries.
    pub generation: u64,
}
