//! How a child process ended.

use std::io;

use super::Exit;

#[derive(Debug)]
pub(super) enum End {
    Exited(Exit),
    /// Killed at its deadline.
    Deadline,
    /// Killed: it printed more than its output cap.
    Overflow,
    NotStarted(io::Error),
    /// Its end is unknown.
    Lost(io::Error),
}

/// How a child ended, and what it printed.
#[derive(Debug)]
pub(super) struct Ended {
    pub end: End,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Ended {
    pub fn without_output(end: End) -> Self {
        Self {
            end,
            stdout: Vec::new(),
            stderr: Vec::new(),
        }
    }
}
