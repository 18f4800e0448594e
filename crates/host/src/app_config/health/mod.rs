//! Health checks of an application's manifest: whether it works, whatever the states of its
//! services.
//!
//! Keeps no state. Dropping a check's future ends the check: its process is killed, its connection
//! closed.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use protocol::{AppName, Category};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::hook::lines_for_operator;
use super::manifest::{HealthCheck, Probe};
use crate::command::{Command, Leftovers, Overflow, Runner};
use crate::download::{describe, tls_config};
use crate::paths::{check_trust, find};
use crate::{HostError, Root};
use protocol::without_credentials;

/// For each of a program's stdout and stderr.
const OUTPUT_CAP: usize = 64 * 1024;

/// Runs checks on the host under `root`.
#[derive(Clone, Copy)]
pub struct Checker<'h> {
    pub root: &'h Root,
    /// Runs programs; `None`: the agent does.
    pub runner: Option<&'h Arc<Runner>>,
}

impl Checker<'_> {
    /// Runs each check once, all in parallel.
    pub async fn is_healthy(self, app: &AppName, checks: &[HealthCheck]) -> Result<(), HostError> {
        let once = checks.iter().map(async |check| {
            self.probe(check)
                .await
                .map_err(|found| unhealthy(app, check, 1, &found))
        });
        try_join_all(once).await.map(drop)
    }

    /// Runs each check at once, at its interval, and once more at the end of `period`, all in
    /// parallel. Fails as soon as one has failed too often in a row.
    ///
    /// Succeeds only with a pass of every check: if the last one before the end of `period` has
    /// failed, it continues at its interval until it passes or has failed too often.
    pub async fn stays_healthy(
        self,
        app: &AppName,
        checks: &[HealthCheck],
        period: Duration,
    ) -> Result<(), HostError> {
        let end = Instant::now() + period;
        let watches = checks
            .iter()
            .map(|check| watch(app, check, end, || self.probe(check)));
        try_join_all(watches).await.map(drop)
    }

    /// Runs a check once. The error says what was found instead.
    async fn probe(self, check: &HealthCheck) -> Result<(), String> {
        match &check.probe {
            Probe::Exec { command } => exec(self, command, check.timeout).await,
            Probe::Http { url, status } => http(url, *status, check.timeout).await,
            Probe::Tcp { address } => tcp(address, check.timeout).await,
        }
    }
}

async fn watch<F: Future<Output = Result<(), String>>>(
    app: &AppName,
    check: &HealthCheck,
    end: Instant,
    probe: impl Fn() -> F,
) -> Result<(), HostError> {
    let mut failures = 0;
    loop {
        let started = Instant::now();
        let next = match probe().await {
            Ok(()) if started >= end => return Ok(()),
            Ok(()) => {
                failures = 0;
                (started + check.interval).min(end)
            }
            Err(found) => {
                failures += 1;
                if failures >= check.retries {
                    return Err(unhealthy(app, check, failures, &found));
                }
                tracing::info!(%app, failures, allowed = check.retries, found, "a health check failed");
                // Not sooner, even if the period ends: retries and interval give it its time.
                started + check.interval
            }
        };
        tokio::time::sleep_until(next).await;
    }
}

/// Names the check, what was expected and found, and what to do.
fn unhealthy(app: &AppName, check: &HealthCheck, failures: u32, found: &str) -> HostError {
    let often = match failures {
        1 => String::new(),
        _ => format!(" {failures} times in a row"),
    };
    let (kind, expected, hint) = match &check.probe {
        Probe::Exec { .. } => ("exec", "exit code 0".to_owned(), "Run it by hand".to_owned()),
        Probe::Http { url, status } => (
            "http",
            match status {
                Some(status) => format!("status {status}"),
                None => "a 2xx status".to_owned(),
            },
            format!("Try `curl -v {}` on the host", without_credentials(url)),
        ),
        Probe::Tcp { .. } => (
            "tcp",
            "an accepted connection".to_owned(),
            "See what listens on the host with `ss -ltnp`".to_owned(),
        ),
    };
    let message = format!(
        "the {kind} health check of {app} failed{often}: expected {expected}, but {found}. {hint}, and read the \
         log of {app}'s services"
    );
    HostError::new(Category::Unhealthy, message)
}

