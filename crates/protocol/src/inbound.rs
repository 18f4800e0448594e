//! Messages to a host: `set_config`, `plan` and `ping`, decoded into validated types.

use std::borrow::Borrow;
use std::ops::RangeInclusive;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::decode_spec;
use crate::fault::{Fault, clip};
use crate::fields::{boolean, object, optional, string, wrong_type};
use crate::json;
pub use crate::limits::{Limits, MAX_ID_LEN};
use crate::spec::{Apps, Config};

/// A valid message.
#[derive(Debug, Clone, PartialEq)]
pub enum Inbound {
    SetConfig(SetConfig),
    Ping {
        id: Option<String>,
    },
    /// Asks what a `set_config` of these applications would do. The answer is a
    /// [`PlanAnswer`](crate::PlanAnswer). Changes nothing.
    Plan {
        id: Option<String>,
        apps: Apps,
    },
    /// An opcode of a later protocol. It is counted and logged once per opcode; it is not an error.
    Unknown {
        opcode: String,
        id: Option<String>,
    },
}

/// A desired state. For encoding, its applications may be borrowed or shared.
#[derive(Debug, Clone, PartialEq)]
pub struct SetConfig<A = Apps> {
    /// Echoed as `reply_to` in the status that answers.
    pub id: Option<String>,
    /// A generation below the stored one is stale.
    pub generation: Option<u64>,
    /// Apply only if the plan still has this hash.
    pub only_if_plan: Option<String>,
    /// Retry held applications, even if the desired state has not changed.
    pub retry: bool,
    pub apps: A,
}

impl<A: Borrow<Apps>> SetConfig<A> {
    /// The bytes to publish.
    pub fn encode(&self) -> Vec<u8> {
        InboundEnvelope {
            opcode: SET_CONFIG,
            data: Some(self.apps.borrow()),
            id: self.id.as_deref(),
            generation: self.generation,
            only_if_plan: self.only_if_plan.as_deref(),
            retry: self.retry,
        }
        .encode()
    }
}

/// The bytes of a `ping` to publish.
pub fn encode_ping(id: Option<&str>) -> Vec<u8> {
    InboundEnvelope {
        opcode: PING,
        data: None,
        id,
        generation: None,
        only_if_plan: None,
        retry: false,
    }
    .encode()
}

/// The bytes of a `plan` to publish. It asks what a `set_config` of `apps` would do.
pub fn encode_plan(apps: &Apps, id: Option<&str>) -> Vec<u8> {
    InboundEnvelope {
        opcode: PLAN,
        data: Some(apps),
        id,
        generation: None,
        only_if_plan: None,
        retry: false,
    }
    .encode()
}

#[derive(Serialize)]
struct InboundEnvelope<'a> {
    opcode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Apps>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    only_if_plan: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    retry: bool,
}

impl InboundEnvelope<'_> {
    fn encode(&self) -> Vec<u8> {
        // This cannot fail: all maps have string keys, and every `Serialize` is derived or ours.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Why a message was refused, and where in it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct DecodeError {
    /// JSON path, `$.data.app_foo.version`; `$` for the message as a whole.
    pub path: String,
    /// What was found and what is allowed.
    pub reason: String,
    /// The message's `id`, where it could be read.
    pub id: Option<String>,
}

impl DecodeError {
    pub(crate) fn new(fault: Fault, id: Option<String>) -> Self {
        let (path, reason) = fault.into_parts();
        Self { path, reason, id }
    }
}

/// Lengths of a plan hash that `only_if_plan` accepts, in hexadecimal digits.
pub const PLAN_HASH_LEN: RangeInclusive<usize> = 6..=64;
const SET_CONFIG: &str = "set_config";
const PING: &str = "ping";
pub(crate) const PLAN: &str = "plan";

/// Decodes one message. A message that is not valid is refused as a whole.
pub fn decode(body: &[u8], limits: Limits) -> Result<Inbound, DecodeError> {
    json::parse(body, limits)
        .and_then(message)
        .map_err(|fault| refused(fault, body, limits))
}

/// Decodes desired applications from an operator's file: a whole `set_config`, or only its `data`.
pub fn decode_apps(bytes: &[u8], limits: Limits) -> Result<Apps, DecodeError> {
    json::parse(bytes, limits)
        .and_then(|value| match value {
            // An application may be named `opcode`, but then its value is an object.
            Value::Object(mut members) if members.get("opcode").is_some_and(Value::is_string) => {
                let opcode = string(&mut members, "opcode")?;
                if opcode.as_deref() != Some(SET_CONFIG) {
                    return Err(
                        Fault::new("is not \"set_config\"; only a set_config contains applications")
                            .under("opcode"),
                    );
                }
                set_config(members).map(|message| message.apps)
            }
            data => decode_spec::apps(data),
        })
        .map_err(|fault| refused(fault, bytes, limits))
}

