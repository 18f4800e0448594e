//! A turn of the loop while something is being rolled back.

use std::time::Duration;

use host::HostError;
use protocol::{AppName, Phase};

use super::passes::Stage;
use super::{Convergence, End, Turn, blocked};
use crate::engine::failure::Failure;
use crate::engine::observe::Observed;
use crate::engine::packages::with_lock;
use crate::engine::plan::{self, Targets};
use crate::engine::progress::{Change, Event, Progress};
use crate::engine::signals::Signals;
use crate::engine::snapshot::{Before, Snapshot};
use crate::engine::target::Target;

impl Convergence<'_> {
    pub(super) async fn turn_back(
        &mut self,
        observed: &mut Observed,
        signals: &mut Signals,
    ) -> Result<Turn, End> {
        let targets = self.undo_targets();
        let files = targets.values().filter_map(|target| match target {
            Target::Present(target) => Some(target.files.iter().map(|file| file.path.as_path())),
            Target::Absent => None,
        });
        observed.look_at_files(files.flatten());
        let plan = plan::plan(&targets, observed, self.family());
        self.begins(observed, "about to roll back");
        let mut obstacles: Vec<(AppName, Failure)> = Vec::new();
        for fault in &plan.faults {
            let failure = Failure {
                phase: fault.phase,
                category: fault.category,
                message: fault.message.clone(),
            };
            obstacles.push((fault.app.clone(), failure));
        }
        let done: Vec<AppName> = targets
            .keys()
            .filter(|app| !plan.has_steps_for(app))
            .cloned()
            .collect();
        if !obstacles.is_empty() {
            self.fail_back(obstacles)?;
            return Ok(Turn::Again);
        }
        if !done.is_empty() {
            for app in done {
                self.finish_rollback(&app, observed).await?;
            }
            return Ok(Turn::Again);
        }
        let Some(stage) = Stage::first_of(&plan) else {
            return Ok(Turn::Again);
        };
        let names: Vec<&str> = targets.keys().map(AppName::as_str).collect();
        self.converging(format!("rolling back {}", names.join(", ")));
        let given_up = self.passes.count(stage, &plan, observed);
        if !given_up.is_empty() {
            self.fail_back(given_up)?;
            return Ok(Turn::Again);
        }
        match stage {
            Stage::Packages => self.change_packages(&plan.packages, observed, signals).await?,
            Stage::Settle => self.settle(&plan.settle, &targets, observed, signals).await?,
            Stage::Restart => self.restart(&plan.restarts, &targets, observed, signals).await?,
        }
        Ok(Turn::Again)
    }

    fn undo_targets(&self) -> Targets {
        let back = self
            .book
            .apps()
            .iter()
            .filter_map(|(app, progress)| match progress {
                Progress::RollingBack { change, .. } => Some((app.clone(), Target::undo(change))),
                Progress::Settled { .. }
                | Progress::Repairing { .. }
                | Progress::Applying { .. }
                | Progress::Baking { .. }
                | Progress::Held { .. }
                | Progress::Stuck { .. } => None,
            });
        back.collect()
    }

    /// Nothing is left to undo for `app`: it is as it was, if its health checks pass.
    async fn finish_rollback(&mut self, app: &AppName, observed: &Observed) -> Result<(), End> {
        let Some(Progress::RollingBack { change, .. }) = self.book.get(app).cloned() else {
            return Ok(());
        };
        let result = match &change.before {
            Before::Absent { purge } => {
                self.purge(app, purge.as_deref()).await;
                Ok(())
            }
            Before::Installed(before) => self.finish_restored(app, before).await,
        };
        self.engine.observer.forget_config(app);
        self.passes.forget(app);
        match result {
            Ok(()) => self.note_undone(app, &change, observed),
            Err(error) => self.fail_back([(app.clone(), Failure::new(Phase::Rollback, error))]),
        }
    }

    fn note_undone(&mut self, app: &AppName, change: &Change, observed: &Observed) -> Result<(), End> {
        match change.desired == self.digest {
            true => tracing::warn!(%app, "{app} is rolled back"),
            false => tracing::info!(%app, "{app} is rolled back; something else is desired by now"),
        }
        let event = Event::Undone {
            digest: self.digest.clone(),
            inputs: self.inputs(app, observed),
        };
        self.book.record([(app.clone(), event)]).map_err(blocked)?;
        self.schedule_retries(&[app.clone()].into());
        Ok(())
    }

    /// The application is gone; its leftovers are no reason to say that it is not.
    async fn purge(&self, app: &AppName, package: Option<&str>) {
        if let Some(package) = package
            && let Err(error) = with_lock(|| self.engine.host.packages.purge(package)).await
        {
            tracing::warn!(%app, "cannot delete configuration files of {app} that were not there before: {error}");
        }
    }

    async fn finish_restored(&self, app: &AppName, before: &Snapshot) -> Result<(), HostError> {
        let (host, ledger) = (&self.engine.host, &self.engine.ledger);
        with_lock(|| host.packages.keep(&before.package)).await?;
        ledger
            .change_records(|records| {
                if let Some(record) = before.record.clone() {
                    records.insert(app.clone(), record);
                }
            })
            .map_err(|error| HostError::new(protocol::Category::Host, error.to_string()))?;
        // What is not to run cannot pass checks.
        if before.services.is_empty() || before.services.values().any(|was| was.running) {
            host.app_config
                .stays_healthy(app, &before.package, Duration::ZERO)
                .await?;
        }
        Ok(())
    }
}
