//! Output for people and programs.

mod style;
mod table;
mod time;

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use serde::Serialize;

use crate::desired::to_yaml;

pub use style::{Paint, Style};
pub use table::{Cell, Table};
pub use time::{ago, clock, duration, since, until};

/// The format of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Table that fits the terminal.
    Table,
    /// Table with more columns, of any width.
    Wide,
    /// JSON, as from the master's API.
    Json,
    /// The same data as YAML.
    Yaml,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    Always,
    Never,
}

/// Properties of standard output.
#[derive(Debug, Clone, Copy)]
pub struct Terminal {
    pub paint: Paint,
    /// Columns of the terminal; `None`: no terminal, no limit.
    pub width: Option<usize>,
    /// Whether the user can be asked: standard input and standard error are a terminal.
    pub can_ask: bool,
}

impl Terminal {
    pub fn of_process(color: Color) -> Self {
        let is_terminal = io::stdout().is_terminal();
        // https://no-color.org
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colored = match color {
            Color::Auto => is_terminal && !no_color && !dumb,
            Color::Always => true,
            Color::Never => false,
        };
        let width = is_terminal
            .then(|| rustix::termios::tcgetwinsize(io::stdout()).ok())
            .flatten()
            .map(|size| usize::from(size.ws_col))
            .filter(|columns| *columns > 0);
        Self {
            paint: Paint { colored },
            width,
            can_ask: io::stdin().is_terminal() && io::stderr().is_terminal(),
        }
    }
}

/// Prints to standard output and flushes it.
pub fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Prints to standard error. A failure of that is ignored.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// `value` as JSON or YAML; `None` for table formats.
pub fn for_programs(format: Format, value: &impl Serialize) -> serde_json::Result<Option<String>> {
    match format {
        Format::Table | Format::Wide => Ok(None),
        Format::Json => Ok(Some(serde_json::to_string_pretty(value)? + "\n")),
        Format::Yaml => Ok(Some(to_yaml(&serde_json::to_value(value)?))),
    }
}

/// A text from outside on one line, without characters that control the terminal.
pub fn clean(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => ' ',
            c if is_harmful(c) => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// As [`clean`], but keeps the lines. All lines after the first are indented.
pub fn clean_lines(text: &str, indent: &str) -> String {
    let lines: Vec<String> = text.trim_end().lines().map(clean).collect();
    lines.join(&format!("\n{indent}"))
}

/// Control characters, and characters that change the direction of text.
fn is_harmful(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_cannot_steer_the_terminal() {
        assert_eq!(
            clean("a\x1b[31mb\u{9b}c\nd\u{202e}e\t"),
            "a\u{fffd}[31mb\u{fffd}c d\u{fffd}e "
        );
        assert_eq!(clean_lines("one\r\ntwo\n", "  "), "one\n  two");
    }
}
