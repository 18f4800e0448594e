//! SysV scripts under `etc/init.d`, which answer with LSB exit codes
//! (<https://refspecs.linuxfoundation.org/LSB_5.0.0/LSB-Core-generic/LSB-Core-generic/iniscrptact.html>).
//!
//! Asking a script costs a process, so answers are kept: until this agent changes the service, or until
//! someone asks `fresh` (a ping, a heartbeat) and the answer is over [`FRESH_FOR`] old.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use protocol::Category;

use super::{check_name, scripts_in};
use crate::command::{Command, Exit, Output, Overflow, Runner};
use crate::{HostError, Root, ServiceState, Services};

mod boot_links;

use boot_links::BootLinks;

const SCRIPTS: &str = "/etc/init.d";
/// How old an answer may be to count as fresh.
const FRESH_FOR: Duration = Duration::from_secs(5);
/// For one run of a script.
const DEADLINE: Duration = Duration::from_secs(60);
/// What a script prints is quoted in errors only.
const OUTPUT_CAP: usize = 64 * 1024;
/// Tells scripts in a sandbox where they are.
const ROOT_VARIABLE: &str = "BACKBONE_ROOT";

/// The scripts of one host or sandbox.
pub struct SysV {
    root: Root,
    boot_links: BootLinks,
    answers: Mutex<HashMap<String, Answer>>,
}

#[derive(Debug, Clone, Copy)]
struct Answer {
    running: bool,
    at: Instant,
}

/// What `status` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Running,
    NotRunning,
    /// The script cannot tell, or this is no LSB answer.
    Unknown,
}

impl SysV {
    pub fn new(root: &Root) -> Self {
        Self {
            root: root.clone(),
            boot_links: BootLinks::new(root, None),
            answers: Mutex::default(),
        }
    }

    /// Starts what changes links; not given: the agent does.
    pub fn runner(self, runner: Option<&Arc<Runner>>) -> Self {
        Self {
            boot_links: BootLinks::new(&self.root, runner),
            ..self
        }
    }

    /// How old the kept answer for `service` is; `None`: there is none.
    pub fn answer_age(&self, service: &str) -> Option<Duration> {
        self.lock().get(service).map(|answer| answer.at.elapsed())
    }

    /// Whether `service` starts at boot, read from its links: no process.
    pub(super) fn is_enabled(&self, service: &str) -> Result<bool, HostError> {
        self.boot_links.is_enabled(service)
    }

    async fn ask_if_running(&self, service: &str) -> Result<bool, HostError> {
        let command = self.command(service, "status");
        let output = command.run_any_exit().await.map_err(|error| HostError {
            message: format!("cannot tell whether service {service} runs: {error}"),
            ..error.into()
        })?;
        match status_of(output.exit) {
            Status::Running => Ok(true),
            Status::NotRunning => Ok(false),
            Status::Unknown => Err(HostError::new(
                Category::Script,
                format!(
                    "cannot tell whether service {service} runs: {}. LSB allows 0 (runs) and 1, 2, 3 (does not \
                     run) as its answer; mend the script",
                    command.failure(&output)
                ),
            )),
        }
    }

    /// Runs the script to its end even if nobody waits any more: half a start is worse than a late one.
    async fn act(&self, service: &str, action: &'static str) -> Result<Output, HostError> {
        self.existing_script(service)?;
        self.forget(service);
        let output = self.command(service, action).run_to_end().await;
        self.forget(service);
        output.map_err(|error| HostError {
            message: format!("cannot {action} service {service}: {error}"),
            ..error.into()
        })
    }

    async fn act_and_expect_success(&self, service: &str, action: &'static str) -> Result<(), HostError> {
        let output = self.act(service, action).await?;
        match output.success() {
            true => Ok(()),
            false => Err(self.refused(service, action, &output)),
        }
    }

    fn refused(&self, service: &str, action: &str, output: &Output) -> HostError {
        let failure = self.command(service, action).failure(output);
        HostError::new(
            Category::Script,
            format!("cannot {action} service {service}: {failure}"),
        )
    }

    fn command(&self, service: &str, action: &str) -> Command {
        let command = Command::new(self.script(service))
            .arg(action)
            .deadline(DEADLINE)
            .output_cap(OUTPUT_CAP, Overflow::KeepTail);
        match self.root.is_host() {
            true => command,
            false => command.env(ROOT_VARIABLE, self.root.path()),
        }
    }

    fn script(&self, service: &str) -> PathBuf {
        self.root.join(SCRIPTS).join(service)
    }

