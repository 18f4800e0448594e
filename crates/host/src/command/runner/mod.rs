//! Children outside the agent's sandbox. Hooks and health checks may need anything that their
//! application needs; if they ran in the agent's unit, it could not be sandboxed at all.
//!
//! A runner is a process of the agent's own program, in a transient unit of its own. The agent
//! passes it a socket for each child and sends the child's command there. That way no argument,
//! which may be a secret, is a property of a unit, where every user could read it. The runner runs
//! a child as the agent itself would ([`super::child`]). It is started with the first child, and
//! ends after a while without children, and with the agent.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::Instant;

mod serve;
mod start;
#[cfg(test)]
mod tests;
mod wire;

pub use serve::serve;
pub use start::COMMAND;
use start::Start;

use super::child::AFTER_KILL;
use super::ended::Ended;
use super::{Command, CommandError};
use crate::Root;
use crate::systemd::{SystemdError, is_systemd};

/// A runner without a child ends after this time.
const IDLE: Duration = Duration::from_secs(60);
/// For a runner to take a child.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);
/// Sent by a runner as soon as it has read the command.
const TAKEN: u8 = b'!';

/// The agent's side.
#[derive(Debug)]
pub struct Runner {
    start: Start,
    running: Mutex<Option<RunningRunner>>,
}

/// A runner that was started.
#[derive(Debug)]
struct RunningRunner {
    unit: String,
    /// The runner ends when this is closed. Each child holds a clone.
    control: Arc<OwnedFd>,
    used: Instant,
}

/// A child that a runner has taken.
struct TakenChild {
    unit: String,
    socket: UnixStream,
    _control: Arc<OwnedFd>,
}

/// Why no runner took a child.
#[derive(Debug, thiserror::Error)]
enum NotTaken {
    #[error("the hook runner {0} ended at once; see `journalctl -u {0}`")]
    Gone(String),
    #[error("no hook runner took it within {TAKEN_WITHIN:?}; see `systemctl list-units 'hostagent-hooks-*'`")]
    Late,
    #[error(transparent)]
    Systemd(SystemdError),
    #[error("cannot make a socket for the hook runner: {0}")]
    Io(io::Error),
}

impl Runner {
    /// `None`: `root` is a sandbox, its host has another init system, or this user may not start
    /// units.
    pub fn of(root: &Root) -> Option<Arc<Self>> {
        let may = rustix::process::geteuid().is_root();
        (may && is_systemd(root)).then(|| Self::new(Start::Unit))
    }

    fn new(start: Start) -> Arc<Self> {
        Arc::new(Self {
            start,
            running: Mutex::new(None),
        })
    }

    /// `None`: this systemd is too old for it.
    pub(super) async fn run(self: &Arc<Self>, command: &Command) -> Result<Option<Ended>, CommandError> {
        let lost = |why: String| CommandError::Io {
            command: command.to_string(),
            source: io::Error::other(why),
        };
        let mut taken = match self.taken_in_time(command).await {
            Ok(taken) => taken,
            Err(NotTaken::Systemd(error)) if error.is_unsupported() => {
                tracing::warn!(
                    "this systemd cannot run a hook runner; hooks and health checks run in the agent's sandbox: {error}"
                );
                return Ok(None);
            }
            Err(error) => return Err(lost(error.to_string())),
        };
        let unit = taken.unit;
        let longest = command.deadline.saturating_add(2 * AFTER_KILL);
        let why = match tokio::time::timeout(longest, wire::receive_answer(&mut taken.socket)).await {
            Ok(Ok(ended)) => return Ok(Some(ended)),
            Ok(Err(error)) if error.kind() != io::ErrorKind::InvalidData => {
                // If the runner was killed, its children may still run.
                self.start.kill(&unit).await;
                format!("the hook runner {unit} has ended ({error})")
            }
            Ok(Err(error)) => format!("the hook runner {unit} sent an invalid answer: {error}"),
            Err(_) => format!("the hook runner {unit} does not answer"),
        };
        self.forget(&unit).await;
        Err(lost(why))
    }

