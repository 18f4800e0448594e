//! Converts YAML to JSON and back. Numbers keep their notation: `1.10` does not become 1.1.

use std::fmt::Write;

use saphyr::{MarkedYaml, Scalar, Yaml, YamlData, YamlEmitter, YamlLoader};
use saphyr_parser::{Marker, Parser, ScalarStyle};
use serde_json::{Map, Number, Value};

use super::{DesiredError, Source};

/// The only document of a text, as JSON.
pub fn to_json(source: &Source) -> Result<Vec<u8>, DesiredError> {
    let at = |mark: Marker, reason: String| DesiredError::Syntax {
        place: format!("{}:{}:{}", source.name, mark.line(), mark.col() + 1),
        reason,
    };
    let mut loader = YamlLoader::<MarkedYaml>::default();
    loader.early_parse(false);
    Parser::new_from_str(&source.text)
        .load(&mut loader, true)
        .map_err(|error| at(*error.marker(), format!("is not YAML: {}", error.info())))?;
    if let Some(error) = loader.error() {
        return Err(at(*error.marker(), format!("cannot be used: {}", error.info())));
    }
    let documents = loader.into_documents();
    let value = match documents.as_slice() {
        [] => Value::Null,
        [document] => value(document).map_err(|(mark, reason)| at(mark, reason))?,
        [_, second, ..] => {
            return Err(at(
                second.span.start,
                "a second YAML document begins; only one is allowed".to_owned(),
            ));
        }
    };
    // This cannot fail: all maps have string keys.
    Ok(serde_json::to_vec(&value).unwrap_or_default())
}

/// A place and what is wrong there.
type YamlFault = (Marker, String);

fn value(node: &MarkedYaml) -> Result<Value, YamlFault> {
    let fault = |reason: &str| Err((node.span.start, reason.to_owned()));
    match &node.data {
        YamlData::Mapping(members) => members
            .iter()
            .map(|(key, member)| {
                let name = key_text(key).ok_or_else(|| {
                    (
                        key.span.start,
                        "is not a valid key: a key must be a plain word or a string".to_owned(),
                    )
                })?;
                Ok((name.into_owned(), value(member)?))
            })
            .collect::<Result<Map<_, _>, _>>()
            .map(Value::Object),
        YamlData::Sequence(items) => items
            .iter()
            .map(value)
            .collect::<Result<_, _>>()
            .map(Value::Array),
        YamlData::Representation(text, style, None) => match style {
            ScalarStyle::Plain => plain(text).ok_or_else(|| {
                (
                    node.span.start,
                    "is not a finite number; JSON allows only finite numbers".to_owned(),
                )
            }),
            ScalarStyle::SingleQuoted
            | ScalarStyle::DoubleQuoted
            | ScalarStyle::Literal
            | ScalarStyle::Folded => Ok(Value::String(text.clone().into_owned())),
        },
        YamlData::Value(scalar) => scalar_value(scalar).ok_or_else(|| {
            (
                node.span.start,
                "is not a finite number; JSON allows only finite numbers".to_owned(),
            )
        }),
        YamlData::Representation(_, _, Some(_)) | YamlData::Tagged(..) => {
            fault("has a YAML tag (!); tags are not allowed here")
        }
        YamlData::Alias(_) | YamlData::BadValue => fault("is an alias (*) without an anchor (&)"),
    }
}

/// A key as written; `None` if it is not a scalar.
pub fn key_text<'a>(key: &'a MarkedYaml) -> Option<std::borrow::Cow<'a, str>> {
    match &key.data {
        YamlData::Representation(text, _, None) => Some(text.as_ref().into()),
        YamlData::Value(Scalar::String(text)) => Some(text.as_ref().into()),
        YamlData::Value(Scalar::Integer(number)) => Some(number.to_string().into()),
        YamlData::Value(Scalar::Boolean(boolean)) => Some(boolean.to_string().into()),
        YamlData::Value(Scalar::FloatingPoint(_) | Scalar::Null)
        | YamlData::Representation(..)
        | YamlData::Sequence(_)
        | YamlData::Mapping(_)
        | YamlData::Tagged(..)
        | YamlData::Alias(_)
        | YamlData::BadValue => None,
    }
}

/// A plain scalar, by the core schema of YAML 1.2.
fn plain(text: &str) -> Option<Value> {
    if text.is_empty() {
        return Some(Value::Null);
    }
    // A JSON number is also a YAML number. Parsed as JSON it keeps its exact value.
    if let Ok(number) = text.parse::<Number>() {
        return Some(Value::Number(number));
    }
    scalar_value(&Scalar::parse_from_cow(text.into()))
}

fn scalar_value(scalar: &Scalar) -> Option<Value> {
    match scalar {
        Scalar::Null => Some(Value::Null),
        Scalar::Boolean(boolean) => Some(Value::Bool(*boolean)),
        Scalar::Integer(number) => Some(Value::from(*number)),
        Scalar::FloatingPoint(number) => Number::from_f64(number.into_inner()).map(Value::Number),
        Scalar::String(text) => Some(Value::String(text.clone().into_owned())),
    }
}

/// YAML that parses to the same value, with a line end.
pub fn to_yaml(value: &Value) -> String {
    let mut text = String::new();
    let mut emitter = YamlEmitter::new(&mut text);
    emitter.multiline(false);
    // Writing to a string cannot fail.
    let _ = emitter.dump(&tree(value));
    let body = text.strip_prefix("---").unwrap_or(&text).trim_start_matches('\n');
    let mut body = body.to_owned();
    let _ = writeln!(body);
    body
}

fn tree(value: &Value) -> Yaml<'_> {
    match value {
        Value::Null => Yaml::Value(Scalar::Null),
        Value::Bool(boolean) => Yaml::Value(Scalar::Boolean(*boolean)),
        // As written in JSON.
        Value::Number(number) => Yaml::Representation(number.to_string().into(), ScalarStyle::Plain, None),
        Value::String(text) => string(text),
        Value::Array(items) => Yaml::Sequence(items.iter().map(tree).collect()),
        Value::Object(members) => Yaml::Mapping(
            members
                .iter()
                .map(|(name, member)| (string(name), tree(member)))
                .collect(),
        ),
    }
}

/// A string, quoted if YAML 1.2 or 1.1 could take it for another type (`yes`, `1_000`).
fn string(text: &str) -> Yaml<'_> {
    const OF_OLD: &[&str] = &["y", "n", "yes", "no", "on", "off", "true", "false", "null", "~"];
    let is_word = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '_')
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+._-/".contains(c))
        && !OF_OLD.iter().any(|word| text.eq_ignore_ascii_case(word));
    let is_url = text.split_once("://").is_some_and(|(scheme, rest)| {
        scheme.chars().all(|c| c.is_ascii_alphabetic())
            && !scheme.is_empty()
            && rest
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "+._-/:%~".contains(c))
            && !rest.ends_with(':')
    });
    match is_word || is_url {
        true => Yaml::Representation(text.into(), ScalarStyle::Plain, None),
        // A JSON string is a YAML string in double quotes. The emitter adds the quotes.
        false => {
            let quoted = Value::from(text).to_string();
            let inner = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            let inner = inner.unwrap_or_default().to_owned();
            Yaml::Representation(inner.into(), ScalarStyle::DoubleQuoted, None)
        }
    }
}

#[cfg(test)]
mod tests;