    fn exists(&self, service: &str) -> Result<bool, HostError> {
        check_name(service)?;
        Ok(self.script(service).is_file())
    }

    fn existing_script(&self, service: &str) -> Result<(), HostError> {
        match self.exists(service)? {
            true => Ok(()),
            false => Err(HostError::new(
                Category::NotFound,
                format!(
                    "there is no service {service}: no file {}",
                    self.script(service).display()
                ),
            )),
        }
    }

    fn forget(&self, service: &str) {
        self.lock().remove(service);
    }

    // Each holder leaves the map whole, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Answer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Services for SysV {
    async fn state(&self, service: &str, fresh: bool) -> Result<Option<ServiceState>, HostError> {
        if !self.exists(service)? {
            self.forget(service);
            return Ok(None);
        }
        let kept = self.lock().get(service).copied();
        let running = match kept {
            Some(answer) if !fresh || answer.at.elapsed() <= FRESH_FOR => answer.running,
            Some(_) | None => {
                // The answer is as old as the question: what changes meanwhile is not in it.
                let at = Instant::now();
                let running = self.ask_if_running(service).await?;
                self.lock().insert(service.to_owned(), Answer { running, at });
                running
            }
        };
        let enabled = Some(self.is_enabled(service)?);
        Ok(Some(ServiceState {
            running,
            enabled,
            instance: None,
            masked: false,
        }))
    }

    fn retain_possible(&self, names: &mut BTreeSet<&str>) {
        let folder = std::fs::read_dir(self.root.join(SCRIPTS));
        let scripts = folder.and_then(|scripts| {
            let names = scripts.map(|script| script.map(|script| script.file_name()));
            names.collect::<Result<BTreeSet<_>, _>>()
        });
        match scripts {
            Ok(scripts) => names.retain(|name| scripts.contains(OsStr::new(name))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => names.clear(),
            // Each by itself says why the folder cannot be read.
            Err(_) => {}
        }
    }

    fn forget_answers(&self) {
        self.lock().clear();
    }

    async fn start(&self, service: &str) -> Result<(), HostError> {
        self.act_and_expect_success(service, "start").await
    }

    async fn stop(&self, service: &str) -> Result<(), HostError> {
        self.act_and_expect_success(service, "stop").await
    }

    async fn restart(&self, service: &str) -> Result<(), HostError> {
        self.act_and_expect_success(service, "restart").await
    }

    async fn reload(&self, service: &str) -> Result<(), HostError> {
        self.existing_script(service)?;
        if !self.ask_if_running(service).await? {
            // Where a reload falls back to a restart it would be a start.
            return Ok(());
        }
        let output = self.act(service, "reload").await?;
        match output.exit {
            Exit::Code(0) => Ok(()),
            // LSB: 2 is "invalid argument", 3 "unimplemented": the script knows no reload.
            Exit::Code(2 | 3) => self.restart(service).await,
            Exit::Code(_) | Exit::Signal(_) => Err(self.refused(service, "reload", &output)),
        }
    }

    async fn enable(&self, service: &str) -> Result<(), HostError> {
        self.existing_script(service)?;
        self.boot_links.enable(service).await
    }

    async fn disable(&self, service: &str) -> Result<(), HostError> {
        self.existing_script(service)?;
        self.boot_links.disable(service).await
    }

    /// Scripts are read at each run; but a package may have stopped or started what it changed.
    async fn reread_units(&self) -> Result<(), HostError> {
        self.lock().clear();
        Ok(())
    }

    fn services_in(&self, files: &[PathBuf]) -> BTreeSet<String> {
        scripts_in(files)
    }
}

fn status_of(exit: Exit) -> Status {
    match exit {
        Exit::Code(0) => Status::Running,
        // Dead with a pid file, dead with a lock file, not running.
        Exit::Code(1..=3) => Status::NotRunning,
        Exit::Code(_) | Exit::Signal(_) => Status::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsb_status_codes() {
        let table = [
            (Exit::Code(0), Status::Running),
            (Exit::Code(1), Status::NotRunning),
            (Exit::Code(2), Status::NotRunning),
            (Exit::Code(3), Status::NotRunning),
            (Exit::Code(4), Status::Unknown),
            (Exit::Code(127), Status::Unknown),
            (Exit::Signal(9), Status::Unknown),
        ];
        for (exit, status) in table {
            assert_eq!(status_of(exit), status, "{exit}");
        }
    }
}
