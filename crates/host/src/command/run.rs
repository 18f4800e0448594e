//! Runs a command where it belongs, and judges its end.

use std::io;
use std::time::Instant;

use super::ended::{End, Ended};
use super::{Command, CommandError, Output, Place, unit};

impl Command {
    /// Runs it. Every exit code except 0 is an error.
    pub async fn run(&self) -> Result<Output, CommandError> {
        let output = self.run_any_exit().await?;
        match output.success() {
            true => Ok(output),
            false => Err(self.failure(&output)),
        }
    }

    /// Runs it; no exit code is an error (LSB status codes, for example, are an answer).
    pub async fn run_any_exit(&self) -> Result<Output, CommandError> {
        let started = Instant::now();
        let result = match self.run_in_place(started).await {
            Ok(ended) => self.judge(ended, started),
            Err(error) => Err(error),
        };
        let elapsed_ms = started.elapsed().as_millis() as u64;
        match &result {
            Ok(output) => tracing::debug!(command = %self, elapsed_ms, exit = %output.exit, "command ended"),
            Err(error) => tracing::debug!(elapsed_ms, %error, "command failed"),
        }
        result
    }

    /// As [`Self::run_any_exit`], but runs to its end or its deadline even if the future is
    /// dropped.
    pub async fn run_to_end(self) -> Result<Output, CommandError> {
        let command = self.to_string();
        let task = tokio::spawn(async move { self.run_any_exit().await });
        task.await.unwrap_or_else(|join_error| {
            let source = io::Error::other(join_error);
            Err(CommandError::Io { command, source })
        })
    }

    /// The error for an exit code that the caller does not accept.
    pub fn failure(&self, output: &Output) -> CommandError {
        CommandError::Failed {
            command: self.to_string(),
            exit: output.exit,
            output: self.excerpt(&output.stdout, &output.stderr),
        }
    }

    async fn run_in_place(&self, started: Instant) -> Result<Ended, CommandError> {
        let elsewhere = match &self.place {
            // A unit has no stdin to write to.
            Place::Unit(_) if self.stdin.is_some() => None,
            Place::Unit(units) => unit::run(self, units, started).await?,
            Place::Runner(runner) => runner.run(self).await?,
            Place::Agent => None,
        };
        match elsewhere {
            Some(ended) => Ok(ended),
            None => Ok(self.run_as_child().await),
        }
    }

    fn judge(&self, ended: Ended, started: Instant) -> Result<Output, CommandError> {
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
                    io::ErrorKind::NotFound => "no such program, or its interpreter is missing".into(),
                    io::ErrorKind::PermissionDenied => "the agent may not execute it".into(),
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
}
