//! JSON Schemas of the wire messages, generated from the types that decode and encode them.
//!
//! They describe what is guaranteed to be accepted, and what a reader must expect. docs/protocol.md
//! has the rules that a schema cannot express (duplicate keys, depth, size).

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::name::{AppName, HostId};
use crate::plan::PlanAnswer;
use crate::spec::{Apps, Rank};
use crate::status::Status;

/// The file name (in docs/schemas) and schema of every message.
pub fn messages() -> [(&'static str, Schema); 5] {
    [
        ("set_config.json", read::<SetConfigMessage>()),
        ("ping.json", read::<PingMessage>()),
        ("plan.json", read::<PlanMessage>()),
        ("plan_answer.json", written::<PlanAnswerMessage>()),
        ("status.json", written::<StatusMessage>()),
    ]
}

/// The schema of a message that an agent accepts.
fn read<T: JsonSchema>() -> Schema {
    SchemaSettings::draft2020_12()
        .for_deserialize()
        .into_generator()
        .into_root_schema_for::<T>()
}

/// The schema of a message that an agent sends. A field that it always writes is required.
fn written<T: JsonSchema>() -> Schema {
    SchemaSettings::draft2020_12()
        .for_serialize()
        .into_generator()
        .into_root_schema_for::<T>()
}

/// Sets a host's whole desired state. Applications that are not named are removed.
#[derive(JsonSchema)]
#[schemars(rename = "set_config")]
#[expect(dead_code, reason = "only its schema is used")]
struct SetConfigMessage {
    opcode: SetConfigOpcode,
    data: Apps,
    /// Echoed as `reply_to` in the status that answers.
    #[schemars(regex(pattern = "^[ -~]{0,256}$"))]
    id: Option<String>,
    /// A generation below the stored one is refused as stale.
    generation: Option<u64>,
    /// The message is refused unless the plan still has this hash.
    #[schemars(regex(pattern = "^[0-9a-f]{6,64}$"))]
    only_if_plan: Option<String>,
    /// Retries held applications, even if the desired state has not changed. Absent: false.
    retry: Option<bool>,
}

/// Asks what a `set_config` of these applications would do. Changes nothing.
#[derive(JsonSchema)]
#[schemars(rename = "plan")]
#[expect(dead_code, reason = "only its schema is used")]
struct PlanMessage {
    opcode: PlanOpcode,
    data: Apps,
    /// Echoed as `reply_to` in the answer.
    #[schemars(regex(pattern = "^[ -~]{0,256}$"))]
    id: Option<String>,
}

/// Asks for a status now.
#[derive(JsonSchema)]
#[schemars(rename = "ping")]
#[expect(dead_code, reason = "only its schema is used")]
struct PingMessage {
    opcode: PingOpcode,
    /// Echoed as `reply_to` in the status that answers.
    #[schemars(regex(pattern = "^[ -~]{0,256}$"))]
    id: Option<String>,
}

/// A host's report of its state.
#[derive(JsonSchema)]
#[schemars(rename = "status")]
#[expect(dead_code, reason = "only its schema is used")]
struct StatusMessage {
    opcode: StatusOpcode,
    data: Status,
}

/// What a `set_config` would do.
#[derive(JsonSchema)]
#[schemars(rename = "plan")]
#[expect(dead_code, reason = "only its schema is used")]
struct PlanAnswerMessage {
    opcode: PlanOpcode,
    data: PlanAnswer,
}

macro_rules! opcode {
    ($name:ident, $word:literal) => {
        struct $name;
        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                $word.into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "const": $word })
            }
        }
    };
}
opcode!(SetConfigOpcode, "set_config");
opcode!(PlanOpcode, "plan");
opcode!(PingOpcode, "ping");
opcode!(StatusOpcode, "status");

impl JsonSchema for AppName {
    fn schema_name() -> Cow<'static, str> {
        "AppName".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "An application's name, which is also its topic.",
            "type": "string",
            "pattern": "^(?!(slaves|master)$)[A-Za-z0-9][A-Za-z0-9+._-]{0,127}$",
        })
    }
}

/// A key of `service_states`. Only the schema needs a type for it.
pub(crate) struct ServiceName;

impl JsonSchema for ServiceName {
    fn schema_name() -> Cow<'static, str> {
        "ServiceName".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^[A-Za-z0-9][A-Za-z0-9+._@-]{0,127}$",
        })
    }
}

impl JsonSchema for HostId {
    fn schema_name() -> Cow<'static, str> {
        "HostId".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A host's identifier, usually a MAC address.",
            "type": "string",
            "pattern": "^(?!(slaves|master)$)[!\"$-)+-.0-~]{1,127}$",
        })
    }
}

impl JsonSchema for Rank {
    fn schema_name() -> Cow<'static, str> {
        "Rank".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        if generator.contract().is_serialize() {
            return json_schema!({ "type": "number" });
        }
        json_schema!({
            "description": "A finite number or a numeric string.",
            "type": ["number", "string"],
            "pattern": "^-?[0-9]{1,15}(\\.[0-9]{1,15})?$",
        })
    }
}
