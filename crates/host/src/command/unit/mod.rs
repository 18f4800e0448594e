//! A child in a systemd unit of its own: outside the agent's unit, so that it goes on when the agent is stopped,
//! killed or upgraded in the midst, and none of the agent's own limits and sandboxing holds for it.
//!
//! Such a unit stays loaded after its child has ended (`RemainAfterExit`), until whoever started it has read how. An agent
//! that finds the unit of a starter that is no more waits for its end and puts it away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::Pid;
use tokio::sync::watch;

use super::supervise::{AFTER_KILL, End, Ended, PATH};
use super::{Command, CommandError, Output};
use crate::Root;

mod log;
pub(super) mod manager;

use log::Logs;
use manager::{Manager, ManagerError, State};

/// Followed by the starter's process id, a dash and a random number.
const PREFIX: &str = "hostagent-run-";
/// How often to look whether a log has grown too long; and at the unit, should a signal get lost.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// After a failed call. The bus is started anew when it is upgraded.
const RECONNECT: Duration = Duration::from_millis(500);

/// Where children can have units of their own: a host that was booted with systemd.
#[derive(Debug)]
pub struct OwnUnits {
    /// How many are awaited now.
    under_way: watch::Sender<u32>,
}

impl OwnUnits {
    /// `None`: `root` is a sandbox, or its host has another init system.
    pub fn of(root: &Root) -> Option<Arc<Self>> {
        crate::services::is_systemd(root).then(|| {
            Arc::new(Self {
                under_way: watch::Sender::new(0),
            })
        })
    }

    /// Returns as soon as a child is at work in a unit of its own. Cancel-safe.
    pub async fn at_work(&self) {
        let mut under_way = self.under_way.subscribe();
        if under_way.wait_for(|count| *count > 0).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits for the children of starters that are no more; each is killed when it has had `deadline` from now. How each
    /// has ended, if that can be told. Their units stay, for all who ask.
    pub async fn orphans_end(&self, deadline: Duration) -> Result<Vec<Option<Output>>, CommandError> {
        let mut outputs = Vec::new();
        for name in orphans().await? {
            let started = Instant::now();
            tracing::info!(unit = %name, "waiting for the end of what an earlier agent has started");
            let mut unit = Unit::found(name);
            let end = unit.end(started, deadline).await;
            tracing::info!(unit = %unit.name, ?end, "it has ended");
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

    /// Puts the units away whose starters are no more.
    pub async fn put_away_orphans(&self) -> Result<(), CommandError> {
        for name in orphans().await? {
            if !starter(&name).is_some_and(is_alive) {
                Unit::found(name).put_away().await;
            }
        }
        Ok(())
    }
}

/// Units that other processes have started.
async fn orphans() -> Result<Vec<String>, CommandError> {
    let orphans = async {
        let manager = Manager::connect().await?;
        let mut names = manager.loaded(PREFIX).await?;
        names.retain(|name| starter(name) != Some(std::process::id()));
        Ok::<_, ManagerError>(names)
    };
    orphans
        .await
        .map_err(|error| error.about("units of an earlier agent"))
}

/// Counts as under way as long as it lives.
struct AtWork<'a>(&'a OwnUnits);

impl<'a> AtWork<'a> {
    fn begin(units: &'a OwnUnits) -> Self {
        units.under_way.send_modify(|count| *count += 1);
        Self(units)
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.under_way.send_modify(|count| *count -= 1);
    }
}

/// The process that started a unit.
fn starter(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

/// Also where `/proc` hides processes with more rights than the agent's (`hidepid`).
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
    let name = format!("{PREFIX}{}-{:08x}.service", std::process::id(), fastrand::u32(..));
    let argv = argv(command)?;
    let io = |source| CommandError::Io {
        command: command.to_string(),
        source,
    };
    let logs = Logs::create(&name, command.output_cap).map_err(io)?;
    let _at_work = AtWork::begin(units);
    let unit = manager::NewUnit {
        name: &name,
        description: format!("Backbone host agent: {}", super::shortened(&command.to_string())),
        argv,
        environment: environment(command),
    };
    let start = async {
        Manager::connect()
            .await?
            .start(&unit, command.deadline, &logs)
            .await
    };
    match start.await {
        Ok(()) => {}
        Err(ManagerError::Unsupported(why)) => {
            tracing::warn!(%why, "systemd takes no units of ours; running it beside the agent");
            logs.delete();
            return Ok(None);
        }
        Err(error) => return Err(error.about(&command.to_string())),
    }
    tracing::debug!(%command, unit = %name, "started in a unit of its own");
    let mut unit = Unit { name, logs };
    let end = unit.end(started, command.deadline).await;
    let (stdout, stderr) = unit.logs.read();
    unit.put_away().await;
    Ok(Some(Ended { end, stdout, stderr }))
}

/// A unit that was started.
struct Unit {
    name: String,
    logs: Logs,
}

impl Unit {
    /// Started by another process.
    fn found(name: String) -> Self {
        let logs = Logs::of(&name);
        Self { name, logs }
    }

    /// Waits for the end of the child. Whatever happens to the bus meanwhile, it is asked again.
    async fn end(&mut self, started: Instant, deadline: Duration) -> End {
        let mut killed = false;
        let mut last_error = String::new();
        loop {
            let elapsed = started.elapsed();
            if elapsed > deadline + 2 * AFTER_KILL {
                return lost(format!("its unit {} does not end: {last_error}", self.name));
            }
            match self.follow(deadline.saturating_sub(elapsed), &mut killed).await {
                Ok(State::Running) => tokio::time::sleep(RECONNECT).await,
                Ok(State::Ended(_)) if killed => return End::Deadline,
                Ok(State::Ended(exit)) => return End::Exited(exit),
                Ok(State::Gone) => {
                    return lost(format!("its unit {} was stopped by someone", self.name));
                }
                Err(error) => {
                    last_error = error.to_string();
                    tracing::debug!(unit = %self.name, error = %last_error, "asking systemd again");
                    tokio::time::sleep(RECONNECT).await;
                }
            }
        }
    }

    /// Over one connection. Returns [`State::Running`] a while after it was told to kill.
    async fn follow(&mut self, mut left: Duration, killed: &mut bool) -> Result<State, ManagerError> {
        let manager = Manager::connect().await?;
        let mut changes = manager.changes(&self.name).await?;
        loop {
            match manager.state(&self.name).await? {
                State::Running => {}
                ended => return Ok(ended),
            }
            if left.is_zero() && *killed {
                return Ok(State::Running);
            }
            if left.is_zero() {
                manager.kill(&self.name).await?;
                *killed = true;
                left = AFTER_KILL;
            }
            let began = Instant::now();
            // A change that is missed here only costs a second.
            let _ = tokio::time::timeout(left.min(LOOK_AGAIN), manager::next(&mut changes)).await;
            left = left.saturating_sub(began.elapsed());
            self.logs.cut();
        }
    }

    /// Ends what is left of it, and lets systemd forget it.
    async fn put_away(self) {
        let put_away = async { Manager::connect().await?.put_away(&self.name).await };
        if let Err(error) = put_away.await {
            tracing::debug!(unit = %self.name, %error, "its unit stays loaded");
        }
        self.logs.delete();
    }
}

fn lost(why: String) -> End {
    End::Lost(std::io::Error::other(why))
}

/// systemd wants the program's whole path, text, and `$` twice.
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
