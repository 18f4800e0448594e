//! SysV scripts under `etc/init.d`, which answer with LSB exit codes
//! (<https://refspecs.linuxfoundation.org/LSB_5.0.0/LSB-Core-generic/LSB-Core-generic/iniscrptact.html>).
//!
//! Each question costs a process, so answers are cached: until this agent changes the service, or
//! until a caller asks for a `fresh` one (a ping, a heartbeat) and the cached one is older than
//! [`FRESH_FOR`].

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use protocol::Category;

use super::{ServiceChanges, check_name, scripts_in};
use crate::command::{Command, Exit, Output, Overflow, Runner};
use crate::{HostError, Root, ServiceState, Services};

mod boot_links;

use boot_links::BootLinks;

const SCRIPTS: &str = "/etc/init.d";
/// A younger answer counts as fresh.
const FRESH_FOR: Duration = Duration::from_secs(5);
/// For a `status` of a script.
const STATUS_DEADLINE: Duration = Duration::from_secs(30);
/// For any other action: large Java applications start for minutes.
const ACTION_DEADLINE: Duration = Duration::from_secs(300);
/// A script whose `status` has hung is not asked again sooner: it may take its whole deadline.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// Only errors quote the output of a script.
const OUTPUT_CAP: usize = 64 * 1024;
/// The root, for scripts in a sandbox.
const ROOT_VARIABLE: &str = "BACKBONE_ROOT";

/// The scripts of one host or sandbox.
pub struct SysV {
    root: Root,
    boot_links: BootLinks,
    answers: Mutex<HashMap<String, CachedAnswer>>,
}

#[derive(Debug, Clone)]
struct CachedAnswer {
    /// An error: the script cannot tell.
    running: Result<bool, HostError>,
    at: Instant,
}

impl CachedAnswer {
    fn is_valid(&self, fresh: bool) -> bool {
        match (&self.running, fresh) {
            (Ok(_), false) => true,
            (Ok(_), true) => self.at.elapsed() <= FRESH_FOR,
            (Err(error), _) => error.category == Category::Timeout && self.at.elapsed() <= ASK_AGAIN,
        }
    }
}

/// The answer of `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LsbStatus {
    Running,
    NotRunning,
    /// The script does not know, or its exit code is not one of LSB's.
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

    /// Runs the tools that change links; not given: the agent does.
    pub fn runner(self, runner: Option<&Arc<Runner>>) -> Self {
        Self {
            boot_links: BootLinks::new(&self.root, runner),
            ..self
        }
    }

    /// The age of the cached answer for `service`; `None`: there is none.
    pub fn answer_age(&self, service: &str) -> Option<Duration> {
        self.lock().get(service).map(|answer| answer.at.elapsed())
    }

    /// Whether `service` starts at boot; read from its links, without a process.
    pub(super) fn is_enabled(&self, service: &str) -> Result<bool, HostError> {
        self.boot_links.is_enabled(service)
    }

    async fn ask_if_running(&self, service: &str) -> Result<bool, HostError> {
        let command = self.command(service, "status");
        let output = command.run_any_exit().await.map_err(|error| HostError {
            message: format!("cannot tell whether service {service} is running: {error}"),
            ..error.into()
        })?;
        match status_of(output.exit) {
            LsbStatus::Running => Ok(true),
            LsbStatus::NotRunning => Ok(false),
            LsbStatus::Unknown => Err(HostError::new(
                Category::Script,
                format!(
                    "cannot tell whether service {service} is running: {}. LSB status codes are 0 (running) and \
                     1, 2, 3 (not running); fix the script",
                    command.failure(&output)
                ),
            )),
        }
    }

    /// Runs the script to its end even if the future is dropped: half a start is worse than a late
    /// one.
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
            .deadline(match action {
                "status" => STATUS_DEADLINE,
                _ => ACTION_DEADLINE,
            })
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

    // Every holder leaves the map consistent, so a panic elsewhere does no harm.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, CachedAnswer>> {
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
        let cached = self.lock().get(service).cloned();
        let running = match cached {
            Some(answer) if answer.is_valid(fresh) => answer.running,
            Some(_) | None => {
                // The answer is as old as the question: it misses a change in between.
                let at = Instant::now();
                let running = self.ask_if_running(service).await;
                let answer = CachedAnswer {
                    running: running.clone(),
                    at,
                };
                self.lock().insert(service.to_owned(), answer);
                running
            }
        }?;
        let enabled = Some(self.is_enabled(service)?);
        Ok(Some(ServiceState {
            running,
            enabled,
            instance: None,
            masked: false,
        }))
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
            // If the reload falls back to a restart, that would start the service.
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

    fn has_unit_files(&self) -> bool {
        false
    }

    /// Scripts are read at each run. But a package may have stopped or started its services.
    async fn reread_units(&self) -> Result<(), HostError> {
        self.lock().clear();
        Ok(())
    }

    fn services_in(&self, files: &[PathBuf]) -> BTreeSet<String> {
        scripts_in(files)
    }

    fn changes(&self) -> Option<Arc<ServiceChanges>> {
        None
    }
}

fn status_of(exit: Exit) -> LsbStatus {
    match exit {
        Exit::Code(0) => LsbStatus::Running,
        // Dead with a pid file, dead with a lock file, not running.
        Exit::Code(1..=3) => LsbStatus::NotRunning,
        Exit::Code(_) | Exit::Signal(_) => LsbStatus::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R02: a script that hangs costs its whole deadline.
    #[test]
    fn a_status_that_hangs_is_asked_again_only_after_a_while() {
        let failed = |category| Err(HostError::new(category, "cannot tell"));
        let table = [
            (Ok(true), 30, false, true),
            (Ok(true), 30, true, false),
            (Ok(true), 1, true, true),
            (failed(Category::Timeout), 30, true, true),
            (failed(Category::Timeout), 61, true, false),
            (failed(Category::Script), 1, false, false),
        ];
        for (running, age_s, fresh, valid) in table {
            let at = Instant::now() - Duration::from_secs(age_s);
            let answer = CachedAnswer { running, at };
            assert_eq!(answer.is_valid(fresh), valid, "{answer:?} {age_s} {fresh}");
        }
    }

    #[test]
    fn lsb_status_codes() {
        let table = [
            (Exit::Code(0), LsbStatus::Running),
            (Exit::Code(1), LsbStatus::NotRunning),
            (Exit::Code(2), LsbStatus::NotRunning),
            (Exit::Code(3), LsbStatus::NotRunning),
            (Exit::Code(4), LsbStatus::Unknown),
            (Exit::Code(127), LsbStatus::Unknown),
            (Exit::Signal(9), LsbStatus::Unknown),
        ];
        for (exit, status) in table {
            assert_eq!(status_of(exit), status, "{exit}");
        }
    }
}
