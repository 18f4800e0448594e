//! Takes typed fields out of JSON objects. A field of the wrong type is a fault.

use serde_json::{Map, Value};

use crate::fault::Fault;

pub(crate) fn boolean(value: Value) -> Result<bool, Fault> {
    value.as_bool().ok_or_else(|| wrong_type(&value, "true or false"))
}

pub(crate) fn object(value: Value) -> Result<Map<String, Value>, Fault> {
    match value {
        Value::Object(members) => Ok(members),
        other => Err(wrong_type(&other, "an object")),
    }
}

/// Takes out an optional field. `null` means absent.
fn take(fields: &mut Map<String, Value>, name: &str) -> Option<Value> {
    fields
        .get_mut(name)
        .map(Value::take)
        .filter(|value| !value.is_null())
}

pub(crate) fn optional<T>(
    fields: &mut Map<String, Value>,
    name: &str,
    decode: impl FnOnce(Value) -> Result<T, Fault>,
) -> Result<Option<T>, Fault> {
    take(fields, name)
        .map(|value| decode(value).map_err(|fault| fault.under(name)))
        .transpose()
}

pub(crate) fn string(fields: &mut Map<String, Value>, name: &str) -> Result<Option<String>, Fault> {
    optional(fields, name, |value| match value {
        Value::String(text) => Ok(text),
        other => Err(wrong_type(&other, "a string")),
    })
}

pub(crate) fn wrong_type(found: &Value, needed: &str) -> Fault {
    Fault::new(format!("is {}; {needed} is needed", kind(found)))
}

pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
