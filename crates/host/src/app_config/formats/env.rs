//! Environment files: `KEY=value` lines as systemd's `EnvironmentFile=` reads them and as a shell can
//! source them. What is written is quoted so that both read the same.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::{Map, Value};

use super::{Edit, FormatError, Keys, line_break, line_of, splice};

struct Assignment<'t> {
    key: &'t str,
    value: String,
    /// The value as it is written, quotes included.
    range: Range<usize>,
}

fn assignments(text: &str) -> Result<Vec<Assignment<'_>>, FormatError> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let line_len = rest.find('\n').map_or(rest.len(), |end| end + 1);
        let line = rest[..line_len].trim_end();
        let body = line.trim_start();
        let body_start = at + (line.len() - body.len());
        if body.is_empty() || body.starts_with(['#', ';']) {
            at += line_len;
            continue;
        }
        let syntax = |reason| FormatError::Syntax {
            format: "environment file",
            line: line_of(text, at),
            reason,
        };
        let (name, exported) = match body.strip_prefix("export") {
            Some(after) if after.starts_with([' ', '\t']) => (after.trim_start(), body.len()),
            _ => (body, body.len()),
        };
        let Some((key, _)) = name.split_once('=') else {
            return Err(syntax("a line without ="));
        };
        if !is_name(key) {
            return Err(syntax("not the name of a variable before ="));
        }
        let start = body_start + (exported - name.len()) + key.len() + 1;
        let Some((value, len)) = unquote(&text[start..]) else {
            return Err(syntax("a quote that is not closed"));
        };
        found.push(Assignment {
            key,
            value,
            range: start..start + len,
        });
        let after = start + len;
        at = text[after..].find('\n').map_or(text.len(), |end| after + end + 1);
    }
    Ok(found)
}

/// The value at the start of `text`, and how many bytes it takes up there.
fn unquote(text: &str) -> Option<(String, usize)> {
    let mut value = String::new();
    // Length of `value` without unquoted blanks at its end, and where those begin in `text`.
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
                // A line that goes on.
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

/// Why this can't be the name of a variable.
pub fn why_not(key: &str) -> Option<&'static str> {
    (!is_name(key)).then_some("the name of a variable is letters, digits and _, no digit first")
}

/// Key -> text. The last of several counts.
pub fn parse(text: &str) -> Result<Value, FormatError> {
    let document: Map<String, Value> = assignments(text)?
        .into_iter()
        .map(|assignment| (assignment.key.to_owned(), Value::String(assignment.value)))
        .collect();
    Ok(Value::Object(document))
}

pub fn edit(text: &str, changes: &Keys) -> Result<String, FormatError> {
    let assignments = assignments(text)?;
    let mut edits = Vec::new();
    let mut found: BTreeMap<&str, usize> = BTreeMap::new();
    for assignment in &assignments {
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
            reason: "the variable is set there more than once",
        });
    }
    let newline = line_break(text);
    let mut added = String::new();
    for (key, value) in changes
        .iter()
        .filter(|(key, _)| !found.contains_key(key.as_str()))
    {
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
