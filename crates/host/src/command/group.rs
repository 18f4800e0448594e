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

    /// Kills the group, and those descendants that left it but still hang off it by parentage (apt runs
    /// dpkg in a session of its own). The child has not been reaped yet, or only just now, so its id
    /// cannot mean another process.
    pub fn kill(&mut self) {
        if let Some(leader) = self.0.take() {
            kill(leader, descendants(leader));
        }
    }

    /// As [`Self::kill`]; tells whom.
    pub fn kill_and_tell(&mut self) -> Dying {
        let Some(leader) = self.0.take() else {
            return Dying(Vec::new());
        };
        let descendants = descendants(leader);
        let mut dying = members(leader);
        dying.extend(&descendants);
        kill(leader, descendants);
        Dying(dying)
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

/// Processes that were killed. Until they are dead they hold their locks.
#[must_use]
pub(super) struct Dying(Vec<Pid>);

impl Dying {
    /// Returns when all are dead. Cancel-safe.
    pub async fn end(self) {
        for process in self.0 {
            while stat(process).is_some_and(|stat| stat.state != 'Z' && stat.state != 'X') {
                tokio::time::sleep(LOOK).await;
            }
        }
    }
}

/// Between two looks at a dying process; the kernel tells nobody but its parent.
const LOOK: Duration = Duration::from_millis(5);

/// All processes of a group, their parents alive or not.
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
    let mut open = vec![process];
    while let Some(parent) = open.pop() {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{parent}/task")) else {
            continue;
        };
        for thread in threads.flatten() {
            let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            let children = children.split_ascii_whitespace().filter_map(|id| id.parse().ok());
            for child in children.filter_map(Pid::from_raw) {
                found.push(child);
                open.push(child);
            }
        }
    }
    found
}
