//! API tokens and their roles.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// What the holder of a token may do. Each role includes the roles before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Read.
    Viewer,
    /// Change desired applications and labels, ping, create enrolment tokens.
    Operator,
    /// Delete hosts, create and revoke tokens.
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
    /// Who or what uses it; recorded as author of its changes.
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
    /// A plain name of up to 64 characters; `@` is also allowed.
    #[cfg_attr(
        feature = "schema",
        schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9+._@-]{0,63}$"))
    )]
    pub name: String,
    pub role: Role,
    /// Seconds until it expires. Absent: it does not expire.
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

/// Accepts `420.0` as well: it is a whole number in JSON and in its schemas.
pub(super) fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    /// Up to this number, a double represents every whole number exactly.
    const LARGEST: f64 = 9_007_199_254_740_992.0;
    match Option::<f64>::deserialize(deserializer)? {
        None => Ok(None),
        Some(number) if number.fract() == 0.0 && (0.0..=LARGEST).contains(&number) => Ok(Some(number as u64)),
        Some(_) => Err(D::Error::custom("a whole number of at least 0 is needed")),
    }
}

/// Answer to `POST /v1/tokens/`. The secret is shown only here. Clients send it as
/// `Authorization: Bearer SECRET`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CreatedToken {
    pub token: Token,
    pub secret: String,
}

/// Answer to `GET /v1/whoami`: the owner of the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WhoAmI {
    pub name: String,
    pub role: Role,
    pub master_version: String,
}
