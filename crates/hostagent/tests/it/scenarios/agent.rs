//! The real program as a child process, to be stopped and killed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::world::{PATIENCE, TestHost};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_hostagent");

/// `hostagent run`; killed when dropped.
pub struct Agent {
    process: Child,
    /// Whose content names the agent, whatever it was started under.
    lock: PathBuf,
}

impl Drop for Agent {
    /// What strace watches outlives it.
    fn drop(&mut self) {
        let _ = self.process.start_kill();
        let holder = std::fs::read_to_string(&self.lock).unwrap_or_default();
        let id = holder.trim().strip_prefix("process ").unwrap_or_default();
        let words = std::fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let root = self.lock.ancestors().nth(4).unwrap().to_str().unwrap();
        if words.contains(root)
            && let Some(id) = id.parse().ok().and_then(Pid::from_raw)
        {
            let _ = kill_process(id, Signal::KILL);
        }
    }
}

impl Agent {
    /// `arguments`: before the command.
    pub fn start(host: &TestHost, arguments: &[String]) -> Self {
        Self::start_under(&[], host, arguments)
    }

    /// As a child of another program, such as strace.
    pub fn start_under(wrapper: &[&str], host: &TestHost, arguments: &[String]) -> Self {
        Self::start_program_under(wrapper, PROGRAM, host, arguments)
    }

    /// Another build of the agent.
    pub fn start_program_under(
        wrapper: &[&str],
        program: &str,
        host: &TestHost,
        arguments: &[String],
    ) -> Self {
        let mut words: Vec<&str> = wrapper.to_vec();
        words.push(program);
        words.extend(arguments.iter().map(String::as_str));
        words.push("run");
        let log = File::options()
            .create(true)
            .append(true)
            .open(host.log_path())
            .unwrap();
        let process = clean(&mut Command::new(words[0]))
            .args(&words[1..])
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            process,
            lock: host.sandbox.join("/var/lib/hostagent/lock"),
        }
    }

    /// Its process, or that of what it was started under.
    pub fn id(&self) -> i32 {
        i32::try_from(self.process.id().expect("it has ended")).unwrap()
    }

    pub fn terminate(&self) {
        kill_process(Pid::from_raw(self.id()).unwrap(), Signal::TERM).unwrap();
    }

    pub fn has_ended(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }

    /// How it ends, if it does within `limit`.
    pub async fn ends_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        timeout(limit, self.process.wait()).await.ok().map(Result::unwrap)
    }
}

/// Runs `hostagent ARGUMENTS` to its end.
pub async fn run_command(arguments: &[String], command: &[&str]) -> std::process::Output {
    clean(&mut Command::new(PROGRAM))
        .args(arguments)
        .args(command)
        .output()
        .await
        .unwrap()
}

/// As a unit would start it: with no environment of ours.
fn clean(command: &mut Command) -> &mut Command {
    command
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .stdin(Stdio::null())
}

/// Waits until a file exists.
pub async fn exists(path: &Path) {
    until(&format!("{} exists", path.display()), || path.exists()).await;
}

/// Waits until `condition` holds.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "awaited in vain: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}
