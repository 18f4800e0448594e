//! Runs of a package manager.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use protocol::Category;

use super::{lock, messages};
use crate::command::{Command, CommandError, Exit, Output, OwnUnits};
use crate::{EarlierRuns, HostError};

/// The output of a query. Its failure is transient and not caused by a package: [`Category::Host`].
pub(super) async fn ask(query: &Command) -> Result<String, HostError> {
    match query.run().await {
        Ok(output) => Ok(output.stdout_text()),
        Err(error) => Err(HostError::new(Category::Host, error.to_string()).with_source(error)),
    }
}

/// A failed run.
#[derive(Debug)]
pub(super) struct FailedRun {
    pub error: HostError,
    /// What the package manager printed on stderr.
    pub said: String,
    /// And on stdout.
    pub printed: String,
    /// By its output, the package manager ended before it changed anything.
    pub touched_nothing: bool,
    /// It was neither killed nor lost.
    pub ended_by_itself: bool,
}

impl FailedRun {
    /// Not even started.
    pub(super) fn before_start(error: HostError) -> Self {
        Self {
            error,
            said: String::new(),
            printed: String::new(),
            touched_nothing: true,
            ended_by_itself: true,
        }
    }
}

impl FailedRun {
    /// Names the process that holds one of these locks.
    pub(super) fn naming_holder(mut self, locks: &[PathBuf]) -> Self {
        if self.error.category == Category::Locked
            && let Some(holder) = lock::holder(locks)
        {
            self.error.message = format!("waiting for the package lock, which {holder} holds");
        }
        self
    }
}

impl From<FailedRun> for HostError {
    fn from(failed: FailedRun) -> Self {
        failed.error
    }
}

/// Runs `command` to its end, even if the caller is dropped: an interrupted run leaves broken
/// packages. `doing`: for the error message.
pub(super) async fn run(command: Command, doing: &str) -> Result<Output, FailedRun> {
    let output = command.run_to_end().await.map_err(|error| {
        let touched_nothing = matches!(error, CommandError::Start { .. });
        let error = match &error {
            CommandError::TimedOut { deadline, output, .. } => HostError::new(
                Category::Timeout,
                format!(
                    "{doing} did not end within {deadline:?} and was killed; a maintainer script may hang: {output}"
                ),
            )
            .with_source(error),
            _ => HostError::from(error),
        };
        FailedRun {
            error,
            said: String::new(),
            printed: String::new(),
            touched_nothing,
            ended_by_itself: false,
        }
    })?;
    if let Exit::Signal(signal) = output.exit {
        let message = format!(
            "{doing} failed: the package manager was killed by signal {signal}. See the system's log for what killed \
             it (the OOM killer, an operator)"
        );
        return Err(FailedRun {
            error: HostError::new(Category::Host, message),
            said: output.stderr_text(),
            printed: output.stdout_text(),
            touched_nothing: false,
            ended_by_itself: false,
        });
    }
    let (stdout, stderr) = (output.stdout_text(), output.stderr_text());
    // rpm ends with exit code 0 although a script that runs after the change has failed.
    if output.success() && messages::failed_scripts(&stderr).next().is_none() {
        return Ok(output);
    }
    let error = messages::diagnose(doing, &stdout, &stderr);
    Err(FailedRun {
        touched_nothing: messages::touched_nothing(error.category, &stdout, &stderr),
        error,
        said: stderr,
        printed: stdout,
        ended_by_itself: true,
    })
}

/// Runs `removal`, then `install`; in the other order if something depends on a removed package
/// until the installation has replaced it.
pub(super) async fn run_in_turn(
    removal: Option<Command>,
    install: Option<Command>,
    doing: &str,
) -> Result<(), FailedRun> {
    match (removal, install) {
        (None, None) => Ok(()),
        (Some(only), None) | (None, Some(only)) => run(only, doing).await.map(|_| ()),
        (Some(removal), Some(install)) => match run(removal.clone(), doing).await {
            Ok(_) => run(install, doing).await.map(|_| ()),
            Err(failed) if failed.error.category == Category::Dependency => {
                run(install, doing).await?;
                run(removal, doing).await.map(|_| ())
            }
            Err(failed) => Err(failed),
        },
    }
}

/// See [`crate::Packages::works_alone`].
pub(super) async fn work_alone(units: Option<&Arc<OwnUnits>>) {
    match units {
        Some(units) => units.wait_until_running().await,
        None => std::future::pending().await,
    }
}

/// See [`crate::Packages::earlier_runs_end`].
pub(super) async fn earlier_end(
    units: Option<&Arc<OwnUnits>>,
    deadline: Duration,
) -> Result<EarlierRuns, HostError> {
    let Some(units) = units else {
        return Ok(EarlierRuns::None);
    };
    let outputs = units.wait_for_orphans(deadline).await?;
    let well = |output: &Option<Output>| {
        let output = output.as_ref();
        output.is_some_and(|output| {
            output.success() && messages::failed_scripts(&output.stderr_text()).next().is_none()
        })
    };
    Ok(match outputs.as_slice() {
        [] => EarlierRuns::None,
        all if all.iter().all(well) => EarlierRuns::Succeeded,
        _ => EarlierRuns::Failed,
    })
}

/// See [`crate::Packages::forget_earlier_runs`].
pub(super) async fn forget_earlier(units: Option<&Arc<OwnUnits>>) -> Result<(), HostError> {
    match units {
        Some(units) => Ok(units.remove_orphans().await?),
        None => Ok(()),
    }
}
