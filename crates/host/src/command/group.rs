//! The processes that a child starts.

use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::process::Child;

use crate::processes::{process_id, stat};

/// A child's process group; killed when dropped, unless released.
pub(super) struct Group(Option<Pid>);

impl Group {
    pub fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(id as i32)))
    }

    pub fn release(&mut self) {
        self.0 = None;
    }

    /// Kills the group, and the descendants that have left it (apt runs dpkg in a session of its
    /// own). The child is not reaped yet, or only just now, so that its id cannot belong to another
    /// process.
    pub fn kill(&mut self) {
        if let Some(leader) = self.0.take() {
            kill(leader, descendants(leader));
        }
    }

    /// As [`Self::kill`]; returns the killed processes.
    pub fn kill_and_list(&mut self) -> KilledProcesses {
        let Some(leader) = self.0.take() else {
            return KilledProcesses(Vec::new());
        };
        let descendants = descendants(leader);
        let mut killed = members(leader);
        killed.extend(&descendants);
        kill(leader, descendants);
        KilledProcesses(killed)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

fn kill(leader: Pid, descendants: Vec<Pid>) {
    let _ = rustix::process::kill_process_group(leader, Signal::KILL);
    for process in descendants {
        let _ = rustix::process::kill_process(process, Signal::KILL);
    }
}

/// Processes that were killed. They hold their locks until they are dead.
#[must_use]
pub(super) struct KilledProcesses(Vec<Pid>);

impl KilledProcesses {
    /// Cancel-safe.
    pub async fn wait_until_dead(self) {
        for process in self.0 {
            while stat(process).is_some_and(|stat| stat.state != 'Z' && stat.state != 'X') {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        }
    }
}

/// Polls, because the kernel reports the death of a process only to its parent.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// All processes of a group, also those whose parents are dead.
fn members(leader: Pid) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = entries.filter_map(|entry| process_id(entry.file_name().to_str()?));
    processes
        .filter(|process| stat(*process).is_some_and(|stat| stat.group == Some(leader)))
        .collect()
}

/// All living descendants of `process`, from `/proc`.
fn descendants(process: Pid) -> Vec<Pid> {
    let mut found = Vec::new();
    let mut unvisited = vec![process];
    while let Some(parent) = unvisited.pop() {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{parent}/task")) else {
            continue;
        };
        for thread in threads.flatten() {
            let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            let children = children.split_ascii_whitespace().filter_map(|id| id.parse().ok());
            for child in children.filter_map(Pid::from_raw) {
                found.push(child);
                unvisited.push(child);
            }
        }
    }
    found
}
