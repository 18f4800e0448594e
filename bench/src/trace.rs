//! Counts the programs that processes start, with strace.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process::Process;
use crate::stage::{Stage, TIMEOUT};

/// strace, attached to running processes and to the processes that they start.
pub struct Trace {
    strace: Process,
    log: PathBuf,
}

impl Trace {
    /// Returns when strace is attached to all `processes`.
    pub async fn attach(stage: &Stage, processes: &[u32]) -> Result<Self> {
        let log = stage.path("trace-attached");
        let mut arguments = ["-f", "-e", "trace=execve", "-o"].map(str::to_owned).to_vec();
        arguments.push(log.to_string_lossy().into_owned());
        for process in processes {
            arguments.extend(["-p".to_owned(), process.to_string()]);
        }
        let output = stage.path("strace");
        let mut strace = Process::start(Path::new("/usr/bin/strace"), &arguments, &output)?;
        for process in processes {
            strace
                .wait_for_line(&format!("Process {process} attached"), TIMEOUT)
                .await
                .context("strace")?;
        }
        Ok(Self { strace, log })
    }

    /// Number of programs started so far.
    pub fn programs(&self) -> Result<usize> {
        Ok(programs(&fs::read_to_string(&self.log)?))
    }

    /// Detaches from the processes.
    pub async fn end(self) -> Result<()> {
        self.strace.end().await
    }
}

/// Number of programs started, from the output of `strace -f -e trace=execve`. Failed calls, as for
/// each folder of PATH, do not count.
pub fn programs(log: &str) -> usize {
    let started = log
        .lines()
        .filter(|line| line.contains("execve") && line.ends_with("= 0"));
    started.count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_counts_once_even_if_another_process_interrupts_its_line() {
        let log = "\
7 execve(\"/usr/sbin/dpkg\", [\"dpkg\"], 0x1 /* 3 vars */) = -1 ENOENT (No such file or directory)
7 execve(\"/usr/bin/dpkg\", [\"dpkg\"], 0x1 /* 3 vars */) = 0
8 execve(\"/usr/bin/tar\", [\"tar\"], 0x1 /* 3 vars */ <unfinished ...>
7 --- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED, si_pid=9} ---
8 <... execve resumed>)             = 0
7 +++ exited with 0 +++
";
        assert_eq!(programs(log), 2);
    }
}
