//! The words that Backbone's agents and masters exchange, as validated types. No I/O here.
//!
//! A message passes through these modules in this order:
//! bytes -> `json` (strict parsing, with the path of what is wrong, a `fault`) -> [`inbound`] (what a host is
//! told) -> [`spec`] (what an application should be) -> [`satisfied`] (is it so?) -> [`status`] (what a
//! host says). [`plan`]: what a host says that it would do. [`name`] and [`topic`] hold the identifiers and the routing that they share; [`rest`] what
//! operators and masters tell each other.

mod decode_spec;
mod fault;
mod fields;
pub mod inbound;
mod json;
mod limits;
pub mod name;
pub mod plan;
pub mod rest;
pub mod satisfied;
#[cfg(feature = "schema")]
pub mod schema;
pub mod spec;
pub mod status;
pub mod topic;

pub use inbound::{
    DecodeError, Inbound, Limits, SetConfig, UnknownField, decode, decode_apps, decode_config, encode_ping,
    encode_plan, is_plan_hash, unknown_field,
};
pub use name::{AppName, HostId};
pub use plan::PlanAnswer;
pub use satisfied::{app_satisfied, apps_satisfied};
pub use spec::{AppSpec, Apps, Config};
pub use status::{AppStatus, Category, ErrorReport, Phase, State, Status};
