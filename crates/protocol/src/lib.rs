//! The messages that agents, masters and operators exchange, as validated types. No I/O.
//!
//! A message passes through these modules, in this order:
//!
//! | module | job |
//! |---|---|
//! | `limits`, `json`, `fault` | bytes -> JSON tree; a fault has the path of its place |
//! | [`inbound`] | JSON tree -> a message to a host: `set_config`, `plan` or `ping` |
//! | `fields`, `decode_spec` | JSON tree -> desired applications |
//! | [`spec`] | the desired state of an application |
//! | [`satisfied`] | compares observed with desired |
//! | [`status`] | what a host reports |
//! | [`plan`] | what a host would do |
//! | [`rest`] | bodies of the master's REST API |
//!
//! [`name`] (identifiers) and [`topic`] (routing) are used by all of them; `schema` generates JSON
//! Schemas of the messages.

pub mod name;
pub mod topic;

mod limits;
mod json;
mod fault;
pub mod inbound;
mod fields;
mod decode_spec;
pub mod spec;
pub mod satisfied;
pub mod status;
pub mod plan;
pub mod rest;
#[cfg(feature = "schema")]
pub mod schema;
pub mod url;

pub use inbound::{
    DecodeError, Inbound, Limits, SetConfig, UnknownField, decode, decode_apps, decode_config, encode_ping,
    encode_plan, is_plan_hash, unknown_field,
};
pub use name::{AppName, HostId};
pub use plan::PlanAnswer;
pub use satisfied::{app_satisfied, apps_satisfied};
pub use spec::{AppSpec, Apps, Config};
pub use status::{AppStatus, Category, ErrorReport, Phase, State, Status};
pub use url::without_credentials;
