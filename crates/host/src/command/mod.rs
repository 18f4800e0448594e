//! The one spawner of child processes.
//!
//! A child gets its arguments unchanged (there is no shell), an environment of its own, `/` as its
//! folder, an empty stdin and a process group. [`Command::run`] always returns soon after the
//! deadline and holds at most twice the output cap: a child that hangs, prints without end or
//! leaves processes that keep the pipes open can neither block the agent nor fill its memory.
//!
//! Dropping the future kills the process group. A command that must not be interrupted (a package
//! manager) runs with [`Command::run_to_end`].
//!
//! On a host with systemd the agent's own unit is sandboxed, and its commands must not be: a
//! package manager runs in a unit of its own ([`Command::in_unit`]) and continues without the
//! agent; hooks and health checks are started by a [`Runner`] ([`Command::by_runner`]).

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

mod outcome;
mod run;
mod child;
mod unit;
mod runner;

mod capture;
mod ended;
mod group;

pub use outcome::{CommandError, Exit, Output};
pub(crate) use outcome::{EXCERPT_LINES, last_lines};
pub use runner::{COMMAND as RUN_HOOKS, Runner, serve as serve_hooks};
pub use unit::OwnUnits;

const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);
const DEFAULT_OUTPUT_CAP: usize = 1024 * 1024;
/// Longer arguments are shortened in logs and errors.
const SHOWN_ARGUMENT: usize = 200;
const MASK: &str = "<secret>";

/// When a stream exceeds the output cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Overflow {
    /// Kills the group and fails: incomplete output has no use.
    Kill,
    /// The child continues and the newest bytes are kept: the output is a log.
    KeepTail,
}

/// Processes that are still in the child's group when the child itself has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Leftovers {
    /// They continue, with a broken pipe for stdout: a service that a script has started.
    Leave,
    /// They are killed.
    Kill,
}

/// A child process to start.
#[derive(Debug, Clone)]
pub struct Command {
    program: OsString,
    arguments: Vec<Argument>,
    environment: Vec<(OsString, OsString)>,
    stdin: Option<Vec<u8>>,
    deadline: Duration,
    output_cap: usize,
    overflow: Overflow,
    leftovers: Leftovers,
    secrets: Vec<String>,
    secret_output: bool,
    place: Place,
}

#[derive(Debug, Clone)]
enum Argument {
    Plain(OsString),
    Secret(OsString),
}

impl Argument {
    fn text(&self) -> &OsString {
        let (Self::Plain(text) | Self::Secret(text)) = self;
        text
    }
}

/// Which process starts it.
#[derive(Debug, Clone)]
enum Place {
    Agent,
    /// systemd, in a unit of its own.
    Unit(Arc<OwnUnits>),
    Runner(Arc<Runner>),
}

impl Command {
    /// `program`: an absolute path, or a name that is looked up in the system folders.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            stdin: None,
            deadline: DEFAULT_DEADLINE,
            output_cap: DEFAULT_OUTPUT_CAP,
            overflow: Overflow::Kill,
            leftovers: Leftovers::Leave,
            secrets: Vec::new(),
            secret_output: false,
            place: Place::Agent,
        }
    }

    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(Argument::Plain(argument.as_ref().into()));
        self
    }

    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        let plain = |argument: A| Argument::Plain(argument.as_ref().into());
        self.arguments.extend(arguments.into_iter().map(plain));
        self
    }

    /// An argument that appears in no log and no error. (Every user can read it in `/proc` while
    /// the child runs.)
    pub fn secret_arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        let argument = argument.as_ref();
        self.arguments.push(Argument::Secret(argument.into()));
        self.redact(argument.to_string_lossy())
    }

    /// Masks `text` in the command line and the output, in logs and errors.
    pub fn redact(mut self, text: impl Into<String>) -> Self {
        let text = text.into();
        if !text.is_empty() {
            self.secrets.push(text);
        }
        self
    }

    /// The output may hold unknown secrets: no log and no error quotes it.
    pub fn secret_output(mut self) -> Self {
        self.secret_output = true;
        self
    }

    /// The child's environment is PATH, LANG, HOME and the variables added here.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment
            .push((name.as_ref().into(), value.as_ref().into()));
        self
    }

    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// From the start of the child; after it the group is killed. 30 s unless set.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// For each of stdout and stderr. 1 MiB and [`Overflow::Kill`] unless set.
    pub fn output_cap(mut self, bytes: usize, overflow: Overflow) -> Self {
        self.output_cap = bytes;
        self.overflow = overflow;
        self
    }

    /// [`Leftovers::Leave`] unless set.
    pub fn leftovers(mut self, leftovers: Leftovers) -> Self {
        self.leftovers = leftovers;
        self
    }

    /// If there are units, it runs in one of its own, with an empty stdin and
    /// [`Overflow::KeepTail`]. All its processes are killed at its end. It continues if the future
    /// is dropped.
    pub fn in_unit(mut self, units: Option<&Arc<OwnUnits>>) -> Self {
        if let Some(units) = units {
            self.place = Place::Unit(units.clone());
        }
        self
    }

    /// If there is a runner, the runner starts the child; nothing else changes.
    pub fn by_runner(mut self, runner: Option<&Arc<Runner>>) -> Self {
        if let Some(runner) = runner {
            self.place = Place::Runner(runner.clone());
        }
        self
    }

    /// The last lines of stderr (of stdout, if stderr is empty), with secrets masked.
    fn excerpt(&self, stdout: &[u8], stderr: &[u8]) -> String {
        if self.secret_output {
            return String::new();
        }
        let text = |bytes: &[u8]| {
            let tail = &bytes[bytes.len().saturating_sub(self.output_cap)..];
            last_lines(&self.mask(String::from_utf8_lossy(tail).into_owned()))
        };
        match text(stderr) {
            empty if empty.is_empty() => text(stdout),
            lines => lines,
        }
    }

    fn mask(&self, mut text: String) -> String {
        for secret in &self.secrets {
            text = text.replace(secret.as_str(), MASK);
        }
        text
    }
}

/// The command line for logs and errors: secrets masked, long arguments shortened.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.program.to_string_lossy())?;
        for argument in &self.arguments {
            match argument {
                Argument::Secret(_) => write!(f, " {MASK}")?,
                Argument::Plain(text) => {
                    let text = self.mask(text.to_string_lossy().into_owned());
                    write!(f, " {}", shortened(&text))?;
                }
            }
        }
        Ok(())
    }
}

/// At most [`SHOWN_ARGUMENT`] characters of `text`.
fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(SHOWN_ARGUMENT) {
        Some((cut, _)) => format!("{}...", &text[..cut]).into(),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests;
