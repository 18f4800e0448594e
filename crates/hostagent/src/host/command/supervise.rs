//! A child's life: started, listened to, and ended in time.

use std::io;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::process::Child;

use super::capture::Capture;
use super::group::Group;
use super::{Argument, Command, CommandError, Exit, Leftovers, Output, unit};

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

    /// Starts it as the systemd unit `name`, and returns when systemd has taken it. What it prints goes to the
    /// journal. A unit of that name that is at work already is left to itself.
    pub async fn start_apart(&self, name: &str) -> Result<(), CommandError> {
        unit::start_apart(self, name).await
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
        // A unit has no stdin to write to.
        if let (Some(units), None) = (&self.units, &self.stdin)
            && let Some(output) = unit::run(self, units, started).await?
        {
            return Ok(output);
        }
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
                let dying = group.kill_and_tell();
                // Reaped here as a rule; else by the runtime, later.
                let dead = async { tokio::join!(child.wait(), dying.end()) };
                let _ = tokio::time::timeout(AFTER_KILL, dead).await;
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
}

/// How supervising a child ended.
pub(super) enum End {
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
