//! Pings and retries.

use serde::{Deserialize, Serialize};

use super::hosts::HostState;

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
