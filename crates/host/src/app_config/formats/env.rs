//! Environment files: `KEY=value` lines that systemd (`EnvironmentFile=`) and a shell read alike.
//! Values are quoted so that both read the same. Lines that are no assignment are kept, and ignored
//! as systemd does.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::{Map, Value};

use super::{Edit, FormatError, Keys, line_break, line_of, splice};

struct Assignment<'t> {
    key: &'t str,
    value: String,
    /// Of the value in the text, with its quotes.
    range: Range<usize>,
}

/// The lines of a file, without comments.
struct EnvFile<'t> {
    assignments: Vec<Assignment<'t>>,
    /// Lines that are no assignment, such as `export A` or `. /etc/x`.
    other_lines: Vec<&'t str>,
}

impl<'t> EnvFile<'t> {
    fn parse(text: &'t str) -> Result<Self, FormatError> {
        let mut file = Self {
            assignments: Vec::new(),
            other_lines: Vec::new(),
        };
        let mut at = 0;
        while at < text.len() {
            let rest = &text[at..];
            let line_len = rest.find('\n').map_or(rest.len(), |end| end + 1);
            let line = rest[..line_len].trim();
            let Some(key) = assigned_key(line) else {
                if !line.is_empty() && !line.starts_with(['#', ';']) {
                    file.other_lines.push(line);
                }
                at += line_len;
                continue;
            };
            // Both are parts of the line, so that the first `=` is the one behind the key.
            let start = at + rest.find('=').map_or(0, |at| at + 1);
            let Some((value, len)) = unquote(&text[start..]) else {
                return Err(FormatError::Syntax {
                    format: "environment file",
                    line: line_of(text, at),
                    reason: "a quote that is not closed",
                });
            };
            file.assignments.push(Assignment {
                key,
                value,
                range: start..start + len,
            });
            let after = start + len;
            at = text[after..].find('\n').map_or(text.len(), |end| after + end + 1);
        }
        Ok(file)
    }

    /// Whether a line that is no assignment contains `key` as a word.
    fn mentions(&self, key: &str) -> bool {
        let is_name_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        self.other_lines
            .iter()
            .any(|line| line.split(|c| !is_name_part(c)).any(|word| word == key))
    }
}

/// The key of `KEY=...` or `export KEY=...`.
fn assigned_key(line: &str) -> Option<&str> {
    let assignment = match line.strip_prefix("export") {
        Some(after) if after.starts_with([' ', '\t']) => after.trim_start(),
        _ => line,
    };
    let (key, _) = assignment.split_once('=')?;
    is_name(key).then_some(key)
}

/// The value at the start of `text`, and its length there in bytes.
fn unquote(text: &str) -> Option<(String, usize)> {
    let mut value = String::new();
    // Length of `value` without unquoted blanks at its end, and where these begin in `text`.
    let (mut kept, mut end) = (0, 0);
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (None, '\n') => break,
            (None, ' ' | '\t' | '\r') => {
                if !value.is_empty() {
                    value.push(c);
                }
                continue;
            }
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            (None, '\\') => match chars.next() {
                // The line continues.
                Some((_, '\n')) | None => {}
                Some((_, next)) => value.push(next),
            },
            (Some('"'), '\\') => match chars.next()? {
                (_, '\n') => {}
                (_, next @ ('"' | '\\' | '$' | '`')) => value.push(next),
                (_, next) => value.extend(['\\', next]),
            },
            (_, c) => value.push(c),
        }
        kept = value.len();
        end = chars.clone().next().map_or(text.len(), |(next, _)| next);
        let _ = at;
    }
    if quote.is_some() {
        return None;
    }
    value.truncate(kept);
    Some((value, end))
}

fn quote(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:@%+,=-".contains(c);
    if value.chars().all(plain) {
        return value.to_owned();
    }
    let mut out = String::with_capacity(value.len() + 2);
    out.push('"');
    for c in value.chars() {
        if matches!(c, '"' | '\\' | '$' | '`') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

fn is_name(key: &str) -> bool {
    key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Why this is not the name of a variable.
pub fn why_not(key: &str) -> Option<&'static str> {
    (!is_name(key)).then_some(
        "the name of a variable consists of letters, digits and _, and does not begin with a digit",
    )
}

/// Key -> text. The last of several counts.
pub fn parse(text: &str) -> Result<Value, FormatError> {
    let document: Map<String, Value> = EnvFile::parse(text)?
        .assignments
        .into_iter()
        .map(|assignment| (assignment.key.to_owned(), Value::String(assignment.value)))
        .collect();
    Ok(Value::Object(document))
}

pub fn edit(text: &str, changes: &Keys) -> Result<String, FormatError> {
    let file = EnvFile::parse(text)?;
    let mut edits = Vec::new();
    let mut found: BTreeMap<&str, usize> = BTreeMap::new();
    for assignment in &file.assignments {
        let Some(value) = changes.get(assignment.key).and_then(Value::as_str) else {
            continue;
        };
        *found.entry(assignment.key).or_default() += 1;
        edits.push(Edit {
            range: assignment.range.clone(),
            text: quote(value),
        });
    }
    if let Some((key, _)) = found.iter().find(|(_, count)| **count > 1) {
        return Err(FormatError::CannotEdit {
            path: (*key).to_owned(),
            reason: "the variable is set more than once in the file",
        });
    }
    let newline = line_break(text);
    let mut added = String::new();
    for (key, value) in changes
        .iter()
        .filter(|(key, _)| !found.contains_key(key.as_str()))
    {
        if file.mentions(key) {
            return Err(FormatError::CannotEdit {
                path: key.clone(),
                reason: "a line that is not an assignment contains it",
            });
        }
        added.push_str(&format!(
            "{key}={}{newline}",
            quote(value.as_str().unwrap_or_default())
        ));
    }
    if !added.is_empty() {
        if !text.is_empty() && !text.ends_with('\n') {
            added.insert_str(0, newline);
        }
        edits.push(Edit {
            range: text.len()..text.len(),
            text: added,
        });
    }
    Ok(splice(text, edits))
}
