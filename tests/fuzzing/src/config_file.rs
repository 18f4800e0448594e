//! Config files of applications: read, and edited in place.
//!
//! An input is four lines and a file: the format's name, the path of a table (with dots between its parts), a key, and a value (JSON,
//! else taken as text).

use host::app_config::formats::{Format, FormatError, Keys};
use protocol::satisfied::same_value;
use serde_json::Value;

/// An edit reads back, leaves all else as it was, is not made twice, and can be taken back.
pub fn check(data: &[u8]) {
    let Some(input) = std::str::from_utf8(data).ok().and_then(Input::parse) else {
        return;
    };
    let Input {
        format,
        path,
        key,
        value,
        text,
    } = &input;
    let before = match format.read(text, path) {
        Ok(keys) => keys,
        Err(error) => return check_error(&error, text),
    };
    let wanted = Keys::from([(key.clone(), value.clone())]);
    match format.merge(text, path, &wanted) {
        Ok(None) => assert!(
            before.get(key).is_some_and(|have| same_value(value, have)),
            "nothing to do, it says"
        ),
        Ok(Some(edited)) => check_edit(&input, &before, &wanted, &edited),
        Err(error) => check_error(&error, text),
    }
}

struct Input<'t> {
    format: Format,
    path: Vec<String>,
    key: String,
    value: Value,
    text: &'t str,
}

impl<'t> Input<'t> {
    fn parse(data: &'t str) -> Option<Self> {
        let mut parts = data.splitn(5, '\n');
        let format = Format::from_name(parts.next()?)?;
        let path = parts
            .next()?
            .split('.')
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect();
        let key = parts.next()?.to_owned();
        let value = parts.next()?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        Some(Self {
            format,
            path,
            key,
            value,
            text: parts.next()?,
        })
    }
}

/// The file may hold secrets: no word of it in an error. Its lines are those of the file.
fn check_error(error: &FormatError, text: &str) {
    match error {
        FormatError::Syntax { line, .. } => {
            let lines = 1 + text
                .matches(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'])
                .count();
            assert!((1..=lines).contains(line), "line {line} of {lines}");
        }
        FormatError::NotATable { .. }
        | FormatError::Unrepresentable { .. }
        | FormatError::CannotEdit { .. }
        | FormatError::OtherCase { .. } => {}
    }
    assert!(!error.to_string().contains('\n'), "{error}");
}

fn check_edit(input: &Input, before: &Keys, wanted: &Keys, edited: &str) {
    let Input {
        format,
        path,
        key,
        value,
        text,
    } = input;
    let after = format
        .read(edited, path)
        .unwrap_or_else(|error| panic!("{error} in\n{edited}"));
    let got = after
        .get(key)
        .unwrap_or_else(|| panic!("{key:?} did not arrive in\n{edited}"));
    assert!(
        reads_back(*format, value, got),
        "{got} instead of {value} in\n{edited}"
    );
    assert_eq!(
        format.merge(edited, path, wanted),
        Ok(None),
        "once more it would be changed:\n{edited}"
    );
    let others = |keys: &Keys| {
        let mut keys = keys.clone();
        keys.remove(key);
        keys
    };
    assert_eq!(
        others(before),
        others(&after),
        "other keys of the table have changed:\n{edited}"
    );
    if !path.is_empty() {
        let without = |text: &str| {
            let mut document = format.read(text, &[]).unwrap_or_default();
            document.remove(&path[0]);
            document
        };
        assert_eq!(
            without(text),
            without(edited),
            "other tables have changed:\n{edited}"
        );
    }
    check_removed(input, before.get(key), edited);
}

/// INI and environment files hold text only.
fn reads_back(format: Format, wanted: &Value, got: &Value) -> bool {
    match (format, wanted) {
        (Format::Ini | Format::Env, Value::String(text)) => got.as_str() == Some(text),
        (Format::Ini | Format::Env, other) => got.as_str() == Some(&other.to_string()),
        (Format::Json | Format::Yaml | Format::Toml, _) => same_value(wanted, got),
    }
}

/// What the edit took out of the file: nothing but blanks where a key was added, nothing beyond its line where a value that stands
/// on one was replaced.
fn check_removed(input: &Input, old: Option<&Value>, edited: &str) {
    let text = input.text;
    let ahead = text
        .bytes()
        .zip(edited.bytes())
        .take_while(|(a, b)| a == b)
        .count();
    let behind = text[..]
        .bytes()
        .rev()
        .zip(edited.bytes().rev())
        .take_while(|(a, b)| a == b)
        .count()
        .min(text.len() - ahead)
        .min(edited.len() - ahead);
    let removed = String::from_utf8_lossy(&text.as_bytes()[ahead..text.len() - behind]);
    match old {
        // A table that was there without a value, `a:` or `"a": null`, gets its first one.
        None if input.path.is_empty() || input.format != Format::Json && input.format != Format::Yaml => {
            assert!(
                removed.trim().is_empty(),
                "a key was added, and {removed:?} is gone:\n{edited}"
            );
        }
        None => {
            let blank = removed.trim();
            assert!(
                ["", "null", "~", "Null", "NULL"].contains(&blank),
                "a key was added, and {removed:?} is gone:\n{edited}"
            );
        }
        Some(old) if on_one_line(input.format, old) => {
            assert!(
                !removed.contains('\n'),
                "more than a value's line is gone, {removed:?}:\n{edited}"
            );
        }
        Some(_) => {}
    }
}

/// Whether a value of one line has to be written on one.
fn on_one_line(format: Format, value: &Value) -> bool {
    match (format, value) {
        (Format::Json, Value::String(_) | Value::Number(_) | Value::Bool(_) | Value::Null) => true,
        (Format::Toml, Value::Number(_) | Value::Bool(_)) => true,
        (Format::Ini, Value::String(text)) => !text.contains('\n'),
        (Format::Yaml, Value::Number(_) | Value::Bool(_)) => true,
        _ => false,
    }
}
