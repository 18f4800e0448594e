//! A child in a systemd unit of its own, outside the agent's unit: it continues when the agent is
//! stopped, killed or upgraded, and the agent's limits and sandbox do not apply to it.
//!
//! The unit stays loaded after its child has ended (`RemainAfterExit`), until its starter has read
//! the result. An agent that finds a unit whose starter is gone (an orphan) waits for its end and
//! unloads it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::Pid;
use tokio::sync::watch;

use super::child::{AFTER_KILL, PATH};
use super::ended::{End, Ended};
use super::{Command, CommandError, Output};
use crate::Root;
use crate::systemd::{SystemdError, is_systemd};

mod log;
pub(super) mod transient;

use log::Logs;
use transient::{NewUnit, TransientUnits, UnitState, command_error};

/// Followed by the starter's process id, a dash and a random number.
const PREFIX: &str = "hostagent-run-";
/// How often to check the size of the logs; and the unit, in case a signal was lost.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after a failed call: an upgrade restarts the bus.
const RECONNECT: Duration = Duration::from_millis(500);

/// The units of commands, on a host that was booted with systemd.
#[derive(Debug)]
pub struct OwnUnits {
    /// How many this process waits for.
    running: watch::Sender<u32>,
}

impl OwnUnits {
    /// `None`: `root` is a sandbox, or its host has another init system.
    pub fn of(root: &Root) -> Option<Arc<Self>> {
        is_systemd(root).then(|| {
            Arc::new(Self {
                running: watch::Sender::new(0),
            })
        })
    }

    /// Returns as soon as a child runs in a unit of its own. Cancel-safe.
    pub async fn wait_until_running(&self) {
        let mut running = self.running.subscribe();
        if running.wait_for(|count| *count > 0).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits for the ends of orphans; kills each that still runs `deadline` from now. Returns how
    /// each has ended, if known. The units stay loaded, so that every caller sees them.
    pub async fn wait_for_orphans(&self, deadline: Duration) -> Result<Vec<Option<Output>>, CommandError> {
        let mut outputs = Vec::new();
        for name in orphans().await? {
            let started = Instant::now();
            tracing::info!(unit = %name, "waiting for the end of a command of an earlier agent");
            let mut unit = RunningUnit::found(name);
            let end = unit.wait_for_end(started, deadline).await;
            tracing::info!(unit = %unit.name, ?end, "the command of an earlier agent has ended");
            let (stdout, stderr) = unit.logs.read();
            outputs.push(match end {
                End::Exited(exit) => Some(Output {
                    exit,
                    stdout,
                    stderr,
                    elapsed: started.elapsed(),
                }),
                _ => None,
            });
        }
        Ok(outputs)
    }

    /// Unloads the units of processes that are gone.
    pub async fn remove_orphans(&self) -> Result<(), CommandError> {
        for name in orphans().await? {
            if !starter(&name).is_some_and(is_alive) {
                RunningUnit::found(name).remove().await;
            }
        }
        Ok(())
    }
}

/// Units that other processes have started.
async fn orphans() -> Result<Vec<String>, CommandError> {
    let orphans = async {
        let mut names = TransientUnits::connect().await?.loaded(PREFIX).await?;
        names.retain(|name| starter(name) != Some(std::process::id()));
        Ok::<_, SystemdError>(names)
    };
    orphans
        .await
        .map_err(|error| command_error("units of an earlier agent", error))
}

/// Counts as running until it is dropped.
struct CountedRun<'a>(&'a OwnUnits);

impl<'a> CountedRun<'a> {
    fn begin(units: &'a OwnUnits) -> Self {
        units.running.send_modify(|count| *count += 1);
        Self(units)
    }
}

impl Drop for CountedRun<'_> {
    fn drop(&mut self) {
        self.0.running.send_modify(|count| *count -= 1);
    }
}