    /// Sends `command` to a runner. One that has ended is replaced, once.
    async fn taken_in_time(self: &Arc<Self>, command: &Command) -> Result<TakenChild, NotTaken> {
        let taken = async {
            match self.taken(command).await {
                Err(NotTaken::Gone(unit)) => {
                    tracing::info!(%unit, "the hook runner has ended; starting another");
                    self.taken(command).await
                }
                taken => taken,
            }
        };
        tokio::time::timeout(TAKEN_WITHIN, taken)
            .await
            .unwrap_or_else(|_| {
                // Unless another task uses it now.
                if let Ok(mut running) = self.running.try_lock() {
                    *running = None;
                }
                Err(NotTaken::Late)
            })
    }

    /// Sends `command` to the runner, which is started if there is none.
    async fn taken(self: &Arc<Self>, command: &Command) -> Result<TakenChild, NotTaken> {
        let mut taken = self.socket().await?;
        let answer = async {
            wire::send_request(&mut taken.socket, command).await?;
            taken.socket.read_u8().await
        };
        match answer.await {
            Ok(_) => Ok(taken),
            Err(_) => {
                self.forget(&taken.unit).await;
                Err(NotTaken::Gone(taken.unit))
            }
        }
    }

    /// The next child gets another runner. This one ends with its last child.
    async fn forget(&self, unit: &str) {
        let mut running = self.running.lock().await;
        if running.as_ref().is_some_and(|known| known.unit == unit) {
            *running = None;
        }
    }

    /// A socket whose other end was sent to the runner.
    async fn socket(self: &Arc<Self>) -> Result<TakenChild, NotTaken> {
        let mut running = self.running.lock().await;
        let known = match running.take() {
            Some(known) => known,
            None => self.started().await.map_err(NotTaken::Systemd)?,
        };
        let known = running.insert(known);
        let (ours, theirs) = StdStream::pair().map_err(NotTaken::Io)?;
        ours.set_nonblocking(true).map_err(NotTaken::Io)?;
        let ours = UnixStream::from_std(ours).map_err(NotTaken::Io)?;
        if let Err(error) = send_socket(known.control.as_fd(), theirs.as_fd()) {
            tracing::debug!(unit = %known.unit, %error, "the hook runner takes no child");
            let unit = std::mem::take(&mut known.unit);
            *running = None;
            return Err(NotTaken::Gone(unit));
        }
        known.used = Instant::now();
        Ok(TakenChild {
            unit: known.unit.clone(),
            socket: ours,
            _control: known.control.clone(),
        })
    }

    async fn started(self: &Arc<Self>) -> Result<RunningRunner, SystemdError> {
        let unit = format!(
            "hostagent-hooks-{}-{:08x}.service",
            std::process::id(),
            fastrand::u32(..)
        );
        let (ours, theirs) =
            StdStream::pair().map_err(|error| SystemdError::Unreachable(error.to_string()))?;
        self.start.start(&unit, theirs.into()).await?;
        tracing::debug!(%unit, "started a hook runner");
        tokio::spawn(end_when_idle(Arc::downgrade(self), unit.clone()));
        Ok(RunningRunner {
            unit,
            control: Arc::new(ours.into()),
            used: Instant::now(),
        })
    }
}

async fn end_when_idle(runner: Weak<Runner>, unit: String) {
    loop {
        tokio::time::sleep(IDLE).await;
        let Some(runner) = runner.upgrade() else { return };
        let mut running = runner.running.lock().await;
        match running.as_ref() {
            Some(known) if known.unit == unit => {
                if Arc::strong_count(&known.control) == 1 && known.used.elapsed() >= IDLE {
                    *running = None;
                    return;
                }
            }
            _ => return,
        }
    }
}

/// Sends `socket` over `control`, with one byte. Does not wait for a runner that does not read.
fn send_socket(control: BorrowedFd<'_>, socket: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let sockets = [socket];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&sockets));
    sendmsg(
        control,
        &[IoSlice::new(&[0])],
        &mut ancillary,
        SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
    )
    .map(drop)
}
