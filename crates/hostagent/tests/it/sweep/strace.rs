//! Faults by `strace -e inject`, at the nth call of a kind.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

/// The nth time that one process (or thread) makes a system call of this name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// Which run of the program, if it is started several times; from 1.
    pub run: usize,
    pub call: String,
    pub nth: usize,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "run {}, {} {}", self.run, self.call, self.nth)
    }
}

/// strace over a program alone, without the programs that it starts.
fn strace(log: &Path, calls: &str) -> Vec<String> {
    let log = log.display().to_string();
    let words = [
        "strace",
        "-f",
        "-b",
        "execve",
        "-q",
        "-y",
        "-s",
        "0",
        "-o",
        &log,
        "-e",
        "signal=none",
        "-e",
    ];
    let mut words: Vec<String> = words.map(str::to_owned).into();
    words.push(format!("trace={calls}"));
    words
}

pub fn record(log: &Path, calls: &str) -> Vec<String> {
    strace(log, calls)
}

/// `fault`: `signal=SIGKILL`, `error=ENOSPC`.
pub fn inject(log: &Path, point: &Point, fault: &str) -> Vec<String> {
    let mut words = strace(log, &point.call);
    words.push("-e".into());
    words.push(format!("inject={}:{fault}:when={}", point.call, point.nth));
    words
}

/// Every point that a recorded run has passed, of those that `matter` by their line in the log. strace counts the
/// calls of each thread by name.
pub fn points(log: &str, run: usize, matters: impl Fn(&str) -> bool) -> Vec<Point> {
    let mut of_thread: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut found: BTreeSet<(&str, usize)> = BTreeSet::new();
    for line in log.lines() {
        let (thread, rest) = match line.split_once(' ') {
            Some((thread, rest)) if thread.bytes().all(|byte| byte.is_ascii_digit()) => {
                (thread, rest.trim_start())
            }
            _ => ("", line),
        };
        let Some((call, _)) = rest.split_once('(') else {
            continue;
        };
        if !call
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            continue;
        }
        let count = of_thread.entry((call, thread)).or_default();
        *count += 1;
        if matters(rest) {
            found.insert((call, *count));
        }
    }
    let points = found.into_iter().map(|(call, nth)| Point {
        run,
        call: call.to_owned(),
        nth,
    });
    points.collect()
}

#[test]
fn points_are_counted_per_thread() {
    let log = "10 write(1, 0) = 3\n11 write(1, 0) = 3\n10 write(1<pipe>, 0) = 3\n10 write(1, 0 <unfinished ...>\n10 <... write resumed>) = 3\n\
               11 fsync(3) = 0\n10 +++ exited with 0 +++\n";
    let found: Vec<String> = points(log, 1, |line| !line.contains("pipe"))
        .iter()
        .map(Point::to_string)
        .collect();
    assert_eq!(found, ["run 1, fsync 1", "run 1, write 1", "run 1, write 3"]);
}