/// The process that started a unit.
fn starter(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

/// Works also where `/proc` hides processes with more rights than the agent's (`hidepid`).
fn is_alive(process: u32) -> bool {
    let process = i32::try_from(process).ok().and_then(Pid::from_raw);
    process.is_some_and(|process| rustix::process::test_kill_process(process) != Err(Errno::SRCH))
}

/// Runs `command` in a unit; `None`: this systemd is too old for it.
pub(super) async fn run(
    command: &Command,
    units: &OwnUnits,
    started: Instant,
) -> Result<Option<Ended>, CommandError> {
    let _counted = CountedRun::begin(units);
    let Some(mut unit) = start(command).await? else {
        return Ok(None);
    };
    tracing::debug!(%command, unit = %unit.name, "started in a unit of its own");
    let end = unit.wait_for_end(started, command.deadline).await;
    let (stdout, stderr) = unit.logs.read();
    unit.remove().await;
    Ok(Some(Ended { end, stdout, stderr }))
}

/// `None`: this systemd is too old for it.
async fn start(command: &Command) -> Result<Option<RunningUnit>, CommandError> {
    let name = format!("{PREFIX}{}-{:08x}.service", std::process::id(), fastrand::u32(..));
    let argv = argv(command)?;
    let logs = Logs::create(&name, command.output_cap).map_err(|source| CommandError::Io {
        command: command.to_string(),
        source,
    })?;
    let unit = NewUnit {
        name: &name,
        description: format!("Backbone host agent: {}", super::shortened(&command.to_string())),
        argv,
        environment: environment(command),
    };
    let start = async {
        TransientUnits::connect()
            .await?
            .start(&unit, command.deadline, &logs)
            .await
    };
    match start.await {
        Ok(()) => Ok(Some(RunningUnit { name, logs })),
        Err(error) if error.is_unsupported() => {
            tracing::warn!(
                "this systemd cannot run the command in a unit of its own; running it as a child of the agent: {error}"
            );
            logs.delete();
            Ok(None)
        }
        Err(error) => Err(command_error(&command.to_string(), error)),
    }
}

/// A unit that was started.
struct RunningUnit {
    name: String,
    logs: Logs,
}

impl RunningUnit {
    /// Started by another process.
    fn found(name: String) -> Self {
        let logs = Logs::of(&name);
        Self { name, logs }
    }

    /// Waits for the end of the child. If the bus fails meanwhile, it connects again.
    async fn wait_for_end(&mut self, started: Instant, deadline: Duration) -> End {
        let mut killed = false;
        let mut last_error = String::new();
        loop {
            let elapsed = started.elapsed();
            if elapsed > deadline + 2 * AFTER_KILL {
                return lost(format!("its unit {} does not end: {last_error}", self.name));
            }
            match self.follow(deadline.saturating_sub(elapsed), &mut killed).await {
                Ok(UnitState::Running) => tokio::time::sleep(RECONNECT).await,
                Ok(UnitState::Ended(_)) if killed => return End::Deadline,
                Ok(UnitState::Ended(exit)) => return End::Exited(exit),
                Ok(UnitState::Gone) => {
                    return lost(format!("its unit {} was stopped externally", self.name));
                }
                Err(error) => {
                    last_error = error.to_string();
                    tracing::debug!(unit = %self.name, error = %last_error, "connecting to systemd again");
                    tokio::time::sleep(RECONNECT).await;
                }
            }
        }
    }

    /// Waits over one connection. Returns [`UnitState::Running`] if a kill has had no effect.
    async fn follow(&mut self, mut left: Duration, killed: &mut bool) -> Result<UnitState, SystemdError> {
        let units = TransientUnits::connect().await?;
        let mut changes = units.changes(&self.name).await?;
        loop {
            match units.state(&self.name).await? {
                UnitState::Running => {}
                ended => return Ok(ended),
            }
            if left.is_zero() && *killed {
                return Ok(UnitState::Running);
            }
            if left.is_zero() {
                units.kill(&self.name).await?;
                *killed = true;
                left = AFTER_KILL;
            }
            let began = Instant::now();
            // A missed change delays the result by a second at most.
            let change = transient::next_change(&mut changes);
            let _ = tokio::time::timeout(left.min(POLL_INTERVAL), change).await;
            left = left.saturating_sub(began.elapsed());
            self.logs.cut();
        }
    }

    /// Kills its remaining processes and unloads it.
    async fn remove(self) {
        let remove = async { TransientUnits::connect().await?.remove(&self.name).await };
        if let Err(error) = remove.await {
            tracing::debug!(unit = %self.name, %error, "cannot unload the unit of a command");
        }
        self.logs.delete();
    }
}

fn lost(why: String) -> End {
    End::Lost(std::io::Error::other(why))
}

/// systemd needs the program's whole path, UTF-8, and every `$` doubled.
fn argv(command: &Command) -> Result<Vec<String>, CommandError> {
    let start_error = |reason: &str| CommandError::Start {
        command: command.to_string(),
        reason: reason.into(),
        source: std::io::ErrorKind::NotFound.into(),
    };
    let program = command
        .program
        .to_str()
        .map(|program| match program.contains('/') {
            true => Some(program.to_owned()),
            false => PATH
                .split(':')
                .map(|folder| format!("{folder}/{program}"))
                .find(|path| std::path::Path::new(path).is_file()),
        });
    let program = program.flatten().ok_or_else(|| start_error("no such program"))?;
    let arguments = command.arguments.iter().map(|argument| {
        let text = argument
            .text()
            .to_str()
            .ok_or_else(|| start_error("an argument is not UTF-8"))?;
        Ok(text.replace('$', "$$"))
    });
    std::iter::once(Ok(program)).chain(arguments).collect()
}

fn environment(command: &Command) -> Vec<String> {
    let mut environment = vec!["LANG=C.UTF-8".into(), "HOME=/root".into()];
    if !command.environment.iter().any(|(name, _)| name == "PATH") {
        environment.push(format!("PATH={PATH}"));
    }
    for (name, value) in &command.environment {
        environment.push(format!("{}={}", name.to_string_lossy(), value.to_string_lossy()));
    }
    environment
}
