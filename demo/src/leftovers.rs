//! The folder that holds all that a run makes, and the end of both the folder and the processes that the
//! sandboxes' services are.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long killed processes may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// A temporary folder; dropped, it is gone, and with it each process of a sandbox in it.
pub struct Workshop {
    folder: Option<tempfile::TempDir>,
    /// Without symbolic links: as the sandboxes and their processes name it.
    path: PathBuf,
}

impl Workshop {
    pub fn open() -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("backbone-demo-")
            .tempdir()
            .context("no temporary folder could be made; TMPDIR names where")?;
        let path = folder.path().canonicalize()?;
        Ok(Self {
            folder: Some(folder),
            path,
        })
    }

    pub fn folder(&self) -> &Path {
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
            .with_context(|| format!("the folder {} could not be removed", self.path.display()))?;
        killed
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        // On the way of an earlier failure, which is the one to tell.
        let _ = self.clear();
    }
}

/// Services run detached, so they are found by what they were started with: a `BACKBONE_ROOT` in `folder`.
fn kill_all_of(folder: &Path) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        let left = processes_of(folder);
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("processes {left:?} of {} do not end", folder.display());
        }
        for process in left {
            // One that has just ended is as good.
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
        // Empty for a zombie, not to be read for other people's.
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
    fn what_runs_in_a_sandbox_ends_with_the_workshop() {
        let workshop = Workshop::open().unwrap();
        let folder = workshop.folder().to_owned();
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
        workshop.close().unwrap();
        assert!(!folder.exists());
        assert!(!ended.join().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
