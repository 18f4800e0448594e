//! The temporary folder with all files of a run. At the end it is deleted, and the services of the
//! sandboxes are killed.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Time limit for killed processes to end.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// A temporary folder. When it is dropped, it is deleted and each process of its sandboxes is
/// killed.
pub struct TemporaryFolder {
    folder: Option<tempfile::TempDir>,
    /// Without symbolic links, as in the environment of the sandboxes' processes.
    path: PathBuf,
}

impl TemporaryFolder {
    pub fn open() -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("backbone-demo-")
            .tempdir()
            .context("cannot create a temporary folder; set TMPDIR to a folder that can be written")?;
        let path = folder.path().canonicalize()?;
        Ok(Self {
            folder: Some(folder),
            path,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn close(mut self) -> Result<()> {
        self.clear()
    }

    fn clear(&mut self) -> Result<()> {
        let Some(folder) = self.folder.take() else {
            return Ok(());
        };
        let killed = kill_all_of(&self.path);
        folder
            .close()
            .with_context(|| format!("cannot delete the folder {}", self.path.display()))?;
        killed
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // Reached only after another failure, which is the one to report.
        let _ = self.clear();
    }
}

/// Kills all services. They are detached, so they are found by their environment: `BACKBONE_ROOT`
/// is in `folder`.
fn kill_all_of(folder: &Path) -> Result<()> {
    let until = Instant::now() + KILL_LIMIT;
    loop {
        let left = processes_of(folder);
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("cannot kill the processes {left:?} of {}", folder.display());
        }
        for process in left {
            // An error means that it has just ended.
            let _ = kill_process(process, Signal::KILL);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn processes_of(folder: &Path) -> Vec<Pid> {
    let mark = [b"BACKBONE_ROOT=", folder.as_os_str().as_encoded_bytes(), b"/"].concat();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers
        // Empty for a zombie, unreadable for another user's process.
        .filter(|number: &i32| {
            let environment = std::fs::read(format!("/proc/{number}/environ")).unwrap_or_default();
            environment
                .split(|byte| *byte == 0)
                .any(|variable| variable.starts_with(&mark))
        })
        .filter_map(Pid::from_raw)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn processes_of_a_sandbox_end_with_the_folder() {
        let temporary = TemporaryFolder::open().unwrap();
        let folder = temporary.path().to_owned();
        let mut service = Command::new("sleep")
            .arg("600")
            .env("BACKBONE_ROOT", folder.join("paris"))
            .spawn()
            .unwrap();
        let mut other = Command::new("sleep")
            .arg("600")
            .env("BACKBONE_ROOT", "/elsewhere")
            .spawn()
            .unwrap();
        // Reaps it, so that it does not stay as a zombie.
        let ended = thread::spawn(move || service.wait().unwrap());
        temporary.close().unwrap();
        assert!(!folder.exists());
        assert!(!ended.join().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
