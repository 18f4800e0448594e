//! The messages of agent and runner about one child, over a socket of its own.
//!
//! A frame is a length (4 bytes, big-endian), a JSON head of that length, and the byte strings
//! whose lengths are in the head: arguments and output need not be text. Both sides are the same
//! program.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::command::ended::{End, Ended};
use crate::command::{Argument, Command, Exit, Leftovers, Overflow};

/// More than any child may be given or may print.
const MAX_FRAME: usize = 64 * 1024 * 1024;

/// The child to start. Its program, its arguments, the names and values of its environment and its
/// stdin follow.
#[derive(Debug, Serialize, Deserialize)]
struct ChildRequest {
    arguments: usize,
    environment: usize,
    has_stdin: bool,
    deadline: Duration,
    output_cap: usize,
    overflow: Overflow,
    leftovers: Leftovers,
}

/// How it ended. Its stdout and its stderr follow.
#[derive(Debug, Serialize, Deserialize)]
enum ChildAnswer {
    Exited(Exit),
    Deadline,
    Overflow,
    NotStarted(Fault),
    Lost(Fault),
}

/// An [`io::Error`].
#[derive(Debug, Serialize, Deserialize)]
struct Fault {
    errno: Option<i32>,
    text: String,
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self {
            errno: error.raw_os_error(),
            text: error.to_string(),
        }
    }
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> Self {
        match fault.errno {
            Some(errno) => Self::from_raw_os_error(errno),
            None => Self::other(fault.text),
        }
    }
}

pub(super) async fn send_request(to: &mut (impl AsyncWrite + Unpin), command: &Command) -> io::Result<()> {
    let request = ChildRequest {
        arguments: command.arguments.len(),
        environment: command.environment.len(),
        has_stdin: command.stdin.is_some(),
        deadline: command.deadline,
        output_cap: command.output_cap,
        overflow: command.overflow,
        leftovers: command.leftovers,
    };
    let mut strings = vec![command.program.as_bytes()];
    strings.extend(
        command
            .arguments
            .iter()
            .map(|argument| argument.text().as_bytes()),
    );
    for (name, value) in &command.environment {
        strings.extend([name.as_bytes(), value.as_bytes()]);
    }
    strings.extend(command.stdin.as_deref());
    send(to, &request, &strings).await
}

pub(super) async fn receive_request(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Command> {
    let (request, strings): (ChildRequest, _) = receive(from).await?;
    let mut strings = strings.into_iter();
    let mut next = || {
        strings
            .next()
            .ok_or_else(|| broken("fewer strings than announced"))
    };
    let mut command = Command::new(OsString::from_vec(next()?))
        .deadline(request.deadline)
        .output_cap(request.output_cap, request.overflow)
        .leftovers(request.leftovers);
    for _ in 0..request.arguments {
        command
            .arguments
            .push(Argument::Plain(OsString::from_vec(next()?)));
    }
    for _ in 0..request.environment {
        command = command.env(OsString::from_vec(next()?), OsString::from_vec(next()?));
    }
    if request.has_stdin {
        command = command.stdin(next()?);
    }
    Ok(command)
}

pub(super) async fn send_answer(to: &mut (impl AsyncWrite + Unpin), ended: Ended) -> io::Result<()> {
    let answer = match ended.end {
        End::Exited(exit) => ChildAnswer::Exited(exit),
        End::Deadline => ChildAnswer::Deadline,
        End::Overflow => ChildAnswer::Overflow,
        End::NotStarted(error) => ChildAnswer::NotStarted(error.into()),
        End::Lost(error) => ChildAnswer::Lost(error.into()),
    };
    send(to, &answer, &[&ended.stdout, &ended.stderr]).await
}

pub(super) async fn receive_answer(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Ended> {
    let (answer, strings) = receive(from).await?;
    let [stdout, stderr] = <[Vec<u8>; 2]>::try_from(strings).map_err(|_| broken("not two streams"))?;
    let end = match answer {
        ChildAnswer::Exited(exit) => End::Exited(exit),
        ChildAnswer::Deadline => End::Deadline,
        ChildAnswer::Overflow => End::Overflow,
        ChildAnswer::NotStarted(fault) => End::NotStarted(fault.into()),
        ChildAnswer::Lost(fault) => End::Lost(fault.into()),
    };
    Ok(Ended { end, stdout, stderr })
}

async fn send(
    to: &mut (impl AsyncWrite + Unpin),
    head: &impl Serialize,
    strings: &[&[u8]],
) -> io::Result<()> {
    let lengths: Vec<usize> = strings.iter().map(|string| string.len()).collect();
    let head = serde_json::to_vec(&(head, lengths))?;
    let length = u32::try_from(head.len()).map_err(io::Error::other)?;
    to.write_all(&length.to_be_bytes()).await?;
    to.write_all(&head).await?;
    for string in strings {
        to.write_all(string).await?;
    }
    to.flush().await
}

async fn receive<H: DeserializeOwned>(from: &mut (impl AsyncRead + Unpin)) -> io::Result<(H, Vec<Vec<u8>>)> {
    let length = from.read_u32().await? as usize;
    let head = exactly(from, length, MAX_FRAME).await?;
    let (head, lengths): (H, Vec<usize>) = serde_json::from_slice(&head)?;
    let mut room = MAX_FRAME;
    let mut strings = Vec::with_capacity(lengths.len());
    for length in lengths {
        strings.push(exactly(from, length, room).await?);
        room -= length;
    }
    Ok((head, strings))
}

async fn exactly(from: &mut (impl AsyncRead + Unpin), length: usize, room: usize) -> io::Result<Vec<u8>> {
    if length > room {
        return Err(broken("too long"));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).await?;
    Ok(bytes)
}

fn broken(how: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a broken frame: {how}"))
}
