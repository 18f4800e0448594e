//! Values as YAML text.

use serde_json::Value;

use super::super::Keys;

/// `key: value` lines at `column`, nested tables as blocks.
pub fn block(path: &[String], keys: &Keys, column: usize, newline: &str) -> String {
    let mut out = String::new();
    let mut column = column;
    for part in path {
        out.push_str(&format!("{:column$}{}:{newline}", "", scalar(part)));
        column += 2;
    }
    for (key, value) in keys {
        match value {
            Value::Object(map) if !map.is_empty() => {
                let inner = map.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
                out.push_str(&block(std::slice::from_ref(key), &inner, column, newline));
            }
            _ => out.push_str(&format!(
                "{:column$}{}: {}{newline}",
                "",
                scalar(key),
                inline(value)
            )),
        }
    }
    out
}

/// A value on one line, in flow style.
pub fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(inline).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(map) => {
            let entries: Vec<String> = map
                .iter()
                .map(|(key, value)| format!("{}: {}", scalar(key), inline(value)))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// A string: plain if every reader reads it as a string, otherwise in double quotes, as in JSON.
pub fn scalar(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '_')
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_./-".contains(c))
        && !is_word_of_yaml_1_1(text);
    if plain {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 2);
    for c in Value::String(text.to_owned()).to_string().chars() {
        match c {
            // Line breaks for some readers.
            '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{7f}' | '\u{feff}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out
}

fn is_word_of_yaml_1_1(text: &str) -> bool {
    const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    WORDS.iter().any(|word| word.eq_ignore_ascii_case(text))
}
