//! YAML 1.2, edited at the places of its values in the text: comments, order and style of
//! everything else stay. A new list or object is written in flow style (`[1, 2]`); comments inside
//! the old one are lost.
//!
//! Strings that older readers (YAML 1.1) would read as another type are quoted.

use std::collections::HashMap;
use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};
use serde_json::{Map, Number, Value};

use super::FormatError;

mod edit;
mod write;

pub use edit::edit;

const MAX_DEPTH: usize = 64;
/// Of a document with its aliases resolved, as [`size`] counts it: a few lines of nested aliases
/// can expand to billions of values.
const MAX_SIZE: usize = 100_000;
/// So many bytes of text count as one more value.
const TEXT: usize = 64;

/// A value and its place in the text.
struct Node {
    value: Value,
    /// In bytes. A block collection: from its first key or item to the end of its last scalar.
    range: Range<usize>,
    shape: Shape,
    /// Has an anchor or a tag, or is an alias: an edit could change other values, too.
    entangled: bool,
}

enum Shape {
    Scalar(ScalarStyle),
    Map { flow: bool, entries: Vec<MapEntry> },
    Sequence { flow: bool },
    Alias,
}

struct MapEntry {
    key: String,
    key_range: Range<usize>,
    node: Node,
}

pub fn parse(text: &str) -> Result<Value, FormatError> {
    Ok(match document(text)? {
        // The document of an empty file.
        None => Value::Object(Map::new()),
        Some(node) if node.value.is_null() => Value::Object(Map::new()),
        Some(node) => node.value,
    })
}

fn document(text: &str) -> Result<Option<Node>, FormatError> {
    root(text).map_err(|error| match error {
        // To the parser, the end of the file may be a line of its own.
        FormatError::Syntax { format, line, reason } => FormatError::Syntax {
            format,
            line: line.min(1 + text.matches(['\n', '\r']).count()),
            reason,
        },
        other => other,
    })
}

fn root(text: &str) -> Result<Option<Node>, FormatError> {
    let mut builder = Builder {
        parser: Parser::new_from_str(text),
        offsets: text
            .char_indices()
            .map(|(at, _)| at)
            .chain([text.len()])
            .collect(),
        text,
        anchors: HashMap::new(),
        size: 0,
    };
    let mut root = None;
    loop {
        let (event, span) = builder.next()?;
        match event {
            Event::StreamEnd => return Ok(root),
            Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
            first if root.is_none() => root = Some(builder.node(first, span, 0)?),
            _ => return Err(refused(span.start.line(), "more than one document in the file")),
        }
    }
}

fn refused(line: usize, reason: &'static str) -> FormatError {
    FormatError::Syntax {
        format: "YAML",
        line,
        reason,
    }
}

struct Builder<'t> {
    parser: Parser<'t, saphyr_parser::StrInput<'t>>,
    /// Character -> byte.
    offsets: Vec<usize>,
    text: &'t str,
    anchors: HashMap<usize, Value>,
    size: usize,
}

