//! Parses one INI file into its lines that have a meaning.

use ini_core::{Item, Parser};

/// One line of the file. Lines count from 1.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    Section {
        line: u32,
        name: String,
    },
    /// The key is in lower case. The case of keys does not matter, as in Python's parser.
    Pair {
        line: u32,
        key: String,
        value: String,
    },
    /// An indented line without `=`. Python's parser takes it as a further line of the previous
    /// value.
    Continuation {
        line: u32,
    },
    Invalid {
        line: u32,
        text: String,
    },
}

/// Parses `text`. Never fails: a line that is not INI becomes [`Line::Invalid`].
pub fn read(text: &str) -> Vec<Line> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut parser = Parser::new(text).comment_char(b'#');
    let mut lines = Vec::new();
    loop {
        // Taken before the item: the parser counts line ends, and the last line may have none.
        let line = parser.line() + 1;
        let Some(item) = parser.next() else {
            return lines;
        };
        match item {
            Item::Comment(_) | Item::Blank | Item::SectionEnd => {}
            Item::Section(name) => lines.push(section(line, name)),
            // `[name] `, with a space at its end.
            Item::Error(text) => lines.push(bracketed(line, text)),
            Item::Property(key, value) => lines.extend(property(line, key, value)),
        }
    }
}

fn section(line: u32, name: &str) -> Line {
    Line::Section {
        line,
        name: name.trim().to_owned(),
    }
}

fn bracketed(line: u32, text: &str) -> Line {
    let name = text
        .trim()
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    match name {
        Some(name) => section(line, name),
        None => invalid(line, text),
    }
}

fn property(line: u32, key: &str, value: Option<&str>) -> Option<Line> {
    let trimmed = key.trim();
    if trimmed.starts_with(['#', ';']) {
        return None;
    }
    // `key: value` is Python's other notation. No key of ours contains a colon.
    let (key, value) = match (trimmed.split_once(':'), value) {
        (None, Some(value)) => (trimmed, value.trim().to_owned()),
        (Some((key, start)), None) => (key, start.trim().to_owned()),
        (Some((key, start)), Some(rest)) => (key, format!("{start}={rest}").trim().to_owned()),
        (None, None) if trimmed.is_empty() => return None,
        (None, None) if trimmed.starts_with('[') => return Some(bracketed(line, trimmed)),
        (None, None) if key.starts_with([' ', '\t']) => return Some(Line::Continuation { line }),
        (None, None) => return Some(invalid(line, trimmed)),
    };
    Some(Line::Pair {
        line,
        key: key.trim().to_ascii_lowercase(),
        value,
    })
}

fn invalid(line: u32, text: &str) -> Line {
    Line::Invalid {
        line,
        text: text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        read(text)
            .into_iter()
            .map(|line| match line {
                Line::Section { line, name } => format!("{line} [{name}]"),
                Line::Pair { line, key, value } => format!("{line} {key}={value}"),
                Line::Continuation { line } => format!("{line} ..."),
                Line::Invalid { line, text } => format!("{line} ?{text}"),
            })
            .collect()
    }

    #[test]
    fn accepts_what_pythons_parser_accepts() {
        let text = "\u{feff}# comment\r\n; comment\r\n[ amqp ] \r\n\r\nHost = a=b\r\n  # indented comment\r\n\
                    port: 1\r\nurl: http://h?a=b\r\n  [ssl]\n  more\nlost\n[broken";
        assert_eq!(
            shown(text),
            [
                "3 [amqp]",
                "5 host=a=b",
                "7 port=1",
                "8 url=http://h?a=b",
                "9 [ssl]",
                "10 ...",
                "11 ?lost",
                "12 ?[broken"
            ]
        );
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "[\\[\\]=:;# a\\r\\n\\t\u{e9}\u{0}]{0,64}") {
            read(&text);
        }
    }
}
