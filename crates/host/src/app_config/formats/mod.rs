//! The file formats of a manifest's config sections. They read a file's text, and edit it in place:
//! comments, order and everything else in the file stay.
//!
//! Every edit is checked before it is returned: the new text is parsed again and must hold exactly
//! the old document with the changes. If it does not, the edit is refused and nothing is written.
//!
//! No error contains a value: values may be secrets.

use std::collections::BTreeMap;
use std::ops::Range;

use protocol::satisfied::same_value;
use serde_json::{Map, Value};

mod env;
mod ini;
mod json;
mod toml;
mod yaml;

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    Ini,
    Json,
    Yaml,
    Toml,
    Env,
}

/// A text that cannot be parsed, or a change that its format does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("line {line}: not valid {format}: {reason}")]
    Syntax {
        format: &'static str,
        line: usize,
        reason: &'static str,
    },
    #[error("{path:?} is {found} in this file; it must be a table of keys")]
    NotATable { path: String, found: &'static str },
    #[error("key {key:?}: {reason}")]
    Unrepresentable { key: String, reason: &'static str },
    #[error(
        "key {key:?} is {in_file:?} in this file or config: INI keys that differ only in case are one key to \
         many readers. Use one spelling"
    )]
    OtherCase { key: String, in_file: String },
    #[error("cannot edit {path:?} safely ({reason}): change the file by hand, or use a hook")]
    CannotEdit { path: String, reason: &'static str },
}

/// Keys of one section and their values.
pub type Keys = BTreeMap<String, Value>;

impl Format {
    pub const NAMES: &'static str = "\"ini\", \"json\", \"yaml\", \"toml\" or \"env\"";

    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "ini" => Self::Ini,
            "json" => Self::Json,
            "yaml" => Self::Yaml,
            "toml" => Self::Toml,
            "env" => Self::Env,
            _ => return None,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Ini => "INI",
            Self::Json => "JSON",
            Self::Yaml => "YAML",
            Self::Toml => "TOML",
            Self::Env => "environment file",
        }
    }

    /// The keys of the table at `path`; empty if there is none.
    pub fn read(self, text: &str, path: &[String]) -> Result<Keys, FormatError> {
        let document = self.parse(text)?;
        Ok(table_at(&document, path)?
            .map(|table| table.iter().map(|(k, v)| (k.clone(), v.clone())).collect())
            .unwrap_or_default())
    }

    /// `text` with `desired` merged into the table at `path`; `None`: it holds all of it already.
    pub fn merge(self, text: &str, path: &[String], desired: &Keys) -> Result<Option<String>, FormatError> {
        let mut expected = self.parse(text)?;
        let table = table_at(&expected, path)?;
        let mut changes = Keys::new();
        for (key, want) in desired {
            let have = table.and_then(|table| table.get(key));
            if !have.is_some_and(|have| same_value(want, have)) {
                changes.insert(key.clone(), self.storable(key, want)?);
            }
        }
        if changes.is_empty() {
            return Ok(None);
        }
        let edited = match self {
            Self::Ini => ini::edit(text, path, &changes)?,
            Self::Json => json::edit(text, path, &changes)?,
            Self::Yaml => yaml::edit(text, path, &changes)?,
            Self::Toml => toml::edit(text, path, &changes)?,
            Self::Env => env::edit(text, &changes)?,
        };
        put(&mut expected, path, changes);
        match self.parse(&edited) {
            Ok(document) if document == expected => Ok(Some(edited)),
            _ => Err(FormatError::CannotEdit {
                path: path.join("."),
                reason: "the editor does not support the way it is written in this file",
            }),
        }
    }

    /// The whole document, as JSON.
    fn parse(self, text: &str) -> Result<Value, FormatError> {
        if text.contains('\0') {
            return Err(FormatError::Syntax {
                format: self.name(),
                line: line_of(text, text.find('\0').unwrap_or(0)),
                reason: "NUL byte",
            });
        }
        match self {
            Self::Ini => ini::parse(text),
            Self::Json => json::parse(text),
            Self::Yaml => yaml::parse(text),
            Self::Toml => toml::parse(text),
            Self::Env => env::parse(text),
        }
    }

    /// `value` as this format will read it back, or why the format cannot hold it.
    fn storable(self, key: &str, value: &Value) -> Result<Value, FormatError> {
        let refuse = |reason| {
            Err(FormatError::Unrepresentable {
                key: key.to_owned(),
                reason,
            })
        };
        if key.contains(['\n', '\r', '\0']) {
            return refuse("a key cannot hold a line break or NUL");
        }
        if has_nul(value) {
            return refuse("a value cannot hold NUL");
        }
        match self {
            Self::Json | Self::Yaml => Ok(value.clone()),
            Self::Toml => match toml::why_not(value) {
                Some(reason) => refuse(reason),
                None => Ok(value.clone()),
            },
            Self::Ini | Self::Env => {
                let text = match value {
                    Value::String(text) => text.clone(),
                    Value::Number(_) | Value::Bool(_) => value.to_string(),
                    Value::Null => return refuse("this format has no null; use a string"),
                    Value::Array(_) | Value::Object(_) => {
                        return refuse("this format has no lists and objects; use a string");
                    }
                };
                if text.contains(['\n', '\r']) {
                    return refuse("this format has no safe way to write a value of more than one line");
                }
                let unfit = match self {
                    Self::Ini => ini::why_not(key, &text),
                    Self::Env => env::why_not(key),
                    Self::Json | Self::Yaml | Self::Toml => None,
                };
                match unfit {
                    Some(reason) => refuse(reason),
                    None => Ok(Value::String(text)),
                }
            }
        }
    }
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(map) => map.iter().any(|(k, v)| k.contains('\0') || has_nul(v)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// The table at `path` of `document`; a null counts as an empty one.
fn table_at<'v>(document: &'v Value, path: &[String]) -> Result<Option<&'v Map<String, Value>>, FormatError> {
    let mut at = document;
    let mut walked: Vec<&str> = Vec::new();
    for part in path.iter().map(Some).chain([None]) {
        let table = match at {
            Value::Object(table) => table,
            Value::Null => return Ok(None),
            other => {
                return Err(FormatError::NotATable {
                    path: walked.join("."),
                    found: kind(other),
                });
            }
        };
        let Some(part) = part else {
            return Ok(Some(table));
        };
        match table.get(part) {
            Some(next) => at = next,
            None => return Ok(None),
        }
        walked.push(part);
    }
    Ok(None)
}

