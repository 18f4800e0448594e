//! JSON, edited at the places of its values in the text: everything else stays byte for byte, with
//! order and indentation.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Edit, FormatError, Keys, kind, nested, splice};

pub fn parse(text: &str) -> Result<Value, FormatError> {
    if text.trim().is_empty() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    serde_json::from_str(text).map_err(|error| FormatError::Syntax {
        format: "JSON",
        line: error.line(),
        // The parser's own message may quote the file.
        reason: "the JSON parser refuses it",
    })
}

/// An object's members in their order, each value as its text.
struct Members<'t>(Vec<(Cow<'t, str>, &'t RawValue)>);

impl<'t> Deserialize<'t> for Members<'t> {
    fn deserialize<D: Deserializer<'t>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'t> Visitor<'t> for InOrder {
            type Value = Members<'t>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<Members<'t>, A::Error> {
                let mut members = Vec::new();
                while let Some(key) = map.next_key::<Cow<str>>()? {
                    members.push((key, map.next_value()?));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

impl<'t> Members<'t> {
    fn of(object: &'t str, path: &str) -> Result<Self, FormatError> {
        serde_json::from_str(object).map_err(|_| FormatError::NotATable {
            path: path.to_owned(),
            found: parse(object).as_ref().map_or("not valid", kind),
        })
    }

    /// The value of `key`; an error if there are several.
    fn get(&self, key: &str) -> Result<Option<&'t RawValue>, FormatError> {
        let mut found = self.0.iter().filter(|(name, _)| name == key);
        let first = found.next();
        if found.next().is_some() {
            return Err(FormatError::CannotEdit {
                path: key.to_owned(),
                reason: "the key is in the object more than once",
            });
        }
        Ok(first.map(|(_, value)| *value))
    }
}

/// The range of `part`, a slice of `text`.
fn range_in(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr() - text.as_ptr().addr();
    start..start + part.len()
}

pub fn edit(text: &str, path: &[String], changes: &Keys) -> Result<String, FormatError> {
    if text.trim().is_empty() {
        let document = nested(path, changes);
        return Ok(format!("{}\n", pretty(&document, "")));
    }
    let mut object = text.trim();
    let mut walked = Vec::new();
    for (depth, part) in path.iter().enumerate() {
        let members = Members::of(object, &walked.join("."))?;
        walked.push(part.as_str());
        match members.get(part)? {
            Some(value) if value.get() != "null" => object = value.get(),
            // No table there yet: the rest of the path is one new value.
            Some(_) | None => {
                let added = [(part.clone(), nested(&path[depth + 1..], changes))].into();
                return Ok(splice(text, set_members(text, object, &members, &added)?));
            }
        }
    }
    let members = Members::of(object, &walked.join("."))?;
    Ok(splice(text, set_members(text, object, &members, changes)?))
}

fn set_members(
    text: &str,
    object: &str,
    members: &Members,
    changes: &Keys,
) -> Result<Vec<Edit>, FormatError> {
    let mut edits = Vec::new();
    let mut added = Vec::new();
    let indent = line_indent(text, range_in(text, object).start);
    for (key, value) in changes {
        match members.get(key)? {
            Some(old) => {
                let range = range_in(text, old.get());
                let indent = line_indent(text, range.start);
                edits.push(Edit {
                    text: pretty(value, indent),
                    range,
                });
            }
            None => added.push((key, value)),
        }
    }
    if added.is_empty() {
        return Ok(edits);
    }
    let place = range_in(text, object);
    let open = place.start + 1;
    let close = place.end - 1;
    // A new key gets the same blanks before it as the first key.
    let (lead, inner) = match text[open..close].find('"') {
        Some(at) => {
            let lead = &text[open..open + at];
            (
                lead.to_owned(),
                lead.rsplit('\n').next().unwrap_or_default().to_owned(),
            )
        }
        None => (format!("\n{indent}  "), format!("{indent}  ")),
    };
    let one_line = !lead.contains('\n');
    let mut block = String::new();
    for (number, (key, value)) in added.iter().enumerate() {
        if number > 0 || !members.0.is_empty() {
            block.push(',');
        }
        block.push_str(match (lead.is_empty(), number > 0 || !members.0.is_empty()) {
            (true, true) => " ",
            _ => &lead,
        });
        let value = if one_line {
            value.to_string()
        } else {
            pretty(value, &inner)
        };
        block.push_str(&format!("{}: {value}", Value::String((*key).clone())));
    }
    let range = match members.0.last() {
        Some((_, last)) => {
            let end = range_in(text, last.get()).end;
            end..end
        }
        None => {
            block.push_str(&format!("\n{indent}"));
            open..close
        }
    };
    edits.push(Edit { range, text: block });
    Ok(edits)
}

/// The blanks at the start of the line of `offset`.
fn line_indent(text: &str, offset: usize) -> &str {
    let line = text[..offset].rfind('\n').map_or(0, |at| at + 1);
    let rest = &text[line..];
    &rest[..rest.len() - rest.trim_start_matches([' ', '\t']).len()]
}

/// Indented by two blanks; every line after the first begins with `indent`.
fn pretty(value: &Value, indent: &str) -> String {
    let text = serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string());
    text.replace('\n', &format!("\n{indent}"))
}
