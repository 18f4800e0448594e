//! The processes that a child starts.

use rustix::process::{Pid, Signal};
use tokio::process::Child;

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
        let Some(leader) = self.0.take() else { return };
        let descendants = descendants(leader);
        let _ = rustix::process::kill_process_group(leader, Signal::KILL);
        for process in descendants {
            let _ = rustix::process::kill_process(process, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
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
