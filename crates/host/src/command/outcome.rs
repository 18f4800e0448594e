//! What a command gives to its caller: its output, or why there is none.

use std::fmt;
use std::io;
use std::time::Duration;

use protocol::Category;
use serde::{Deserialize, Serialize};

use crate::HostError;

/// An error message quotes at most so much of stderr.
pub(crate) const EXCERPT_LINES: usize = 5;
pub(super) const EXCERPT_BYTES: usize = 1500;

/// How a command ended by itself or by a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// What a command printed, and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    pub exit: Exit,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub elapsed: Duration,
}

impl Output {
    pub fn success(&self) -> bool {
        self.exit == Exit::Code(0)
    }

    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// Why a command gave no usable output. `command` and `output` hold no secrets.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("cannot start `{command}`: {reason}")]
    Start {
        command: String,
        reason: String,
        source: io::Error,
    },
    #[error("`{command}` failed with {exit}{}", Quoted(output))]
    Failed {
        command: String,
        exit: Exit,
        /// The last lines of stderr, or of stdout if stderr is empty.
        output: String,
    },
    #[error(
        "`{command}` did not end within {deadline:?} and was killed{}",
        Quoted(output)
    )]
    TimedOut {
        command: String,
        deadline: Duration,
        output: String,
    },
    #[error("`{command}` printed more than {cap} bytes and was killed")]
    TooMuchOutput { command: String, cap: usize },
    #[error("cannot tell how `{command}` ended: {source}")]
    Io { command: String, source: io::Error },
}

/// `: TEXT`, or nothing.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" => Ok(()),
            text => write!(f, ": {text}"),
        }
    }
}

impl From<CommandError> for HostError {
    fn from(error: CommandError) -> Self {
        let category = match &error {
            CommandError::Start { .. } | CommandError::Io { .. } => Category::Host,
            CommandError::Failed { .. } | CommandError::TooMuchOutput { .. } => Category::Script,
            CommandError::TimedOut { .. } => Category::Timeout,
        };
        Self::new(category, error.to_string()).with_source(error)
    }
}

/// The last non-empty lines of `text`, joined with ` | `, at most [`EXCERPT_BYTES`] long.
pub(crate) fn last_lines(text: &str) -> String {
    let mut lines: Vec<&str> = Vec::new();
    let mut room = EXCERPT_BYTES;
    for line in text
        .lines()
        .rev()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .take(EXCERPT_LINES)
    {
        let mut cut = line.len().min(room);
        while !line.is_char_boundary(cut) {
            cut -= 1;
        }
        lines.push(&line[..cut]);
        room -= cut;
        if room == 0 {
            break;
        }
    }
    lines.reverse();
    lines.join(" | ")
}
