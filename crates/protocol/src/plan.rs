//! What a host says that a `set_config` would do: the `plan` message that answers a `plan`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fault::Fault;
use crate::fields::{object, string};
use crate::inbound::{DecodeError, PLAN};
use crate::json;
use crate::limits::Limits;
use crate::name::{AppName, HostId};
use crate::status::{Category, Phase, without_value};

/// The `data` of a `plan` message to the master. Fields: docs/protocol.md.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PlanAnswer {
    pub host_id: HostId,
    /// `id` of the message that this answers.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reply_to: Option<String>,
    /// Short hash of the plan, as `only_if_plan` takes it. Empty where `error` is given.
    pub hash: String,
    /// In the order in which they would be carried out. Empty: the host is as asked.
    pub steps: Vec<PlanStep>,
    /// What no step can bring about.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub faults: Vec<PlanFault>,
    /// Why the host could not be looked at: there is no plan then.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

/// One thing that would be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PlanStep {
    pub app: AppName,
    /// One word, for machines. A reader should expect more of them in later versions.
    pub action: String,
    /// For people. Names the keys of a config, never their values.
    pub text: String,
    pub undo: Undo,
}

/// Whether a step can be taken back, should what follows fail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Undo {
    pub possible: bool,
    /// How it would be, or why it can't be: for people.
    pub how: String,
}

/// Why an application would not get where it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PlanFault {
    pub app: AppName,
    pub phase: Phase,
    pub category: Category,
    /// For the operator.
    pub message: String,
}

impl PlanAnswer {
    /// Decodes a `plan` message of an agent.
    pub fn decode(body: &[u8], limits: Limits) -> Result<Self, DecodeError> {
        json::parse(body, limits)
            .and_then(answer)
            .map_err(|fault| DecodeError::new(fault, None))
    }

    /// The bytes to publish: `{"opcode": "plan", "data": {...}}`.
    pub fn encode(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Envelope<'a> {
            opcode: &'static str,
            data: &'a PlanAnswer,
        }
        // No maps, and no foreign Serialize: this cannot fail.
        serde_json::to_vec(&Envelope {
            opcode: PLAN,
            data: self,
        })
        .unwrap_or_default()
    }
}

fn answer(message: Value) -> Result<PlanAnswer, Fault> {
    let mut members = object(message)?;
    if string(&mut members, "opcode")?.as_deref() != Some(PLAN) {
        return Err(Fault::new("is not \"plan\"").under("opcode"));
    }
    let data = members
        .remove("data")
        .ok_or_else(|| Fault::missing("data", "an object is needed"))?;
    PlanAnswer::deserialize(data).map_err(|error| without_value(&error).under("data"))
}
