//! Children outside the agent's sandbox: hooks, health checks and SysV scripts may need whatever their application
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
use crate::host::Root;

/// A runner without a child ends after that time.
const IDLE: Duration = Duration::from_secs(60);
/// A runner that has not taken a child by then never will.
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
    /// It ends when this is closed.
    control: OwnedFd,
    /// A clone for each child.
    children: Arc<()>,
    used: Instant,
}

/// A child that a runner is at.
struct Taken {
    unit: String,
    socket: UnixStream,
    _child: Arc<()>,
}

/// Why a child was not even started.
enum NotTaken {
    /// The runner had ended, unnoticed.
    Gone(String),
    Manager(ManagerError),
    Io(io::Error),
}

impl Runner {
    /// `None`: `root` is a sandbox, its host has another init system, or this is a command of a user who may start no units.
    pub fn of(root: &Root) -> Option<Arc<Self>> {
        let may = rustix::process::geteuid().is_root();
        (may && crate::host::services::is_systemd(root)).then(|| Self::new(Start::Unit))
    }

    fn new(start: Start) -> Arc<Self> {
        Arc::new(Self {
            start,
            at_work: Mutex::new(None),
        })
    }

    /// `None`: this systemd is too old for it.
    pub(super) async fn run(self: &Arc<Self>, command: &Command) -> Result<Option<Ended>, CommandError> {
        let io = |source| CommandError::Io {
            command: command.to_string(),
            source,
        };
        let mut taken = self.taken(command).await;
        if let Err(NotTaken::Gone(unit)) = &taken {
            tracing::info!(%unit, "the runner of hooks has ended; starting another");
            taken = self.taken(command).await;
        }
        let mut taken = match taken {
            Ok(taken) => taken,
            Err(NotTaken::Manager(ManagerError::Unsupported(why))) => {
                tracing::warn!(%why, "systemd takes no units of ours; hooks and checks run in the agent's sandbox");
                return Ok(None);
            }
            Err(NotTaken::Manager(error)) => return Err(error.about(&command.to_string())),
            Err(NotTaken::Io(error)) => return Err(io(error)),
            Err(NotTaken::Gone(unit)) => {
                let why = format!("its unit {unit} ended at once: `journalctl -u {unit}` says why");
                return Err(io(io::Error::other(why)));
            }
        };
        let longest = command.deadline.saturating_add(2 * AFTER_KILL);
        let why = match tokio::time::timeout(longest, wire::answered(&mut taken.socket)).await {
            Ok(Ok(ended)) => return Ok(Some(ended)),
            Ok(Err(error)) => format!("its runner, {}, has ended ({error})", taken.unit),
            Err(_) => format!("its runner, {}, does not answer", taken.unit),
        };
        // Whoever killed the runner may have left the child.
        self.let_go(&taken.unit).await;
        self.start.kill(&taken.unit).await;
        Err(io(io::Error::other(why)))
    }

    /// Hands `command` to the runner, which is started if there is none.
    async fn taken(self: &Arc<Self>, command: &Command) -> Result<Taken, NotTaken> {
        let (unit, socket, child) = self.socket().await?;
        let mut socket = UnixStream::from_std(socket).map_err(NotTaken::Io)?;
        let taken = async {
            wire::ask(&mut socket, command).await?;
            socket.read_u8().await
        };
        let why = match tokio::time::timeout(TAKEN_WITHIN, taken).await {
            Ok(Ok(_)) => {
                return Ok(Taken {
                    unit,
                    socket,
                    _child: child,
                });
            }
            Ok(Err(_)) => NotTaken::Gone(unit.clone()),
            Err(_) => NotTaken::Io(io::Error::other(format!("its runner, {unit}, does not take it"))),
        };
        self.let_go(&unit).await;
        Err(why)
    }

    /// The next child is for another runner.
    async fn let_go(&self, unit: &str) {
        let mut at_work = self.at_work.lock().await;
        if at_work.as_ref().is_some_and(|known| known.unit == unit) {
            *at_work = None;
        }
    }

    /// A socket whose other end the runner has.
    async fn socket(self: &Arc<Self>) -> Result<(String, StdStream, Arc<()>), NotTaken> {
        let mut at_work = self.at_work.lock().await;
        let known = match at_work.take() {
            Some(known) => known,
            None => self.started().await.map_err(NotTaken::Manager)?,
        };
        let known = at_work.insert(known);
        let (ours, theirs) = StdStream::pair().map_err(NotTaken::Io)?;
        ours.set_nonblocking(true).map_err(NotTaken::Io)?;
        if let Err(error) = hand_over(known.control.as_fd(), theirs.as_fd()) {
            tracing::debug!(unit = %known.unit, %error, "the runner of hooks takes nothing");
            let unit = std::mem::take(&mut known.unit);
            *at_work = None;
            return Err(NotTaken::Gone(unit));
        }
        known.used = Instant::now();
        Ok((known.unit.clone(), ours, known.children.clone()))
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
            control: ours.into(),
            children: Arc::default(),
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
                if Arc::strong_count(&known.children) == 1 && known.used.elapsed() >= IDLE {
                    *at_work = None;
                    return;
                }
            }
            _ => return,
        }
    }
}

/// Sends `socket` over `control`, with one byte.
fn hand_over(control: BorrowedFd<'_>, socket: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let sockets = [socket];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&sockets));
    sendmsg(
        control,
        &[IoSlice::new(&[0])],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )
    .map(drop)
}
