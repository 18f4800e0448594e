//! Changes a YAML text at the places of its nodes.

use saphyr_parser::ScalarStyle;
use serde_json::Value;

use super::super::{Edit, FormatError, Keys, line_break, nested, splice};
use super::write::{block, inline, scalar};
use super::{MapEntry, Node, Shape, document};

pub fn edit(text: &str, path: &[String], changes: &Keys) -> Result<String, FormatError> {
    let newline = line_break(text);
    let root = document(text)?;
    let Some(root) = root.filter(|node| !node.range.is_empty() || !node.value.is_null()) else {
        let mut out = text.to_owned();
        if !out.is_empty() && !out.ends_with('\n') {
            out.push_str(newline);
        }
        out.push_str(&block(path, changes, 0, newline));
        return Ok(out);
    };
    let mut at = &root;
    for (depth, part) in path.iter().enumerate() {
        let found = match &at.shape {
            Shape::Map { entries, .. } => entries.iter().find(|entry| entry.key == *part),
            Shape::Scalar(_) | Shape::Sequence { .. } | Shape::Alias => None,
        };
        match found {
            Some(entry) if matches!(entry.node.shape, Shape::Map { .. }) => at = &entry.node,
            // No table there yet: the rest of the path is one new value.
            _ => {
                let rest = nested(&path[depth + 1..], changes);
                let added = Keys::from([(part.clone(), rest)]);
                return Ok(splice(text, set_entries(text, at, &path[..depth], &added)?));
            }
        }
    }
    Ok(splice(text, set_entries(text, at, path, changes)?))
}

fn set_entries(text: &str, table: &Node, path: &[String], changes: &Keys) -> Result<Vec<Edit>, FormatError> {
    let cannot = |reason| FormatError::CannotEdit {
        path: path.join("."),
        reason,
    };
    let Shape::Map { flow, entries } = &table.shape else {
        return Err(cannot("it is not a table"));
    };
    let newline = line_break(text);
    let mut edits = Vec::new();
    let mut added = Vec::new();
    for (key, value) in changes {
        let Some(entry) = entries.iter().find(|entry| entry.key == *key) else {
            added.push((key, value));
            continue;
        };
        if entry.node.entangled {
            return Err(FormatError::CannotEdit {
                path: path
                    .iter()
                    .chain([key])
                    .map(String::as_str)
                    .collect::<Vec<_>>()
                    .join("."),
                reason: "it has an anchor, an alias or a tag",
            });
        }
        edits.push(replace_value(text, entry, value));
    }
    if added.is_empty() {
        return Ok(edits);
    }
    let mut out = String::new();
    let at = if *flow {
        for (number, (key, value)) in added.iter().enumerate() {
            let comma = if number > 0 || !entries.is_empty() {
                ", "
            } else {
                ""
            };
            out.push_str(&format!("{comma}{}: {}", scalar(key), inline(value)));
        }
        entries.last().map_or(table.range.start + 1, end_of_entry)
    } else {
        let line_start = text[..table.range.start].rfind('\n').map_or(0, |at| at + 1);
        let column = text[line_start..table.range.start].chars().count();
        for (key, value) in &added {
            let one = Keys::from([((*key).clone(), (*value).clone())]);
            out.push_str(&block(&[], &one, column, newline));
        }
        // After the last line of the table and a comment in that line.
        let content = text[..table.range.end].trim_end().len();
        match text[content..].find('\n') {
            Some(end) => content + end + 1,
            None => {
                out.insert_str(0, newline);
                text.len()
            }
        }
    };
    edits.push(Edit {
        range: at..at,
        text: out,
    });
    Ok(edits)
}

fn end_of_entry(entry: &MapEntry) -> usize {
    match entry.node.range.is_empty() {
        true => entry.key_range.end,
        false => entry.node.range.end,
    }
}

fn replace_value(text: &str, entry: &MapEntry, value: &Value) -> Edit {
    let node = &entry.node;
    let in_place = match &node.shape {
        Shape::Scalar(ScalarStyle::Plain | ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted) => {
            !node.range.is_empty()
        }
        Shape::Scalar(ScalarStyle::Literal | ScalarStyle::Folded) => false,
        Shape::Map { flow, .. } | Shape::Sequence { flow } => *flow,
        Shape::Alias => true,
    };
    if in_place {
        return Edit {
            range: node.range.clone(),
            text: inline(value),
        };
    }
    // Blocks and empty values: from the colon on. (The check of the result finds errors here.)
    let after_key = &text[entry.key_range.end..];
    let colon = entry.key_range.end + after_key.find(':').map_or(0, |at| at + 1);
    let end = match node.range.is_empty() {
        true => colon,
        false => text[..node.range.end].trim_end().len().max(colon),
    };
    Edit {
        range: colon..end,
        text: format!(" {}", inline(value)),
    }
}
