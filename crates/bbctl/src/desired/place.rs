//! Finds the place in a text that a JSON path points to. JSON is a subset of YAML, so one parser
//! serves both.

use saphyr::{LoadableYamlNode, MarkedYaml, YamlData};

/// One step of a path (RFC 9535, as `protocol` writes them).
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// Line and column, from 1, of the value that `path` points to. If there is no such value: of the
/// nearest value around it. `None` for a text that cannot be parsed.
pub fn find(text: &str, path: &str) -> Option<(usize, usize)> {
    Some(walk(text, path)?.value)
}

/// Line and column of the last key of the path.
pub fn find_name(text: &str, path: &str) -> Option<(usize, usize)> {
    Some(walk(text, path)?.name)
}

/// Lines and columns of a key and its value.
struct Place {
    name: (usize, usize),
    value: (usize, usize),
}

fn walk(text: &str, path: &str) -> Option<Place> {
    let documents = MarkedYaml::load_from_str(text).ok()?;
    let mut node = documents.first()?;
    let mut place = node.span.start;
    let mut name = place;
    for step in steps(path) {
        match (&node.data, step) {
            (YamlData::Mapping(members), Step::Key(wanted)) => {
                let Some((key, value)) = members.iter().find(|(key, _)| {
                    // Long keys are shortened in paths.
                    let key = super::yaml::key_text(key).unwrap_or_default();
                    match wanted.strip_suffix('…') {
                        Some(start) => key.starts_with(start),
                        None => key == wanted,
                    }
                }) else {
                    break;
                };
                name = key.span.start;
                // A collection may begin a line after its key. People look for the key.
                place = match &value.data {
                    YamlData::Mapping(_) | YamlData::Sequence(_) => key.span.start,
                    YamlData::Representation(..)
                    | YamlData::Value(_)
                    | YamlData::Alias(_)
                    | YamlData::Tagged(..)
                    | YamlData::BadValue => value.span.start,
                };
                node = value;
            }
            (YamlData::Sequence(items), Step::Index(index)) => {
                let Some(item) = items.get(index) else { break };
                place = item.span.start;
                name = place;
                node = item;
            }
            _ => break,
        }
    }
    let [name, value] = [name, place].map(|mark| (mark.line(), mark.col() + 1));
    Some(Place { name, value })
}

fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = path.strip_prefix('$').unwrap_or_default();
    loop {
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            steps.push(Step::Key(after[..end].to_owned()));
            rest = &after[end..];
        } else if let Some(after) = rest.strip_prefix("[\"") {
            let mut key = String::new();
            let mut characters = after.char_indices();
            let end = loop {
                match characters.next() {
                    Some((_, '\\')) => key.extend(characters.next().map(|(_, escaped)| escaped)),
                    Some((at, '"')) => break at,
                    Some((_, character)) => key.push(character),
                    None => return steps,
                }
            };
            steps.push(Step::Key(key));
            rest = after[end + 1..].strip_prefix(']').unwrap_or_default();
        } else if let Some(after) = rest.strip_prefix('[') {
            let Some((index, after)) = after.split_once(']') else {
                return steps;
            };
            let Ok(index) = index.parse() else { return steps };
            steps.push(Step::Index(index));
            rest = after;
        } else {
            return steps;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_to_its_line_and_column_in_yaml_and_in_json() {
        let yaml = "# what it runs\nweb:\n  version: 1.10\n  requires: [db, no]\na-b:\n  version: '2'\n";
        let json = "{\n\t\"web\": {\"version\": 1.10,\n\t\t\"requires\": [\"db\", \"no\"]},\n\t\"a-b\": {\"version\": \"2\"}\n}\n";
        for (path, in_yaml, in_json) in [
            ("$", (2, 1), (1, 1)),
            ("$.web", (2, 1), (2, 2)),
            ("$.web.version", (3, 12), (2, 21)),
            ("$.web.requires[1]", (4, 18), (3, 22)),
            ("$[\"a-b\"].version", (6, 12), (4, 21)),
            ("$[\"a-…\"].version", (6, 12), (4, 21)),
            // Missing: the place of the value that should contain it.
            ("$.web.url", (2, 1), (2, 2)),
        ] {
            assert_eq!(find(yaml, path), Some(in_yaml), "{path} in YAML");
            assert_eq!(find(json, path), Some(in_json), "{path} in JSON");
        }
        assert_eq!(find_name(yaml, "$.web.version"), Some((3, 3)));
        assert_eq!(find_name(json, "$.web.version"), Some((2, 10)));
        assert_eq!(find("{", "$"), None);
    }
}
