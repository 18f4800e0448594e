//! The one spawner of child processes.
//!
//! A child gets its arguments as they are (there is no shell), an environment of its own, `/` as its
//! folder, an empty stdin and a process group. However it behaves, [`Command::run`] returns soon after
//! the deadline and holds at most twice the output cap: a child that hangs, prints without end or forks
//! away while it keeps the pipes open can neither hang the agent nor fill its memory.
//!
//! Dropping the future kills the group. What must not be cut short (a package manager) runs with
//! [`Command::run_to_end`].

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::process::Stdio;
use std::time::{Duration, Instant};

use protocol::Category;
use tokio::io::AsyncWriteExt;
use tokio::process::Child;

use super::HostError;

mod capture;
mod group;

use capture::Capture;
use group::Group;

/// Where programs are looked for: that of a root login, whatever the agent itself was started with
/// (dpkg refuses to work without the sbin folders).
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What a hook may take; package managers get more.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);
const DEFAULT_OUTPUT_CAP: usize = 1024 * 1024;
/// How long output is awaited from processes that outlive the child. What the child itself wrote is
/// already in the pipe.
const AFTER_EXIT: Duration = Duration::from_millis(100);
/// How long a SIGKILLed child may take to disappear; longer is the kernel's trouble (state D).
const AFTER_KILL: Duration = Duration::from_secs(5);
/// What an error message holds of stderr at most.
const EXCERPT_LINES: usize = 5;
const EXCERPT_BYTES: usize = 1500;
/// An argument longer than this is cut short in logs and errors.
const SHOWN_ARGUMENT: usize = 200;
const MASK: &str = "<secret>";

/// What happens when a stream exceeds the output cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// The group is killed and the run fails: the output is wanted whole or not at all.
    Kill,
    /// The child goes on and the newest bytes are kept: the output is a log.
    KeepTail,
}

/// What happens to processes that are still in the child's group when the child itself has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
}

#[derive(Debug, Clone)]
enum Argument {
    Plain(OsString),
    Secret(OsString),
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// What a child left.
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

/// Why a child gave no usable output. `command` and `output` are fit for logs: without secrets.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("cannot start `{command}`: {reason}")]
    Start {
        command: String,
        reason: String,
        source: io::Error,
    },
    #[error("`{command}` failed with {exit}{}", Said(output))]
    Failed {
        command: String,
        exit: Exit,
        /// Its last lines on stderr, or on stdout where stderr is empty.
        output: String,
    },
    #[error("`{command}` did not end within {deadline:?} and was killed{}", Said(output))]
    TimedOut {
        command: String,
        deadline: Duration,
        output: String,
    },
    #[error("`{command}` printed more than {cap} bytes and was killed")]
    TooMuchOutput { command: String, cap: usize },
    #[error("lost track of `{command}`: {source}")]
    Io { command: String, source: io::Error },
}

/// `: TEXT`, or nothing.
struct Said<'a>(&'a str);

