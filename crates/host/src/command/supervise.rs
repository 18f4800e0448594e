//! A child's life: started, listened to, and ended in time.

use std::io;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::process::Child;

use super::capture::Capture;
use super::group::Group;
use super::{Argument, Command, CommandError, Exit, Leftovers, Output, Place, unit};

/// Where programs are looked for: that of a root login, whatever the agent itself was started with
/// (dpkg refuses to work without the sbin folders).
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long output is awaited from processes that outlive the child. What the child itself wrote is
/// already in the pipe.
const AFTER_EXIT: Duration = Duration::from_millis(100);
/// How long a SIGKILLed child may take to disappear; longer is the kernel's trouble (state D).
pub(super) const AFTER_KILL: Duration = Duration::from_secs(5);

impl Command {
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
        let elsewhere = match &self.place {
            // A unit has no stdin to write to.
            Place::Unit(_) if self.stdin.is_some() => None,
            Place::Unit(units) => unit::run(self, units, started).await?,
            Place::Runner(runner) => runner.run(self).await?,
            Place::Agent => None,
        };
        let ended = match elsewhere {
            Some(ended) => ended,
            None => self.child().await,
        };
        self.conclude(ended, started)
    }

    /// Its whole life as a child of this very process.
    pub(super) async fn child(&self) -> Ended {
        let mut child = match self.spawn() {
            Ok(child) => child,
            Err(error) => return Ended::without_output(End::NotStarted(error)),
        };
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
                        Ok(()) => child.wait().await.map_err(End::Lost),
                        Err(end) => Err(end),
                    },
                    exit = child.wait() => {
                        // Whoever still holds the pipes is not the child: no reason to wait for it.
                        let _ = tokio::time::timeout(AFTER_EXIT, &mut streams).await;
                        exit.map_err(End::Lost)
                    }
                }
            };
            match tokio::time::timeout(self.deadline, whole).await {
                Ok(Ok(status)) => End::Exited(exit_of(status)),
                Ok(Err(end)) => end,
                Err(_) => End::Deadline,
            }
        };
        match (&end, self.leftovers) {
            (End::Exited(_), Leftovers::Leave) => group.release(),
            (End::Exited(_), Leftovers::Kill) => group.kill(),
            _ => {
                let dying = group.kill_and_tell();
                // Reaped here as a rule; else by the runtime, later.
                let dead = async { tokio::join!(child.wait(), dying.end()) };
                let _ = tokio::time::timeout(AFTER_KILL, dead).await;
            }
        }
        Ended {
            end,
            stdout: stdout.into_bytes(),
            stderr: stderr.into_bytes(),
        }
    }

    fn conclude(&self, ended: Ended, started: Instant) -> Result<Output, CommandError> {
        let Ended { end, stdout, stderr } = ended;
        let command = self.to_string();
        Err(match end {
            End::Exited(exit) => {
                return Ok(Output {
                    exit,
                    stdout,
                    stderr,
                    elapsed: started.elapsed(),
                });
            }
            End::NotStarted(source) => CommandError::Start {
                command,
                reason: match source.kind() {
                    io::ErrorKind::NotFound => "no such program (or no interpreter for it)".into(),
                    io::ErrorKind::PermissionDenied => "it is not executable for the agent".into(),
                    io::ErrorKind::ArgumentListTooLong => "its arguments are too long".into(),
                    _ => source.to_string(),
                },
                source,
            },
            End::Overflow => CommandError::TooMuchOutput {
                command,
                cap: self.output_cap,
            },
            End::Lost(source) => CommandError::Io { command, source },
            End::Deadline => CommandError::TimedOut {
                command,
                deadline: self.deadline,
                output: self.excerpt(&stdout, &stderr),
            },
        })
    }

    fn spawn(&self) -> io::Result<Child> {
        let arguments = self.arguments.iter().map(Argument::text);
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
        command.spawn()
    }
}

/// How a child ended.
#[derive(Debug)]
pub(super) enum End {
    Exited(Exit),
    /// It was killed.
    Deadline,
    /// It was killed, too.
    Overflow,
    NotStarted(io::Error),
    /// Nobody can tell.
    Lost(io::Error),
}

/// How a child ended, and what it printed.
#[derive(Debug)]
pub(super) struct Ended {
    pub end: End,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Ended {
    pub fn without_output(end: End) -> Self {
        Self {
            end,
            stdout: Vec::new(),
            stderr: Vec::new(),
        }
    }
}

fn exit_of(status: std::process::ExitStatus) -> Exit {
    use std::os::unix::process::ExitStatusExt;
    match status.code() {
        Some(code) => Exit::Code(code),
        None => Exit::Signal(status.signal().unwrap_or(0)),
    }
}
