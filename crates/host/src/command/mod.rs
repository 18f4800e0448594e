//! The one spawner of child processes.
//!
//! A child gets its arguments as they are (there is no shell), an environment of its own, `/` as its
//! folder, an empty stdin and a process group. However it behaves, [`Command::run`] returns soon after
//! the deadline and holds at most twice the output cap: a child that hangs, prints without end or forks
//! away while it keeps the pipes open can neither hang the agent nor fill its memory.
//!
//! Dropping the future kills the group. What must not be cut short (a package manager) runs with
//! [`Command::run_to_end`].
//!
//! On a host with systemd the agent's own unit is tight, and what it runs must not be: a package manager is a unit of its
//! own ([`Command::in_unit`]), where it goes on without the agent; all else that comes from packages is started by a
//! [`Runner`] ([`Command::by_runner`]).

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

mod capture;
mod group;
mod outcome;
mod runner;
mod supervise;
mod unit;

pub use outcome::{CommandError, Exit, Output};
pub(crate) use outcome::{EXCERPT_LINES, last_lines};
pub use runner::{COMMAND as RUN_HOOKS, Runner, serve as serve_hooks};
pub use unit::OwnUnits;

/// What a hook may take; package managers get more.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);
const DEFAULT_OUTPUT_CAP: usize = 1024 * 1024;
/// An argument longer than this is cut short in logs and errors.
const SHOWN_ARGUMENT: usize = 200;
const MASK: &str = "<secret>";

/// What happens when a stream exceeds the output cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Overflow {
    /// The group is killed and the run fails: the output is wanted whole or not at all.
    Kill,
    /// The child goes on and the newest bytes are kept: the output is a log.
    KeepTail,
}

/// What happens to processes that are still in the child's group when the child itself has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Leftovers {
    /// They live on, with a broken pipe for stdout: a service that a script has started.
    Leave,
    /// They are killed: a child that has no business leaving anything behind.
    Kill,
}

/// A child process to be.
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

/// Whose child it is.
#[derive(Debug, Clone)]
enum Place {
    Agent,
    /// systemd's, in a unit of its own.
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

    /// An argument that appears in no log and no error (though anyone may read it in `/proc` while the
    /// child runs).
    pub fn secret_arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        let argument = argument.as_ref();
        self.arguments.push(Argument::Secret(argument.into()));
        self.redact(argument.to_string_lossy())
    }

    /// `text` is masked wherever the command or its output is quoted in a log or an error.
    pub fn redact(mut self, text: impl Into<String>) -> Self {
        let text = text.into();
        if !text.is_empty() {
            self.secrets.push(text);
        }
        self
    }

    /// What the child prints may hold secrets that nobody can name: no log and no error quotes it.
    pub fn secret_output(mut self) -> Self {
        self.secret_output = true;
        self
    }

    /// The child's environment is PATH, LANG and HOME, and what is added here.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment
            .push((name.as_ref().into(), value.as_ref().into()));
        self
    }

    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// From the start to the end of the child; then its group is killed. 30 s unless set.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// For stdout and for stderr, each. 1 MiB and [`Overflow::Kill`] unless set.
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

    /// Where there are units, it runs in one of its own, with an empty stdin and [`Overflow::KeepTail`]. All that it leaves
    /// behind is killed at its end. Dropping the future leaves it to itself.
    pub fn in_unit(mut self, units: Option<&Arc<OwnUnits>>) -> Self {
        if let Some(units) = units {
            self.place = Place::Unit(units.clone());
        }
        self
    }

    /// Where there is a runner, it starts the child, and all else is as if the agent did.
    pub fn by_runner(mut self, runner: Option<&Arc<Runner>>) -> Self {
        if let Some(runner) = runner {
            self.place = Place::Runner(runner.clone());
        }
        self
    }

    /// The last lines of stderr (of stdout, if stderr says nothing), with secrets masked.
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
            said => said,
        }
    }

    fn mask(&self, mut text: String) -> String {
        for secret in &self.secrets {
            text = text.replace(secret.as_str(), MASK);
        }
        text
    }
}

/// The command line as it may be shown: secrets masked, long arguments cut.
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