/// A field in an operator's text that no application has.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownField {
    /// As [`DecodeError::path`].
    pub path: String,
    pub name: String,
}

/// Finds the first field of an application that is not in [`crate::spec::FIELDS`]. `bytes` are as
/// for [`decode_apps`]. Returns `None` also for text that cannot be parsed: decoding reports that.
pub fn unknown_field(bytes: &[u8], limits: Limits) -> Option<UnknownField> {
    let value = json::parse(bytes, limits).ok()?;
    let is_message = value.get("opcode").is_some_and(Value::is_string);
    let apps = match is_message {
        true => value.get("data")?,
        false => &value,
    };
    let (app, name) = apps.as_object()?.iter().find_map(|(app, fields)| {
        let unknown = |name: &&String| !crate::spec::FIELDS.contains(&name.as_str());
        Some((app, fields.as_object()?.keys().find(unknown)?))
    })?;
    let fault = Fault::new(String::new()).under(name).under(app);
    let fault = if is_message { fault.under("data") } else { fault };
    Some(UnknownField {
        path: fault.into_parts().0,
        name: name.clone(),
    })
}

/// Decodes an application's config, as the application's hook prints it.
pub fn decode_config(bytes: &[u8], limits: Limits) -> Result<Config, DecodeError> {
    json::parse(bytes, limits)
        .and_then(decode_spec::config)
        .map_err(|fault| DecodeError::new(fault, None))
}

fn refused(fault: Fault, body: &[u8], limits: Limits) -> DecodeError {
    // A body that is too large is not read at all.
    let id = (body.len() <= limits.max_size)
        .then(|| json::recover_id(body))
        .flatten();
    DecodeError::new(fault, id)
}

fn message(value: Value) -> Result<Inbound, Fault> {
    let mut members = object(value)?;
    let opcode = string(&mut members, "opcode")?
        .ok_or_else(|| Fault::missing("opcode", "\"set_config\", \"plan\" or \"ping\" is needed"))?;
    match opcode.as_str() {
        SET_CONFIG => set_config(members).map(Inbound::SetConfig),
        PLAN => Ok(Inbound::Plan {
            id: id(&mut members)?,
            apps: apps(&mut members)?,
        }),
        PING => Ok(Inbound::Ping {
            id: id(&mut members)?,
        }),
        // A later protocol may have other types in its fields: an `id` of another type is not a
        // fault.
        _ => Ok(Inbound::Unknown {
            opcode: clip(&opcode),
            id: id(&mut members).unwrap_or_default(),
        }),
    }
}

fn set_config(mut members: Map<String, Value>) -> Result<SetConfig, Fault> {
    let id = id(&mut members)?;
    let generation = optional(&mut members, "generation", generation)?;
    let only_if_plan = string(&mut members, "only_if_plan")?;
    if let Some(hash) = &only_if_plan {
        check_plan_hash(hash).map_err(|fault| fault.under("only_if_plan"))?;
    }
    let retry = optional(&mut members, "retry", boolean)?;
    Ok(SetConfig {
        id,
        generation,
        only_if_plan,
        retry: retry.unwrap_or(false),
        apps: apps(&mut members)?,
    })
}

fn generation(value: Value) -> Result<u64, Fault> {
    value
        .as_u64()
        .ok_or_else(|| wrong_type(&value, "a whole number from 0 to 18446744073709551615"))
}

fn apps(members: &mut Map<String, Value>) -> Result<Apps, Fault> {
    // Not `optional`: missing applications must not be taken for an empty set, which removes them
    // all.
    let data = members
        .remove("data")
        .ok_or_else(|| Fault::missing("data", "an object of applications is needed"))?;
    decode_spec::apps(data).map_err(|fault| fault.under("data"))
}

/// Whether `hash` is a valid value of `only_if_plan`.
pub fn is_plan_hash(hash: &str) -> bool {
    let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    PLAN_HASH_LEN.contains(&hash.len()) && hash.bytes().all(is_digit)
}

fn check_plan_hash(hash: &str) -> Result<(), Fault> {
    if is_plan_hash(hash) {
        return Ok(());
    }
    Err(Fault::new(format!(
        "is not a plan hash; {} to {} lower-case hexadecimal digits are needed",
        PLAN_HASH_LEN.start(),
        PLAN_HASH_LEN.end()
    )))
}

fn id(members: &mut Map<String, Value>) -> Result<Option<String>, Fault> {
    let id = string(members, "id")?;
    match &id {
        Some(id) if id.len() > MAX_ID_LEN => Err(Fault::new(format!(
            "is {} bytes long; at most {MAX_ID_LEN} are allowed",
            id.len()
        ))
        .under("id")),
        _ => Ok(id),
    }
}
