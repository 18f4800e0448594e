//! The `plan` message with which a host answers a `plan`: what a `set_config` would do there.

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
    /// In the order of execution. Empty: the host already satisfies the desired state.
    pub steps: Vec<PlanStep>,
    /// Parts of the desired state that no step can reach.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub faults: Vec<PlanFault>,
    /// Why the host could not be observed. There is no plan then.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

/// One step that would be executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PlanStep {
    pub app: AppName,
    /// One word, for programs. Later versions may add more words.
    pub action: String,
    /// For people. Contains keys of a config, never their values.
    pub text: String,
    pub undo: Undo,
}

/// Whether a step can be undone if a later step fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Undo {
    pub possible: bool,
    /// How the step would be undone, or why it cannot be undone. For people.
    pub how: String,
}

/// Why an application cannot reach its desired state.
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
        struct PlanEnvelope<'a> {
            opcode: &'static str,
            data: &'a PlanAnswer,
        }
        // This cannot fail: there are no maps, and every `Serialize` is derived.
        serde_json::to_vec(&PlanEnvelope {
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
