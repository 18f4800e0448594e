//! INI as Python's configparser and oslo.config read it: a comment line begins with `#` or `;`, a
//! key ends at the first `=` or `:`, and a line that is indented deeper than its key continues the
//! value. Values are text, quotes included.
//!
//! Keys that differ only in case are one key to configparser and two to others, and a section that
//! is there twice is an error or not: such edits are refused.
//!
//! Parsed line by line: `ini_core` reports neither continuation lines nor `#` comments nor byte
//! ranges.

use std::collections::BTreeSet;
use std::ops::Range;

use serde_json::{Map, Value};

use super::{Edit, FormatError, Keys, line_break, splice};

/// The section of keys before the first header; its path is empty.
const NO_SECTION: &str = "";

/// One section header, or one key with its value.
struct IniEntry<'t> {
    section: &'t str,
    kind: EntryKind<'t>,
}

enum EntryKind<'t> {
    /// The end of the line, with its line break.
    Header { end: usize },
    Key {
        key: &'t str,
        value: String,
        /// From after the delimiter and its blanks to the end of the last line, without its line
        /// break.
        value_range: Range<usize>,
        delimiter: Option<&'t str>,
        indent: &'t str,
        /// The end of the last line, with its line break.
        end: usize,
    },
}

fn entries(text: &str) -> Result<Vec<IniEntry<'_>>, FormatError> {
    let mut entries: Vec<IniEntry> = Vec::new();
    let mut section = NO_SECTION;
    // Indentation of the current key: a deeper line continues its value.
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
            entries.push(IniEntry {
                section,
                kind: EntryKind::Header { end: at },
            });
            continue;
        }
        key_indent = Some(indent);
        entries.push(IniEntry {
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

/// Section -> key -> text; keys before the first header are at the top. The last of several counts.
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

/// Why this key or value would not read back unchanged.
pub fn why_not(key: &str, value: &str) -> Option<&'static str> {
    if key.is_empty() || key.trim() != key {
        return Some("an INI key cannot be empty, or begin or end with a blank");
    }
    if key.starts_with(['#', ';', '[']) || key.contains(['=', ':']) {
        return Some("an INI key cannot begin with # ; or [, and cannot contain = or :");
    }
    if value.trim() != value {
        return Some("an INI value cannot begin or end with a blank");
    }
    None
}

/// Sets `changes` in the section named by `path` (none: before the first header).
pub fn edit(text: &str, path: &[String], changes: &Keys) -> Result<String, FormatError> {
    let section = path.first().map_or(NO_SECTION, String::as_str);
    if section.contains(['\n', '\r', ']']) || section.trim() != section {
        return Err(FormatError::CannotEdit {
            path: section.to_owned(),
            reason: "an INI section cannot have this name",
        });
    }
    let entries = entries(text)?;
    let in_section: Vec<&IniEntry> = entries.iter().filter(|entry| entry.section == section).collect();
    check_unambiguous(section, &in_section, changes)?;
    let mut edits = Vec::new();
    let mut found: BTreeSet<&str> = BTreeSet::new();
    let mut place = NewKeys {
        at: (section == NO_SECTION).then_some(0),
        indent: "",
        delimiter: " = ",
    };
    for entry in &in_section {
        match &entry.kind {
            EntryKind::Header { end } => place.at = Some(*end),
            EntryKind::Key {
                key,
                value_range,
                delimiter,
                indent,
                end,
                ..
            } => {
                place.at = Some(*end);
                place.indent = indent;
                // `key =` without a value lacks the blank that other keys need.
                if let Some(delimiter) = delimiter.filter(|_| !value_range.is_empty()) {
                    place.delimiter = delimiter;
                }
                let Some(value) = changes.get(*key).and_then(Value::as_str) else {
                    continue;
                };
                found.insert(key);
                let prefix = if delimiter.is_none() { " = " } else { "" };
                edits.push(Edit {
                    range: value_range.clone(),
                    text: format!("{prefix}{value}"),
                });
            }
        }
    }
    let added = changes.iter().filter(|(key, _)| !found.contains(key.as_str()));
    edits.extend(place.insert(text, section, added));
    Ok(splice(text, edits))
}

/// Refuses an edit whose result readers of INI would not agree on.
fn check_unambiguous(section: &str, entries: &[&IniEntry], changes: &Keys) -> Result<(), FormatError> {
    let headers = entries
        .iter()
        .filter(|entry| matches!(entry.kind, EntryKind::Header { .. }));
    if headers.count() > 1 {
        return Err(FormatError::CannotEdit {
            path: section.to_owned(),
            reason: "the section is in the file more than once",
        });
    }
    for changed in changes.keys() {
        let mut same = 0;
        for entry in entries {
            let EntryKind::Key { key, .. } = &entry.kind else {
                continue;
            };
            if key == changed {
                same += 1;
            } else if key.eq_ignore_ascii_case(changed) {
                return Err(FormatError::OtherCase {
                    key: changed.clone(),
                    in_file: (*key).to_owned(),
                });
            }
        }
        if same > 1 {
            return Err(FormatError::CannotEdit {
                path: format!("{section}.{changed}"),
                reason: "the key is in the section more than once",
            });
        }
        let other = changes
            .keys()
            .find(|other| *other != changed && other.eq_ignore_ascii_case(changed));
        if let Some(other) = other {
            return Err(FormatError::OtherCase {
                key: changed.clone(),
                in_file: other.clone(),
            });
        }
    }
    Ok(())
}

/// Where new keys of a section go, and how they are written.
struct NewKeys<'t> {
    /// `None`: there is no such section yet.
    at: Option<usize>,
    indent: &'t str,
    delimiter: &'t str,
}

impl NewKeys<'_> {
    fn insert<'c>(
        &self,
        text: &str,
        section: &str,
        keys: impl Iterator<Item = (&'c String, &'c Value)>,
    ) -> Option<Edit> {
        let newline = line_break(text);
        let mut lines = String::new();
        for (key, value) in keys {
            let value = value.as_str().unwrap_or_default();
            lines.push_str(&format!("{}{key}{}{value}{newline}", self.indent, self.delimiter));
        }
        if lines.is_empty() {
            return None;
        }
        let at = self.at.unwrap_or(text.len());
        let mut block = String::new();
        if at > 0 && !text[..at].ends_with('\n') {
            block.push_str(newline);
        }
        if self.at.is_none() {
            if !text.is_empty() {
                block.push_str(newline);
            }
            block.push_str(&format!("[{section}]{newline}"));
        }
        block.push_str(&lines);
        Some(Edit {
            range: at..at,
            text: block,
        })
    }
}
