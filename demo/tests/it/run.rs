//! Runs the program with a separate temporary folder, so that everything it leaves behind is found.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

pub struct Run {
    child: Option<Child>,
    temporary: tempfile::TempDir,
    /// Standard output and standard error.
    output: tempfile::NamedTempFile,
}

impl Run {
    pub fn start(arguments: &[&str]) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let output = tempfile::NamedTempFile::new().unwrap();
        let append = || File::options().append(true).open(output.path()).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_demo"))
            .args(arguments)
            .env("TMPDIR", temporary.path())
            .env("HOME", temporary.path())
            .stdin(Stdio::null())
            .stdout(append())
            .stderr(append())
            .spawn()
            .unwrap();
        Self {
            child: Some(child),
            temporary,
            output,
        }
    }

    pub fn id(&self) -> i32 {
        self.child.as_ref().unwrap().id().try_into().unwrap()
    }

    /// Waits until it has printed `part`. Returns all output.
    pub fn wait_for_text(&mut self, part: &str) -> String {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let text = self.text();
            if text.contains(part) {
                return text;
            }
            assert!(Instant::now() < until, "{part:?} was not printed:\n{text}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.output.path()).unwrap()
    }

    /// Waits until `path` exists on this host. Returns its real path.
    pub fn wait_for_file(&mut self, host: &str, path: &str) -> PathBuf {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let folders = std::fs::read_dir(self.temporary.path()).unwrap();
            let files = folders.map(|folder| folder.unwrap().path().join("hosts").join(host).join(path));
            if let Some(file) = files.into_iter().find(|file| file.exists()) {
                return file;
            }
            assert!(Instant::now() < until, "{path} did not come to {host}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until a process with `part` in its command line runs in its folder.
    pub fn wait_for_process(&mut self, part: &str) {
        let until = Instant::now() + Duration::from_secs(60);
        while !processes_of(self.temporary.path())
            .iter()
            .any(|line| line.contains(part))
        {
            let child = self.child.as_mut().unwrap();
            assert!(child.try_wait().unwrap().is_none(), "it has ended already");
            assert!(Instant::now() < until, "no process {part:?} was started");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until it ends. Returns exit code and output. Checks that no file and no process is
    /// left.
    pub fn end(mut self) -> (Option<i32>, String) {
        let status = self.child.take().unwrap().wait().unwrap();
        let text = self.text();
        assert_eq!(
            processes_of(self.temporary.path()),
            [""; 0],
            "left behind by:\n{text}"
        );
        let files: Vec<_> = std::fs::read_dir(self.temporary.path()).unwrap().collect();
        assert!(files.is_empty(), "{files:?} left behind by:\n{text}");
        (status.code(), text)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Command lines of the processes whose environment or arguments name something below `folder`. The
/// demo itself has only `folder` as TMPDIR, so it is not included.
fn processes_of(folder: &Path) -> Vec<String> {
    let below = format!("{}/", folder.display());
    let read = |path: String| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
    let entries = std::fs::read_dir("/proc").unwrap();
    entries
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok()?.parse::<u32>().ok())
        .filter(|number| {
            read(format!("/proc/{number}/environ")).contains(&below)
                || read(format!("/proc/{number}/cmdline")).contains(&below)
        })
        .map(|number| read(format!("/proc/{number}/cmdline")).replace('\0', " "))
        .collect()
}