impl fmt::Display for Said<'_> {
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
        Self::new(category, error.to_string())
    }
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

    /// Runs it. Any other end than exit code 0 is an error.
    pub async fn run(&self) -> Result<Output, CommandError> {
        let output = self.run_any_exit().await?;
        match output.success() {
            true => Ok(output),
            false => Err(self.failure(&output)),
        }
    }

    /// Runs it; every exit code is fine (for those that carry an answer, as LSB status codes do).
    pub async fn run_any_exit(&self) -> Result<Output, CommandError> {
        let started = Instant::now();
        let result = self.supervise(started).await;
        let elapsed_ms = started.elapsed().as_millis() as u64;
        match &result {
            Ok(output) => tracing::debug!(command = %self, elapsed_ms, exit = %output.exit, "child ended"),
            Err(error) => tracing::debug!(elapsed_ms, %error, "child failed"),
        }
        result
    }

    /// As [`Self::run_any_exit`], but goes on to its end, or its deadline, if the future is dropped.
    pub async fn run_to_end(self) -> Result<Output, CommandError> {
        let command = self.to_string();
        let task = tokio::spawn(async move { self.run_any_exit().await });
        task.await.unwrap_or_else(|join_error| {
            let source = io::Error::other(join_error);
            Err(CommandError::Io { command, source })
        })
    }

    /// The error for an exit that the caller does not accept.
    pub fn failure(&self, output: &Output) -> CommandError {
        CommandError::Failed {
            command: self.to_string(),
            exit: output.exit,
            output: self.excerpt(&output.stdout, &output.stderr),
        }
    }

    async fn supervise(&self, started: Instant) -> Result<Output, CommandError> {
        let mut child = self.spawn()?;
        let mut group = Group::of(&child);
        let mut stdout = Capture::new(self.output_cap, self.overflow);
        let mut stderr = Capture::new(self.output_cap, self.overflow);
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let end = {
            let streams = async {
                let feed = async {
                    if let (Some(mut pipe), Some(bytes)) = (pipes.0, &self.stdin) {
                        // A child that does not want its input is no error; its exit code tells.
                        let _ = pipe.write_all(bytes).await;
                    }
                    Ok(())
                };
                tokio::try_join!(feed, stdout.read(pipes.1), stderr.read(pipes.2)).map(|_| ())
            };
            tokio::pin!(streams);
            let whole = async {
                tokio::select! {
                    read = &mut streams => match read {
                        Ok(()) => child.wait().await.map_err(End::Io),
                        Err(end) => Err(end),
                    },
                    exit = child.wait() => {
                        // Whoever still holds the pipes is not the child: no reason to wait for it.
                        let _ = tokio::time::timeout(AFTER_EXIT, &mut streams).await;
                        exit.map_err(End::Io)
                    }
                }
            };
            match tokio::time::timeout(self.deadline, whole).await {
                Ok(Ok(status)) => End::Exited(exit_of(status)),
                Ok(Err(end)) => end,
                Err(_) => End::Deadline,
            }
        };
        let command = || self.to_string();
        match end {
            End::Exited(exit) => {
                match self.leftovers {
                    Leftovers::Leave => group.release(),
                    Leftovers::Kill => group.kill(),
                }
                let (stdout, stderr) = (stdout.into_bytes(), stderr.into_bytes());
                Ok(Output {
                    exit,
                    stdout,
                    stderr,
                    elapsed: started.elapsed(),
                })
            }
            failed => {
                group.kill();
                // Reaped here as a rule; else by the runtime, later.
                let _ = tokio::time::timeout(AFTER_KILL, child.wait()).await;
                Err(match failed {
                    End::Overflow => CommandError::TooMuchOutput {
                        command: command(),
                        cap: self.output_cap,
                    },
                    End::Io(source) => CommandError::Io {
                        command: command(),
                        source,
                    },
                    End::Deadline | End::Exited(_) => CommandError::TimedOut {
                        command: command(),
                        deadline: self.deadline,
                        output: self.excerpt(&stdout.into_bytes(), &stderr.into_bytes()),
                    },
                })
            }
        }
    }

    fn spawn(&self) -> Result<Child, CommandError> {
        let arguments = self.arguments.iter().map(|argument| match argument {
            Argument::Plain(text) | Argument::Secret(text) => text,
        });
        let mut command = tokio::process::Command::new(&self.program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", PATH)
            .env("LANG", "C.UTF-8")
            .env("HOME", std::env::var_os("HOME").unwrap_or_else(|| "/".into()))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .process_group(0)
            .stdin(if self.stdin.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().map_err(|source| CommandError::Start {
            command: self.to_string(),
            reason: match source.kind() {
                io::ErrorKind::NotFound => "no such program (or no interpreter for it)".into(),
                io::ErrorKind::PermissionDenied => "it is not executable for the agent".into(),
                io::ErrorKind::ArgumentListTooLong => "its arguments are too long".into(),
                _ => source.to_string(),
            },
            source,
        })
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
                    match text.char_indices().nth(SHOWN_ARGUMENT) {
                        Some((cut, _)) => write!(f, " {}...", &text[..cut])?,
                        None => write!(f, " {text}")?,
                    }
                }
            }
        }
        Ok(())
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

/// How supervising a child ended.
enum End {
    Exited(Exit),
    Deadline,
    Overflow,
    Io(io::Error),
}

fn exit_of(status: std::process::ExitStatus) -> Exit {
    use std::os::unix::process::ExitStatusExt;
    match status.code() {
        Some(code) => Exit::Code(code),
        None => Exit::Signal(status.signal().unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests;
