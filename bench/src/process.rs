//! Starts and stops the programs under measurement, and reads their memory and processor time from
//! /proc.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

/// Arguments of setpriv: the kernel kills the program that follows when its parent ends.
pub const DIE_WITH_PARENT: [&str; 3] = ["--pdeathsig", "KILL", "--"];

/// A child process with its log; killed when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it with a clean environment, as systemd would. Its output is appended to `log`. The
    /// kernel kills it when this thread ends, so an interrupted run leaves no process behind.
    pub fn start(program: &Path, arguments: &[String], log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        ensure!(program.is_file(), "{} does not exist", program.display());
        let child = Command::new("setpriv")
            .args(DIE_WITH_PARENT)
            .arg(program)
            .args(arguments)
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self {
            child,
            log: log.to_owned(),
        })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for a line of its log that contains `text`; returns the rest of that line.
    pub async fn wait_for_line(&mut self, text: &str, limit: Duration) -> Result<String> {
        let until = Instant::now() + limit;
        loop {
            let log = self.log();
            if let Some((_, rest)) = log.split_once(text) {
                let line = rest.lines().next().unwrap_or_default();
                if rest.len() > line.len() {
                    return Ok(line.to_owned());
                }
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("ended with {status}; its log: {log}");
            }
            ensure!(
                Instant::now() < until,
                "did not log {text:?} within {limit:?}; its log: {log}"
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Sends SIGTERM and waits for its end.
    pub async fn end(mut self) -> Result<()> {
        let id = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        if let Some(id) = id {
            rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
        }
        let until = Instant::now() + Duration::from_secs(20);
        while self.child.try_wait()?.is_none() {
            ensure!(
                Instant::now() < until,
                "still runs 20 s after SIGTERM; its log: {}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Memory of a process, in MiB.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Memory {
    pub resident: f64,
    pub anonymous: f64,
    pub files: f64,
    /// The largest resident memory since the start.
    pub peak: f64,
}

pub fn memory(process: u32) -> Result<Memory> {
    let path = format!("/proc/{process}/status");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let mib = |name: &str| -> Result<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next());
        let kib: f64 = number.with_context(|| format!("no {name} in {path}"))?.parse()?;
        Ok(kib / 1024.0)
    };
    Ok(Memory {
        resident: mib("VmRSS:")?,
        anonymous: mib("RssAnon:")?,
        files: mib("RssFile:")?,
        peak: mib("VmHWM:")?,
    })
}

/// Processor time of a process from now on, in nanoseconds. (/proc/PID/stat counts in hundredths of
/// a second.)
pub struct CpuMeter {
    process: u32,
    /// For each thread, in nanoseconds.
    before: BTreeMap<OsString, u64>,
}

impl CpuMeter {
    pub fn start(process: u32) -> Result<Self> {
        let before = cpu_by_thread(process)?;
        Ok(Self { process, before })
    }

    /// Seconds so far, of all threads that still run. Threads for blocking work end after ten idle
    /// seconds, and their time is lost: over long times, [`cpu_total`] is more exact.
    pub fn seconds(&self) -> Result<f64> {
        let used = cpu_by_thread(self.process)?.into_iter().map(|(thread, now)| {
            let before = self.before.get(&thread).copied().unwrap_or(0);
            now.saturating_sub(before)
        });
        Ok(used.sum::<u64>() as f64 / 1e9)
    }
}

fn cpu_by_thread(process: u32) -> Result<BTreeMap<OsString, u64>> {
    let mut threads = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let task = task?;
        // A thread may end between the two reads.
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        let nanoseconds = text.split_whitespace().next().and_then(|n| n.parse().ok());
        threads.insert(task.file_name(), nanoseconds.unwrap_or(0));
    }
    Ok(threads)
}

/// Processor time of a process since its start, in seconds, from /proc/PID/stat. Includes threads
/// that have ended.
pub fn cpu_total(process: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let after_name = text
        .rsplit_once(')')
        .map(|(_, rest)| rest)
        .context("/proc/PID/stat has no name in parentheses")?;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |field: usize| {
        fields
            .get(field)
            .and_then(|n| n.parse::<f64>().ok())
            .context("/proc/PID/stat has no processor time")
    };
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    Ok((ticks(11)? + ticks(12)?) / per_second)
}

/// How the agent's program is linked. It decides how much memory the agent takes, and how long it
/// starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentLink {
    /// Against musl, as it ships.
    Static,
    /// Against this machine's C library.
    Dynamic,
}

/// The programs under measurement.
#[derive(Debug, Clone)]
pub struct Programs {
    folder: PathBuf,
    static_agent: Option<PathBuf>,
}

impl Programs {
    /// `folder`: by default that of the running program.
    pub fn new(folder: Option<PathBuf>, static_agent: Option<PathBuf>) -> Result<Self> {
        let own = std::env::current_exe()?;
        let folder = match folder {
            Some(folder) => folder,
            None => own.parent().context("this program is in no folder")?.to_owned(),
        };
        Ok(Self { folder, static_agent })
    }

    pub fn agent_link(&self) -> AgentLink {
        match self.static_agent {
            Some(_) => AgentLink::Static,
            None => AgentLink::Dynamic,
        }
    }

    pub fn get(&self, name: &str) -> Result<PathBuf> {
        let path = match &self.static_agent {
            Some(agent) if name == "hostagent" => agent.clone(),
            Some(_) | None => self.folder.join(name),
        };
        ensure!(
            path.is_file(),
            "{} does not exist: build it (cargo build --release -p {name}), or name its folder with --programs",
            path.display()
        );
        Ok(path)
    }
}

/// The address in `http://ADDRESS`, from a line of a log.
pub fn address(url: &str) -> Result<SocketAddr> {
    // A log of JSON lines has a quote after it.
    let address = url
        .trim_start_matches("http://")
        .split('"')
        .next()
        .unwrap_or_default()
        .trim();
    address
        .parse()
        .with_context(|| format!("{url:?} is not an address"))
}
