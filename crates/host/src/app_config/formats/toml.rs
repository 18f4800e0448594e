//! TOML, edited by `toml_edit`, which keeps comments and order.

use serde_json::{Number, Value};
use toml_edit::{DocumentMut, Item, TableLike};

use super::{FormatError, Keys, line_of};

const MARK: char = '\u{feff}';

fn document(text: &str) -> Result<DocumentMut, FormatError> {
    text.parse::<DocumentMut>().map_err(|error| FormatError::Syntax {
        format: "TOML",
        line: line_of(text, error.span().map_or(0, |span| span.start)),
        // The parser's own message may quote the file.
        reason: "the TOML parser refuses it",
    })
}

pub fn parse(text: &str) -> Result<Value, FormatError> {
    Ok(table_to_json(document(text)?.as_table()))
}

fn table_to_json(table: &dyn TableLike) -> Value {
    let entries = table
        .iter()
        .map(|(key, item)| (key.to_owned(), item_to_json(item)));
    Value::Object(entries.collect())
}

fn item_to_json(item: &Item) -> Value {
    match item {
        Item::None => Value::Null,
        Item::Value(value) => value_to_json(value),
        Item::Table(table) => table_to_json(table),
        Item::ArrayOfTables(tables) => {
            Value::Array(tables.iter().map(|table| table_to_json(table)).collect())
        }
    }
}

fn value_to_json(value: &toml_edit::Value) -> Value {
    match value {
        toml_edit::Value::String(text) => Value::String(text.value().clone()),
        toml_edit::Value::Integer(number) => Value::Number((*number.value()).into()),
        // JSON has no infinity and NaN: their TOML spelling as text.
        toml_edit::Value::Float(number) => Number::from_f64(*number.value())
            .map_or_else(|| Value::String(number.value().to_string()), Value::Number),
        toml_edit::Value::Boolean(flag) => Value::Bool(*flag.value()),
        toml_edit::Value::Datetime(time) => Value::String(time.value().to_string()),
        toml_edit::Value::Array(items) => Value::Array(items.iter().map(value_to_json).collect()),
        toml_edit::Value::InlineTable(table) => table_to_json(table),
    }
}

/// Why TOML cannot hold this value.
pub fn why_not(value: &Value) -> Option<&'static str> {
    match value {
        Value::Null => Some("TOML has no null"),
        Value::Number(number) if number.is_u64() && number.as_i64().is_none() => {
            Some("the number is too large for TOML (64 bits with a sign)")
        }
        Value::Array(items) => items.iter().find_map(why_not),
        Value::Object(map) => map.values().find_map(why_not),
        Value::Number(_) | Value::String(_) | Value::Bool(_) => None,
    }
}

/// `None` for values that [`why_not`] refuses.
fn to_toml(value: &Value) -> Option<toml_edit::Value> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(flag) => (*flag).into(),
        Value::String(text) => text.as_str().into(),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => integer.into(),
            None => number.as_f64()?.into(),
        },
        Value::Array(items) => {
            let items: Option<toml_edit::Array> = items.iter().map(to_toml).collect();
            toml_edit::Value::Array(items?)
        }
        Value::Object(map) => {
            let mut table = toml_edit::InlineTable::new();
            for (key, value) in map {
                table.insert(key, to_toml(value)?);
            }
            toml_edit::Value::InlineTable(table)
        }
    })
}

/// A date stays a date if it reads back as the desired text.
fn as_datetime(want: &Value) -> Option<toml_edit::Datetime> {
    let text = want.as_str()?;
    let time: toml_edit::Datetime = text.parse().ok()?;
    (time.to_string() == text).then_some(time)
}

pub fn edit(text: &str, path: &[String], changes: &Keys) -> Result<String, FormatError> {
    let mut document = document(text)?;
    let mut table: &mut dyn TableLike = document.as_table_mut();
    for (depth, part) in path.iter().enumerate() {
        let last = depth + 1 == path.len();
        let item = table.entry(part).or_insert_with(|| {
            let mut table = toml_edit::Table::new();
            // `[a.b]` needs no `[a]` above it.
            table.set_implicit(!last);
            Item::Table(table)
        });
        table = match item.as_table_like_mut() {
            Some(table) => table,
            None => {
                return Err(FormatError::NotATable {
                    path: path[..=depth].join("."),
                    found: "not a table",
                });
            }
        };
    }
    for (key, want) in changes {
        let cannot_hold = || FormatError::Unrepresentable {
            key: key.clone(),
            reason: "TOML cannot hold this value",
        };
        let mut new = to_toml(want).ok_or_else(cannot_hold)?;
        match table.get_mut(key) {
            Some(Item::Value(old)) => {
                if let (true, Some(time)) = (old.is_datetime(), as_datetime(want)) {
                    new = time.into();
                }
                *new.decor_mut() = old.decor().clone();
                *old = new;
            }
            Some(_) => {
                return Err(FormatError::CannotEdit {
                    path: key.clone(),
                    reason: "it is a table of its own in the file, and a value is desired",
                });
            }
            None => {
                table.insert(key, Item::Value(new));
            }
        }
    }
    let edited = with_end_of(text, document.to_string());
    let edited = with_line_breaks_of(text, edited)?;
    Ok(with_mark_of(text, edited))
}

/// `toml_edit` always ends the last line with a line feed.
fn with_end_of(text: &str, mut edited: String) -> String {
    if !text.is_empty() && !text.ends_with('\n') && edited.ends_with('\n') {
        edited.pop();
    }
    edited
}

/// `toml_edit` ends every line with a line feed only.
fn with_line_breaks_of(text: &str, edited: String) -> Result<String, FormatError> {
    match text.matches("\r\n").count() {
        0 => Ok(edited),
        all if all == text.matches('\n').count() => Ok(edited.replace("\r\n", "\n").replace('\n', "\r\n")),
        _ => Err(FormatError::CannotEdit {
            path: String::new(),
            reason: "some of its lines end with a carriage return, and some do not",
        }),
    }
}

/// `toml_edit` drops a byte order mark, which some editors write at the start.
fn with_mark_of(text: &str, edited: String) -> String {
    match text.starts_with(MARK) && !edited.starts_with(MARK) {
        true => format!("{MARK}{edited}"),
        false => edited,
    }
}
