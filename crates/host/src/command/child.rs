//! A child of this process: started, its output read, and ended in time.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin};

use super::capture::Capture;
use super::ended::{End, Ended};
use super::group::Group;
use super::{Argument, Command, Exit, Leftovers};

/// Where programs are looked up: the PATH of a root login, whatever the agent's own is (dpkg needs
/// the sbin folders).
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long to wait for output of processes that outlive the child. The child's own output is
/// already in the pipe.
const AFTER_EXIT: Duration = Duration::from_millis(100);
/// How long a killed child may take to disappear. Longer means that the kernel blocks it (state D).
pub(super) const AFTER_KILL: Duration = Duration::from_secs(5);

impl Command {
    /// Runs it as a child of this process, to its end.
    pub(super) async fn run_as_child(&self) -> Ended {
        let mut child = match self.spawn() {
            Ok(child) => child,
            Err(error) => return Ended::without_output(End::NotStarted(error)),
        };
        let group = Group::of(&child);
        let mut stdout = Capture::new(self.output_cap, self.overflow);
        let mut stderr = Capture::new(self.output_cap, self.overflow);
        let end = self.wait_for_end(&mut child, &mut stdout, &mut stderr).await;
        self.end_group(&end, &mut child, group).await;
        Ended {
            end,
            stdout: stdout.into_bytes(),
            stderr: stderr.into_bytes(),
        }
    }

    /// Feeds the child and reads its output until it ends, or until its deadline.
    async fn wait_for_end(&self, child: &mut Child, stdout: &mut Capture, stderr: &mut Capture) -> End {
        let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let streams = async {
            tokio::try_join!(self.feed(input), stdout.read(output), stderr.read(errors)).map(|_| ())
        };
        tokio::pin!(streams);
        let whole = async {
            tokio::select! {
                read = &mut streams => match read {
                    Ok(()) => child.wait().await.map_err(End::Lost),
                    Err(end) => Err(end),
                },
                exit = child.wait() => {
                    // Another process still holds the pipes: no reason to wait for it.
                    let _ = tokio::time::timeout(AFTER_EXIT, &mut streams).await;
                    exit.map_err(End::Lost)
                }
            }
        };
        match tokio::time::timeout(self.deadline, whole).await {
            Ok(Ok(status)) => End::Exited(exit_of(status)),
            Ok(Err(end)) => end,
            Err(_) => End::Deadline,
        }
    }

    async fn feed(&self, input: Option<ChildStdin>) -> Result<(), End> {
        if let (Some(mut pipe), Some(bytes)) = (input, &self.stdin) {
            // A child that does not read its input is no error; its exit code decides.
            let _ = pipe.write_all(bytes).await;
        }
        Ok(())
    }

    async fn end_group(&self, end: &End, child: &mut Child, mut group: Group) {
        match (end, self.leftovers) {
            (End::Exited(_), Leftovers::Leave) => group.release(),
            (End::Exited(_), Leftovers::Kill) => group.kill(),
            _ => {
                let killed = group.kill_and_list();
                // Normally reaped here; otherwise by the runtime, later.
                let dead = async { tokio::join!(child.wait(), killed.wait_until_dead()) };
                let _ = tokio::time::timeout(AFTER_KILL, dead).await;
            }
        }
    }

    fn spawn(&self) -> io::Result<Child> {
        let arguments = self.arguments.iter().map(Argument::text);
        let mut command = tokio::process::Command::new(&self.program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", PATH)
            .env("LANG", "C.UTF-8")
            .env("HOME", std::env::var_os("HOME").unwrap_or_else(|| "/".into()))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .process_group(0)
            .stdin(if self.stdin.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn()
    }
}

fn exit_of(status: ExitStatus) -> Exit {
    use std::os::unix::process::ExitStatusExt;
    match status.code() {
        Some(code) => Exit::Code(code),
        None => Exit::Signal(status.signal().unwrap_or(0)),
    }
}