/// Puts `changes` into the table at `path`. [`table_at`] has checked the path.
fn put(document: &mut Value, path: &[String], changes: Keys) {
    let mut at = document;
    for part in path {
        at = as_table(at).entry(part.clone()).or_insert(Value::Null);
    }
    as_table(at).extend(changes);
}

fn as_table(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(table) => table,
        // Just made one.
        _ => unreachable!(),
    }
}

/// The type of a value, for errors that must not show the value.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// `changes` inside new tables for `path`.
fn nested(path: &[String], changes: &Keys) -> Value {
    let leaf = Value::Object(changes.clone().into_iter().collect());
    path.iter().rev().fold(leaf, |value, part| {
        Value::Object([(part.clone(), value)].into_iter().collect())
    })
}

/// Line of a byte offset, from 1.
fn line_of(text: &str, offset: usize) -> usize {
    let end = offset.min(text.len());
    1 + text.as_bytes()[..end]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
}

/// The line break that `text` uses.
fn line_break(text: &str) -> &'static str {
    match text.find('\n') {
        Some(at) if text[..at].ends_with('\r') => "\r\n",
        _ => "\n",
    }
}

/// Text to put in place of a range.
struct Edit {
    range: Range<usize>,
    text: String,
}

/// Applies edits that do not overlap; those at the same place keep their order.
fn splice(text: &str, mut edits: Vec<Edit>) -> String {
    edits.sort_by_key(|edit| edit.range.start);
    let mut out = String::with_capacity(text.len() + 256);
    let mut done = 0;
    for edit in &edits {
        out.push_str(text.get(done..edit.range.start).unwrap_or_default());
        out.push_str(&edit.text);
        done = edit.range.end.max(done);
    }
    out.push_str(text.get(done..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests;