impl<'t> Builder<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), FormatError> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            // The parser's own message may quote the file.
            Some(Err(error)) => Err(refused(error.marker().line(), "the YAML parser refuses it")),
            None => Err(refused(1, "it ends too early")),
        }
    }

    fn bytes(&self, span: Span) -> Range<usize> {
        let byte = |index: usize| self.offsets.get(index).copied().unwrap_or(self.text.len());
        byte(span.start.index())..byte(span.end.index())
    }

    fn count(&mut self, size: usize, line: usize) -> Result<(), FormatError> {
        self.size += size;
        if self.size > MAX_SIZE {
            return Err(refused(line, "too many values"));
        }
        Ok(())
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Node, FormatError> {
        let line = span.start.line();
        if depth > MAX_DEPTH {
            return Err(refused(line, "too deep"));
        }
        self.count(1, line)?;
        let range = self.bytes(span);
        let (node, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = resolve(&text, style, tag.as_deref())
                    .ok_or_else(|| refused(line, "a value that does not match its tag"))?;
                let node = Node {
                    value,
                    range,
                    shape: Shape::Scalar(style),
                    entangled: anchor != 0 || tag.is_some(),
                };
                (node, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                let flow = self.text[range.start..].starts_with('[');
                let entangled = anchor != 0 || tag.is_some();
                (self.sequence(flow, range, depth, entangled)?, anchor)
            }
            Event::MappingStart(anchor, tag) => {
                let flow = self.text[range.start..].starts_with('{');
                (
                    self.mapping(flow, range, depth, anchor != 0 || tag.is_some())?,
                    anchor,
                )
            }
            Event::Alias(id) => {
                let value = self
                    .anchors
                    .get(&id)
                    .ok_or_else(|| refused(line, "an alias inside its own anchor"))?;
                let (size, value) = (size(value), value.clone());
                self.count(size, line)?;
                let node = Node {
                    value,
                    range,
                    shape: Shape::Alias,
                    entangled: true,
                };
                (node, 0)
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => return Err(refused(line, "a value is missing")),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, node.value.clone());
        }
        Ok(node)
    }

    fn sequence(
        &mut self,
        flow: bool,
        range: Range<usize>,
        depth: usize,
        mut entangled: bool,
    ) -> Result<Node, FormatError> {
        let mut items = Vec::new();
        let mut end = range.end;
        loop {
            match self.next()? {
                (Event::SequenceEnd, span) => {
                    if flow {
                        end = self.bytes(span).end;
                    }
                    break;
                }
                (event, span) => {
                    let item = self.node(event, span, depth + 1)?;
                    end = end.max(item.range.end);
                    entangled |= item.entangled;
                    items.push(item.value);
                }
            }
        }
        Ok(Node {
            value: Value::Array(items),
            range: range.start..end,
            shape: Shape::Sequence { flow },
            entangled,
        })
    }

    fn mapping(
        &mut self,
        flow: bool,
        range: Range<usize>,
        depth: usize,
        mut entangled: bool,
    ) -> Result<Node, FormatError> {
        let mut entries: Vec<MapEntry> = Vec::new();
        let mut table = Map::new();
        let mut end = range.end;
        loop {
            let (event, span) = self.next()?;
            let line = span.start.line();
            let key_range = self.bytes(span);
            let key = match event {
                Event::MappingEnd => {
                    if flow {
                        end = key_range.end;
                    }
                    break;
                }
                Event::Scalar(text, ..) => text.into_owned(),
                _ => return Err(refused(line, "a key that is not text")),
            };
            if key == "<<" {
                return Err(refused(line, "merge keys (<<) are not part of YAML 1.2"));
            }
            let (event, span) = self.next()?;
            let node = self.node(event, span, depth + 1)?;
            entangled |= node.entangled;
            // An empty value has no place in the text.
            end = end.max(key_range.end);
            if !node.range.is_empty() {
                end = end.max(node.range.end);
            }
            if table.insert(key.clone(), node.value.clone()).is_some() {
                return Err(refused(line, "a key that is in the table more than once"));
            }
            entries.push(MapEntry { key, key_range, node });
        }
        let start = match entries.first() {
            Some(first) if !flow => first.key_range.start,
            _ => range.start,
        };
        Ok(Node {
            value: Value::Object(table),
            range: start..end,
            shape: Shape::Map { flow, entries },
            entangled,
        })
    }
}

fn size(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(size).sum::<usize>(),
        Value::Object(map) => {
            1 + map
                .iter()
                .map(|(key, value)| key.len() / TEXT + size(value))
                .sum::<usize>()
        }
        Value::String(text) => 1 + text.len() / TEXT,
        Value::Null | Value::Bool(_) | Value::Number(_) => 1,
    }
}

/// A scalar's value by the core schema of YAML 1.2 (10.3.2).
fn resolve(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Option<Value> {
    let string = || Value::String(text.to_owned());
    if let Some(tag) = tag {
        let plain = resolve(text, ScalarStyle::Plain, None)?;
        let fits = match tag.suffix.as_str() {
            _ if !tag.is_yaml_core_schema() => return Some(string()),
            "str" => return Some(string()),
            "int" | "float" => plain.is_number(),
            "bool" => plain.is_boolean(),
            "null" => plain.is_null(),
            _ => return Some(string()),
        };
        return fits.then_some(plain);
    }
    if style != ScalarStyle::Plain {
        return Some(string());
    }
    Some(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => number(text).map_or_else(string, Value::Number),
    })
}

fn number(text: &str) -> Option<Number> {
    if let Some(hex) = text.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok().map(Number::from);
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return u64::from_str_radix(octal, 8).ok().map(Number::from);
    }
    // Without inf and nan, which JSON cannot hold, and without forms that only Rust parses.
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        || !digits.contains(|c: char| c.is_ascii_digit())
    {
        return None;
    }
    if let Ok(integer) = text.parse::<i64>() {
        return Some(integer.into());
    }
    if let Ok(integer) = digits.parse::<u64>()
        && !text.starts_with('-')
    {
        return Some(integer.into());
    }
    text.parse().ok().and_then(Number::from_f64)
}
