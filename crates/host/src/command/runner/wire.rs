//! What agent and runner say to each other about one child, over a socket of its own.
//!
//! A frame is a length (4 bytes, big-endian), so many bytes of JSON, and the byte strings whose lengths that JSON
//! tells: arguments and output need not be text. Both sides are the same program.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::command::supervise::{End, Ended};
use crate::command::{Argument, Command, Exit, Leftovers, Overflow};

/// More than any child may be given or may print: what claims to be longer is no frame of ours.
const MAX_FRAME: usize = 64 * 1024 * 1024;

/// The child to be. Its program, its arguments, the names and values of its environment and its stdin follow.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
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
enum Answer {
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

/// Asks for the child that `command` describes.
pub(super) async fn ask(to: &mut (impl AsyncWrite + Unpin), command: &Command) -> io::Result<()> {
    let request = Request {
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

/// What [`ask`] has sent.
pub(super) async fn asked(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Command> {
    let (request, strings): (Request, _) = receive(from).await?;
    let mut strings = strings.into_iter();
    let mut next = || {
        strings
            .next()
            .ok_or_else(|| broken("fewer strings than it tells of"))
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

/// Tells how the child ended.
pub(super) async fn answer(to: &mut (impl AsyncWrite + Unpin), ended: Ended) -> io::Result<()> {
    let answer = match ended.end {
        End::Exited(exit) => Answer::Exited(exit),
        End::Deadline => Answer::Deadline,
        End::Overflow => Answer::Overflow,
        End::NotStarted(error) => Answer::NotStarted(error.into()),
        End::Lost(error) => Answer::Lost(error.into()),
    };
    send(to, &answer, &[&ended.stdout, &ended.stderr]).await
}

/// What [`answer`] has sent.
pub(super) async fn answered(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Ended> {
    let (answer, strings) = receive(from).await?;
    let [stdout, stderr] = <[Vec<u8>; 2]>::try_from(strings).map_err(|_| broken("no two streams"))?;
    let end = match answer {
        Answer::Exited(exit) => End::Exited(exit),
        Answer::Deadline => End::Deadline,
        Answer::Overflow => End::Overflow,
        Answer::NotStarted(fault) => End::NotStarted(fault.into()),
        Answer::Lost(fault) => End::Lost(fault.into()),
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
        return Err(broken("longer than any"));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).await?;
    Ok(bytes)
}

fn broken(how: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a broken frame: {how}"))
}
