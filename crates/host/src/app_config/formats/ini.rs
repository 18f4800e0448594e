//! INI as Python's configparser and oslo.config read it, which most services that speak INI are near to:
//! comments begin a line with `#` or `;`, a key ends at the first `=` or `:`, a line indented deeper than
//! its key goes on with its value. Values are text, taken as they stand (quotes included).
//!
//! Line by line rather than with `ini_core`: continuation lines, `#` and the spans to edit are not
//! among its events.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::{Map, Value};

use super::{Edit, FormatError, Keys, line_break, splice};

/// Keys that stand before the first section header; as a path that is the empty one.
const NO_SECTION: &str = "";

/// One section header, or one key with its value.
struct Entry<'t> {
    section: &'t str,
    kind: EntryKind<'t>,
}

enum EntryKind<'t> {
    /// The line's end, line break included.
    Header { end: usize },
    Key {
        key: &'t str,
        value: String,
        /// From after the delimiter and its blanks to the end of the last line, without the line break.
        value_range: Range<usize>,
        delimiter: Option<&'t str>,
        indent: &'t str,
        /// The last line's end, line break included.
        end: usize,
    },
}

fn entries(text: &str) -> Result<Vec<Entry<'_>>, FormatError> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut section = NO_SECTION;
    // Indentation of the key that a deeper line would continue.
    let mut key_indent: Option<usize> = None;
    let mut at = 0;
    for (number, raw) in text.split_inclusive('\n').enumerate() {
        let start = at;
        at += raw.len();
        let line = raw.trim_end_matches(['\n', '\r']);
        let body = line.trim();
        if body.is_empty() || body.starts_with(['#', ';']) {
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        if key_indent.is_some_and(|key_indent| indent > key_indent) {
            if let Some(EntryKind::Key {
                value,
                value_range,
                end,
                ..
            }) = entries.last_mut().map(|entry| &mut entry.kind)
            {
                value.push('\n');
                value.push_str(body);
                value_range.end = start + line.trim_end().len();
                *end = at;
            }
            continue;
        }
        if let Some(header) = body.strip_prefix('[') {
            let Some((name, _)) = header.rsplit_once(']') else {
                return Err(FormatError::Syntax {
                    format: "INI",
                    line: number + 1,
                    reason: "a section header without its closing ]",
                });
            };
            section = name;
            key_indent = None;
            entries.push(Entry {
                section,
                kind: EntryKind::Header { end: at },
            });
            continue;
        }
        key_indent = Some(indent);
        entries.push(Entry {
            section,
            kind: key_entry(line, start, indent, at),
        });
    }
    Ok(entries)
}

fn key_entry(line: &str, start: usize, indent: usize, end: usize) -> EntryKind<'_> {
    let written = line.trim_end();
    let (key_end, value_start) = match written.find(['=', ':']) {
        Some(at) => {
            let rest = &written[at + 1..];
            (at, at + 1 + (rest.len() - rest.trim_start().len()))
        }
        None => (written.len(), written.len()),
    };
    let key = written[indent..key_end].trim_end();
    let delimiter = (key_end < written.len()).then(|| &written[indent + key.len()..value_start]);
    EntryKind::Key {
        key,
        value: written[value_start..].to_owned(),
        value_range: start + value_start..start + written.len(),
        delimiter,
        indent: &line[..indent],
        end,
    }
}

/// Section -> key -> text; keys before any header stand at the top. The last of several counts.
pub fn parse(text: &str) -> Result<Value, FormatError> {
    let mut document = Map::new();
    for entry in entries(text)? {
        let table = if entry.section == NO_SECTION {
            &mut document
        } else {
            let section = document
                .entry(entry.section)
                .or_insert_with(|| Value::Object(Map::new()));
            match section {
                Value::Object(table) => table,
                _ => {
                    return Err(FormatError::NotATable {
                        path: entry.section.to_owned(),
                        found: "also a key before the first section",
                    });
                }
            }
        };
        if let EntryKind::Key { key, value, .. } = entry.kind {
            table.insert(key.to_owned(), Value::String(value));
        }
    }
    Ok(Value::Object(document))
}

/// Why this key or value would not read back as it is.
pub fn why_not(key: &str, value: &str) -> Option<&'static str> {
    if key.is_empty() || key.trim() != key {
        return Some("an INI key can't be empty or begin or end with a blank");
    }
    if key.starts_with(['#', ';', '[']) || key.contains(['=', ':']) {
        return Some("an INI key can't begin with # ; or [ or hold = or :");
    }
    if value.trim() != value {
        return Some("an INI value can't begin or end with a blank");
    }
    None
}

/// Sets `changes` in the section named by `path` (none: before the first header).
pub fn edit(text: &str, path: &[String], changes: &Keys) -> Result<String, FormatError> {
    let section = path.first().map_or(NO_SECTION, String::as_str);
    if section.contains(['\n', '\r', ']']) || section.trim() != section {
        return Err(FormatError::CannotEdit {
            path: section.to_owned(),
            reason: "no INI section can have that name",
        });
    }
    let entries = entries(text)?;
    let newline = line_break(text);
    let mut edits = Vec::new();
    let mut found: BTreeMap<&str, usize> = BTreeMap::new();
    let mut insert_at = (section == NO_SECTION).then_some(0);
    let mut style = ("", " = ");
    for entry in entries.iter().filter(|entry| entry.section == section) {
        match &entry.kind {
            EntryKind::Header { end } => insert_at = Some(*end),
            EntryKind::Key {
                key,
                value_range,
                delimiter,
                indent,
                end,
                ..
            } => {
                insert_at = Some(*end);
                // `key =` without a value lacks the blank that other keys need.
                let delimiter_style = delimiter.filter(|_| !value_range.is_empty());
                style = (*indent, delimiter_style.unwrap_or(style.1));
                let Some(value) = changes.get(*key).and_then(Value::as_str) else {
                    continue;
                };
                *found.entry(*key).or_default() += 1;
                let prefix = if delimiter.is_none() { " = " } else { "" };
                edits.push(Edit {
                    range: value_range.clone(),
                    text: format!("{prefix}{value}"),
                });
            }
        }
    }
    if let Some((key, _)) = found.iter().find(|(_, count)| **count > 1) {
        return Err(FormatError::CannotEdit {
            path: format!("{section}.{key}"),
            reason: "the key stands there more than once",
        });
    }
    let (indent, delimiter) = style;
    let mut added = String::new();
    for (key, value) in changes
        .iter()
        .filter(|(key, _)| !found.contains_key(key.as_str()))
    {
        let value = value.as_str().unwrap_or_default();
        added.push_str(&format!("{indent}{key}{delimiter}{value}{newline}"));
    }
    if !added.is_empty() {
        let at = insert_at.unwrap_or(text.len());
        let mut block = String::new();
        if at > 0 && !text[..at].ends_with('\n') {
            block.push_str(newline);
        }
        if insert_at.is_none() {
            if !text.is_empty() {
                block.push_str(newline);
            }
            block.push_str(&format!("[{section}]{newline}"));
        }
        block.push_str(&added);
        edits.push(Edit {
            range: at..at,
            text: block,
        });
    }
    Ok(splice(text, edits))
}
