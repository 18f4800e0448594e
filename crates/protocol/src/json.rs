//! Strict JSON: what serde_json takes, less duplicate keys, with a depth limit and the path of what is wrong.
//!
//! One pass from bytes to a tree whose strings the decoders then move out of. UTF-8 is checked string by
//! string on the way, hence a path for that too; NaN, Infinity, numbers beyond a double and lone
//! surrogates are no JSON to serde_json.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Value};

use crate::fault::Fault;
use crate::limits::{Limits, MAX_ID_LEN};

/// Parses one JSON text. Too large a body is refused before any of it is read.
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
    let tree = Tree {
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

/// The `id` of a message that was refused: the one string of that name at the top, as far as the text is
/// JSON. Only what is refused is read a second time.
pub(crate) fn recover_id(body: &[u8]) -> Option<String> {
    let mut id = None;
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    // An error is expected; what was seen before it counts.
    let _ = TopLevelId(&mut id).deserialize(&mut deserializer);
    id
}

/// Builds a tree; on failure leaves in `fault` where, and, where it is not a matter of syntax, why.
struct Tree<'a> {
    depth_left: usize,
    max_depth: usize,
    fault: &'a mut Option<Fault>,
}

impl Tree<'_> {
    /// The same, one level further in.
    fn inside(&mut self) -> Tree<'_> {
        Tree {
            depth_left: self.depth_left - 1,
            max_depth: self.max_depth,
            fault: &mut *self.fault,
        }
    }

    /// Ends the parse, saying why at this place.
    fn refuse<E: serde::de::Error>(&mut self, fault: Fault) -> E {
        *self.fault = Some(fault);
        E::custom("refused")
    }

    fn check_depth<E: serde::de::Error>(&mut self) -> Result<(), E> {
        if self.depth_left > 0 {
            return Ok(());
        }
        let reason = format!(
            "is nested too deep; at most {} levels are allowed",
            self.max_depth
        );
        Err(self.refuse(Fault::new(reason)))
    }

    /// Adds a step to the path of what went wrong further in; a syntax error gets its first one here.
    fn locate(&mut self, step: impl FnOnce(Fault) -> Fault) {
        let fault = self.fault.take().unwrap_or_else(|| Fault::new(""));
        *self.fault = Some(step(fault));
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
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
                    let fault = Fault::new("is given twice; a key may stand once in its object");
                    return Err(self.refuse(fault.under(twice.key())));
                }
            }
        }
        Ok(Value::Object(object))
    }
}

/// Turns serde_json's error, and what the tree left behind, into one line. Never holds a value of the
/// message: it may be a secret.
fn explain(error: serde_json::Error, fault: Option<Fault>, body: &[u8]) -> Fault {
    let position = format!("line {} column {}", error.line(), error.column());
    let fault = fault.unwrap_or_else(|| Fault::new(""));
    if !error.is_data() {
        let reason = match std::str::from_utf8(body) {
            Err(utf8) => format!("is not UTF-8 (offset {})", utf8.valid_up_to()),
            Ok(text) if stops_at_non_finite(text, &error) => {
                format!("is not JSON: NaN and Infinity are no numbers ({position})")
            }
            Ok(_) => format!("is not JSON: {error}"),
        };
        return fault.with_reason(reason);
    }
    fault.with_position(&position)
}

/// Whether the parser stopped at one of the three words that other JSON libraries write and read.
fn stops_at_non_finite(text: &str, error: &serde_json::Error) -> bool {
    let line = text.lines().nth(error.line().saturating_sub(1)).unwrap_or("");
    // Columns count from 1; the parser may be a character into the word.
    let start = error.column().saturating_sub(2);
    let end = (start + "-Infinity".len()).min(line.len());
    line.as_bytes().get(start..end).is_some_and(|seen| {
        ["NaN", "Infinity"]
            .iter()
            .any(|word| seen.windows(word.len()).any(|w| w == word.as_bytes()))
    })
}

/// Reads a top-level `id`, and passes over all else at any depth.
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
            // Which of two is meant, nobody can tell.
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
