//! Children outside the agent's sandbox: hooks and health checks may need whatever their application
//! needs, so that the agent's own unit could take nothing away from itself if they ran there.
//!
//! A runner is a process of the agent's own program, in a transient unit of its own. The agent hands it a socket for each
//! child, and asks for it there: so no argument of a child, which may be a secret, is a property of a unit, where every user
//! could read it. It supervises as the agent itself would ([`super::supervise`]). It is started with the first
//! child, ends when no child was asked for in a while, and with the agent.

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

use super::supervise::{AFTER_KILL, Ended};
use super::unit::manager::ManagerError;
use super::{Command, CommandError};
use crate::Root;

/// A runner without a child ends after that time.
const IDLE: Duration = Duration::from_secs(60);
/// A child that no runner has taken by then never will be.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);
/// What a runner says as soon as it has read what it is asked for.
const TAKEN: u8 = b'!';

/// The agent's side.
#[derive(Debug)]
pub struct Runner {
    start: Start,
    at_work: Mutex<Option<AtWork>>,
}

/// A runner that was started.
#[derive(Debug)]
struct AtWork {
    unit: String,
    /// It ends when this is closed. A clone is with each child.
    control: Arc<OwnedFd>,
    used: Instant,
}

/// A child that a runner is at.
struct Taken {
    unit: String,
    socket: UnixStream,
    _control: Arc<OwnedFd>,
}

/// Why a child was not even started.
#[derive(Debug, thiserror::Error)]
enum NotTaken {
    #[error("its runner, {0}, ended at once: `journalctl -u {0}` says why")]
    Gone(String),
    #[error("no runner takes it within {TAKEN_WITHIN:?}: look at `systemctl list-units 'hostagent-hooks-*'`")]
    Late,
    #[error(transparent)]
    Manager(ManagerError),
    #[error("no socket for its runner: {0}")]
    Io(io::Error),
}

impl Runner {
    /// `None`: `root` is a sandbox, its host has another init system, or this is a command of a user who may start no units.
    pub fn of(root: &Root) -> Option<Arc<Self>> {
        let may = rustix::process::geteuid().is_root();
        (may && crate::services::is_systemd(root)).then(|| Self::new(Start::Unit))
    }

    fn new(start: Start) -> Arc<Self> {
        Arc::new(Self {
            start,
            at_work: Mutex::new(None),
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
            Err(NotTaken::Manager(ManagerError::Unsupported(why))) => {
                tracing::warn!(%why, "systemd takes no units of ours; hooks and checks run in the agent's sandbox");
                return Ok(None);
            }
            Err(error) => return Err(lost(error.to_string())),
        };
        let unit = taken.unit;
        let longest = command.deadline.saturating_add(2 * AFTER_KILL);
        let why = match tokio::time::timeout(longest, wire::answered(&mut taken.socket)).await {
            Ok(Ok(ended)) => return Ok(Some(ended)),
            Ok(Err(error)) if error.kind() != io::ErrorKind::InvalidData => {
                // Whoever killed the runner may have left its children.
                self.start.kill(&unit).await;
                format!("its runner, {unit}, has ended ({error})")
            }
            Ok(Err(error)) => format!("its runner, {unit}, is not to be understood: {error}"),
            Err(_) => format!("its runner, {unit}, does not answer"),
        };
        self.let_go(&unit).await;
        Err(lost(why))
    }

    /// Hands `command` to a runner. One that has ended unnoticed is replaced, once.
    async fn taken_in_time(self: &Arc<Self>, command: &Command) -> Result<Taken, NotTaken> {
        let taken = async {
            match self.taken(command).await {
                Err(NotTaken::Gone(unit)) => {
                    tracing::info!(%unit, "the runner of hooks has ended; starting another");
                    self.taken(command).await
                }
                taken => taken,
            }
        };
        tokio::time::timeout(TAKEN_WITHIN, taken)
            .await
            .unwrap_or_else(|_| {
                // Unless somebody else is at it.
                if let Ok(mut at_work) = self.at_work.try_lock() {
                    *at_work = None;
                }
                Err(NotTaken::Late)
            })
    }

    /// Hands `command` to the runner, which is started if there is none.
    async fn taken(self: &Arc<Self>, command: &Command) -> Result<Taken, NotTaken> {
        let mut taken = self.socket().await?;
        let answer = async {
            wire::ask(&mut taken.socket, command).await?;
            taken.socket.read_u8().await
        };
        match answer.await {
            Ok(_) => Ok(taken),
            Err(_) => {
                self.let_go(&taken.unit).await;
                Err(NotTaken::Gone(taken.unit))
            }
        }
    }

    /// The next child is for another runner. This one ends with the last that it has.
    async fn let_go(&self, unit: &str) {
        let mut at_work = self.at_work.lock().await;
        if at_work.as_ref().is_some_and(|known| known.unit == unit) {
            *at_work = None;
        }
    }

    /// A socket whose other end the runner has.
    async fn socket(self: &Arc<Self>) -> Result<Taken, NotTaken> {
        let mut at_work = self.at_work.lock().await;
        let known = match at_work.take() {
            Some(known) => known,
            None => self.started().await.map_err(NotTaken::Manager)?,
        };
        let known = at_work.insert(known);
        let (ours, theirs) = StdStream::pair().map_err(NotTaken::Io)?;
        ours.set_nonblocking(true).map_err(NotTaken::Io)?;
        let ours = UnixStream::from_std(ours).map_err(NotTaken::Io)?;
        if let Err(error) = hand_over(known.control.as_fd(), theirs.as_fd()) {
            tracing::debug!(unit = %known.unit, %error, "the runner of hooks takes nothing");
            let unit = std::mem::take(&mut known.unit);
            *at_work = None;
            return Err(NotTaken::Gone(unit));
        }
        known.used = Instant::now();
        Ok(Taken {
            unit: known.unit.clone(),
            socket: ours,
            _control: known.control.clone(),
        })
    }

    async fn started(self: &Arc<Self>) -> Result<AtWork, ManagerError> {
        let unit = format!(
            "hostagent-hooks-{}-{:08x}.service",
            std::process::id(),
            fastrand::u32(..)
        );
        let (ours, theirs) =
            StdStream::pair().map_err(|error| ManagerError::Unreachable(error.to_string()))?;
        self.start.start(&unit, theirs.into()).await?;
        tracing::debug!(%unit, "started a runner of hooks");
        tokio::spawn(end_when_idle(Arc::downgrade(self), unit.clone()));
        Ok(AtWork {
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
        let mut at_work = runner.at_work.lock().await;
        match at_work.as_ref() {
            Some(known) if known.unit == unit => {
                if Arc::strong_count(&known.control) == 1 && known.used.elapsed() >= IDLE {
                    *at_work = None;
                    return;
                }
            }
            _ => return,
        }
    }
}

/// Sends `socket` over `control`, with one byte. A runner that takes nothing is not waited for.
fn hand_over(control: BorrowedFd<'_>, socket: BorrowedFd<'_>) -> rustix::io::Result<()> {
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
