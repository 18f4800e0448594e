//! The runner's side: a process that starts children for its agent.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use super::{TAKEN, wire};

/// Serves the agent at the other end of `control` until the agent is gone; then kills all children.
pub async fn serve(control: OwnedFd) -> io::Result<()> {
    let control = stream(control)?;
    let mut children = JoinSet::new();
    loop {
        tokio::select! {
            asked = next(&control) => match asked? {
                Some(socket) => { children.spawn(serve_one(stream(socket)?)); }
                None => return Ok(()),
            },
            Some(_) = children.join_next() => {}
        }
    }
}

/// Runs one child and sends its result. Kills it as soon as the agent no longer waits for it.
async fn serve_one(socket: UnixStream) {
    let (mut from, mut to) = socket.into_split();
    let served = async {
        let command = wire::receive_request(&mut from).await?;
        to.write_all(&[TAKEN]).await?;
        tokio::select! {
            ended = command.run_as_child() => wire::send_answer(&mut to, ended).await,
            // The agent sends nothing more: this is the end of the socket.
            _ = from.read_u8() => Ok(()),
        }
    };
    if let Err(error) = served.await {
        tracing::debug!(%error, "the agent no longer waits for a child");
    }
}

fn stream(socket: OwnedFd) -> io::Result<UnixStream> {
    let socket = StdStream::from(socket);
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

/// The socket of the next child; `None`: the agent is gone. Cancel-safe.
async fn next(control: &UnixStream) -> io::Result<Option<OwnedFd>> {
    control
        .async_io(Interest::READABLE, || receive(control.as_fd()))
        .await
}

fn receive(control: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [IoSliceMut::new(&mut byte)];
    let received = recvmsg(control, &mut bytes, &mut ancillary, RecvFlags::CMSG_CLOEXEC);
    match received {
        Ok(message) if message.bytes == 0 => return Ok(None),
        Ok(_) => {}
        Err(rustix::io::Errno::CONNRESET) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let socket = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    match socket {
        Some(socket) => Ok(Some(socket)),
        None => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the agent sent a byte without a socket",
        )),
    }
}
