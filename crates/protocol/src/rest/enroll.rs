//! Enrolment: how a new host gets its login at the broker.

use serde::{Deserialize, Serialize};

use super::tokens::whole_number;
use crate::name::HostId;

/// A row of `GET /v1/enroll-tokens/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EnrollToken {
    pub name: String,
    /// Number of hosts that can still enrol with it.
    pub uses_left: u64,
    /// The only host that may use it. Absent: any host that is not yet known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub host_id: Option<HostId>,
    pub created_at: String,
    pub created_by: String,
    pub expires_at: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EnrollTokenList {
    pub tokens: Vec<EnrollToken>,
}

/// Body of `POST /v1/enroll-tokens/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NewEnrollToken {
    /// A plain name of up to 64 characters; `@` is also allowed.
    #[cfg_attr(
        feature = "schema",
        schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9+._@-]{0,63}$"))
    )]
    pub name: String,
    /// Number of hosts that can enrol with it; default 1.
    #[serde(
        skip_serializing_if = "Option::is_none",
        default,
        deserialize_with = "whole_number"
    )]
    #[cfg_attr(
        feature = "schema",
        schemars(with = "Option<u64>", range(min = 1, max = 100_000u64))
    )]
    pub uses: Option<u64>,
    /// Seconds until it expires; default one day.
    #[serde(
        skip_serializing_if = "Option::is_none",
        default,
        deserialize_with = "whole_number"
    )]
    #[cfg_attr(
        feature = "schema",
        schemars(with = "Option<u64>", range(min = 1, max = 31_536_000u64))
    )]
    pub expires_in: Option<u64>,
    /// The only host that may use it. This host may be known already; it gets a new password.
    /// Absent: only hosts that have neither enrolled nor reported before.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub host_id: Option<HostId>,
}

impl NewEnrollToken {
    pub const MOST_USES: u64 = 100_000;
    /// A year.
    pub const LONGEST_LIFE: u64 = 31_536_000;
    pub const USUAL_LIFE: u64 = 24 * 60 * 60;
}

/// Answer to `POST /v1/enroll-tokens/`. The secret is shown only here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CreatedEnrollToken {
    pub token: EnrollToken,
    pub secret: String,
}

/// Body of `POST /v1/enroll`, sent by a host with `Authorization: Bearer ENROL-TOKEN`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Enroll {
    pub host_id: HostId,
}

/// Answer to `POST /v1/enroll`: how this host reaches the broker. `password` is shown only here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Enrolled {
    pub host_id: HostId,
    pub host: String,
    pub port: u16,
    pub virtual_host: String,
    pub username: String,
    pub password: String,
    /// Whether to use TLS.
    pub tls: bool,
    /// Certificate authorities of the broker, PEM. Absent: the host's own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ca: Option<String>,
    /// Users whose messages the host accepts.
    pub trusted_users: Vec<String>,
}