async fn exec(checker: Checker<'_>, argv: &[String], timeout: Duration) -> Result<(), String> {
    let root = checker.root;
    let Some((program, arguments)) = argv.split_first() else {
        return Err("it names no program".to_owned());
    };
    let (real, metadata) = match find(root, Path::new(program)) {
        Ok(Some(found)) => found,
        Ok(None) => return Err(format!("there is no {program}")),
        Err(error) => return Err(format!("cannot read {program}: {error}")),
    };
    check_trust(root, &real, &metadata).map_err(|why| format!("the agent refuses to run it: {why}"))?;
    let command = match root.is_host() {
        // By the path in the manifest: some programs depend on it.
        true => Command::new(program),
        false => Command::new(real).env("BACKBONE_ROOT", root.path()),
    };
    let command = command
        .args(arguments)
        .deadline(timeout)
        .output_cap(OUTPUT_CAP, Overflow::KeepTail)
        .leftovers(Leftovers::Kill)
        .by_runner(checker.runner)
        // It may print the application's config, as a hook may.
        .secret_output();
    let output = command.run_any_exit().await.map_err(|error| error.to_string())?;
    if output.success() {
        return Ok(());
    }
    let failure = command.failure(&output);
    Err(match lines_for_operator(&output.stderr) {
        Some(lines) => format!("{failure}: {lines}"),
        None => failure.to_string(),
    })
}

async fn tcp(address: &str, timeout: Duration) -> Result<(), String> {
    match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("{address} accepted none: {error}")),
        Err(_) => Err(format!("{address} accepted none within {timeout:?}")),
    }
}

async fn http(url: &str, expected: Option<u16>, timeout: Duration) -> Result<(), String> {
    let shown = without_credentials(url);
    let request = tokio::time::timeout(timeout, get(url, timeout)).await;
    let status = request
        .unwrap_or_else(|_| Err(format!("no answer within {timeout:?}")))
        .map_err(|why| format!("{shown} gave no status: {why}"))?;
    let fine = match expected {
        Some(expected) => status == expected,
        None => (200..300).contains(&status),
    };
    match fine {
        true => Ok(()),
        false => Err(format!("{shown} answered with {status}")),
    }
}

/// The status of the answer. Reads no body, follows no redirect, and uses no proxy.
async fn get(url: &str, timeout: Duration) -> Result<u16, String> {
    let mut config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .user_agent(concat!("hostagent/", env!("CARGO_PKG_VERSION")))
        // Also ends the thread during a name lookup, where nothing else can.
        .timeout_global(Some(timeout))
        .max_idle_connections(0);
    if url
        .get(..6)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:"))
    {
        config = config.tls_config(tls_config(None, None).map_err(|error| error.message)?);
    }
    let agent = config.build().new_agent();
    // Ends the request of the thread when this future is dropped.
    let _ended_with_this = Shutdown(agent.clone());
    let request = agent.get(url);
    let call = move || match request.call() {
        Ok(answer) => Ok(answer.status().as_u16()),
        Err(ureq::Error::Timeout(_)) => Err(format!("no answer within {timeout:?}")),
        Err(error) => Err(describe(error)),
    };
    tokio::task::spawn_blocking(call)
        .await
        .unwrap_or_else(|_| Err("the request was interrupted".to_owned()))
}

struct Shutdown(ureq::Agent);

impl Drop for Shutdown {
    fn drop(&mut self) {
        self.0.clone().shutdown();
    }
}

#[cfg(test)]
mod tests;
