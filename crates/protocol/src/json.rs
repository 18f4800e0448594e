//! Strict JSON: as serde_json, but without duplicate keys, with a depth limit, and with the path of
//! the place where an error is.
//!
//! One pass turns bytes into a tree; the decoders then move the strings out of it. UTF-8 is checked
//! for each string, so such an error has a path too. serde_json itself refuses NaN, Infinity,
//! numbers out of the range of a double, and lone surrogates.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Value};

use crate::fault::Fault;
use crate::limits::{Limits, MAX_ID_LEN};

/// Parses one JSON text. A body that is too large is refused before it is read.
pub(crate) fn parse(body: &[u8], limits: Limits) -> Result<Value, Fault> {
    if body.len() > limits.max_size {
        return Err(Fault::new(format!(
            "is {} bytes long; at most {} are allowed",
            body.len(),
            limits.max_size
        )));
    }
    let mut fault = None;
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let tree = TreeBuilder {
        depth_left: limits.max_depth,
        max_depth: limits.max_depth,
        fault: &mut fault,
    };
    match tree
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
    {
        Ok(value) => Ok(value),
        Err(error) => Err(explain(error, fault, body)),
    }
}

/// The `id` of a refused message: the string member `id` of the top-level object, if it comes
/// before the first syntax error. Only refused messages are parsed a second time.
pub(crate) fn recover_id(body: &[u8]) -> Option<String> {
    let mut id = None;
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    // An error is expected. An id that was found before the error is used.
    let _ = TopLevelId(&mut id).deserialize(&mut deserializer);
    id
}

/// Builds a tree. On failure it stores in `fault` the path and, unless it is a syntax error, the
/// reason.
struct TreeBuilder<'a> {
    depth_left: usize,
    max_depth: usize,
    fault: &'a mut Option<Fault>,
}

impl TreeBuilder<'_> {
    /// The builder of a nested value, one level deeper.
    fn inside(&mut self) -> TreeBuilder<'_> {
        TreeBuilder {
            depth_left: self.depth_left - 1,
            max_depth: self.max_depth,
            fault: &mut *self.fault,
        }
    }

    /// Ends the parse with `fault` at this place.
    fn refuse<E: serde::de::Error>(&mut self, fault: Fault) -> E {
        *self.fault = Some(fault);
        E::custom("refused")
    }

    fn check_depth<E: serde::de::Error>(&mut self) -> Result<(), E> {
        if self.depth_left > 0 {
            return Ok(());
        }
        let reason = format!(
            "is nested too deeply; at most {} levels are allowed",
            self.max_depth
        );
        Err(self.refuse(Fault::new(reason)))
    }

    /// Adds a step to the path of an error in a nested value. A syntax error gets its first step
    /// here.
    fn locate(&mut self, step: impl FnOnce(Fault) -> Fault) {
        let fault = self.fault.take().unwrap_or_else(|| Fault::new(""));
        *self.fault = Some(step(fault));
    }
}

impl<'de> DeserializeSeed<'de> for TreeBuilder<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for TreeBuilder<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Value, A::Error> {
        self.check_depth()?;
        let mut array = Vec::new();
        loop {
            match items.next_element_seed(self.inside()) {
                Ok(Some(value)) => array.push(value),
                Ok(None) => return Ok(Value::Array(array)),
                Err(error) => {
                    self.locate(|fault| fault.under_index(array.len()));
                    return Err(error);
                }
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<Value, A::Error> {
        self.check_depth()?;
        let mut object = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            match object.entry(key) {
                Entry::Vacant(place) => match members.next_value_seed(self.inside()) {
                    Ok(value) => {
                        place.insert(value);
                    }
                    Err(error) => {
                        self.locate(|fault| fault.under(place.key()));
                        return Err(error);
                    }
                },
                Entry::Occupied(twice) => {
                    let fault = Fault::new("is given twice; a key may appear only once in an object");
                    return Err(self.refuse(fault.under(twice.key())));
                }
            }
        }
        Ok(Value::Object(object))
    }
}

/// Makes one line of serde_json's error and of the fault that [`TreeBuilder`] stored. It never
/// contains a value of the message, because a value may be a secret.
fn explain(error: serde_json::Error, fault: Option<Fault>, body: &[u8]) -> Fault {
    let position = format!("line {} column {}", error.line(), error.column());
    let fault = fault.unwrap_or_else(|| Fault::new(""));
    if !error.is_data() {
        let reason = match std::str::from_utf8(body) {
            Err(utf8) => format!("is not UTF-8 (offset {})", utf8.valid_up_to()),
            Ok(text) if stops_at_non_finite(text, &error) => {
                format!("is not JSON: NaN and Infinity are not allowed ({position})")
            }
            Ok(_) => format!("is not JSON: {error}"),
        };
        return fault.with_reason(reason);
    }
    fault.with_position(&position)
}

/// Whether the parser stopped at `NaN`, `Infinity` or `-Infinity`, which other JSON libraries
/// accept.
fn stops_at_non_finite(text: &str, error: &serde_json::Error) -> bool {
    let line = text.lines().nth(error.line().saturating_sub(1)).unwrap_or("");
    // Columns count from 1, and the parser may already have read one character of the word.
    let start = error.column().saturating_sub(2);
    let end = (start + "-Infinity".len()).min(line.len());
    line.as_bytes().get(start..end).is_some_and(|seen| {
        ["NaN", "Infinity"]
            .iter()
            .any(|word| seen.windows(word.len()).any(|w| w == word.as_bytes()))
    })
}

/// Reads a top-level `id` and skips everything else.
struct TopLevelId<'a>(&'a mut Option<String>);

impl<'de> DeserializeSeed<'de> for TopLevelId<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TopLevelId<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut seen = false;
        while let Some(key) = members.next_key::<String>()? {
            if key != "id" {
                members.next_value::<IgnoredAny>()?;
                continue;
            }
            // With two ids it is unknown which is meant, so neither is used.
            *self.0 = None;
            if seen {
                return Err(A::Error::custom("two ids"));
            }
            seen = true;
            *self.0 = Some(members.next_value::<String>()?).filter(|id| id.len() <= MAX_ID_LEN);
        }
        Ok(())
    }
}
