//! The package stage: fetch and verify, check, note what undo needs, then one transaction of the package manager. The same
//! forward and back.

mod work;
mod record;

use std::collections::BTreeMap;
use std::time::Duration;

use host::{ApplyError, Cancel, HostError};
use protocol::{AppName, Category, Phase};

use super::converge::{Convergence, Direction, End, blocked};
use super::failure::{Failure, Failures};
use super::observe::{Observed, SELF_APP};
use super::plan::{Install, PackageAction, Step};
use super::progress::{Change, Event, Progress, Unfinished};
use super::signals::{Interrupt, Signal, Signals};
use super::{Engine, stage, undo};
use record::Arriving;
pub use work::{PackageWork, Removal, change_packages};

/// How long to wait between two looks at the package manager's lock.
const LOCK_RETRY: Duration = Duration::from_secs(2);

type PackageSteps<'a> = &'a [Step<PackageAction>];

impl Convergence<'_> {
    pub(super) async fn change_packages(
        &mut self,
        steps: PackageSteps<'_>,
        observed: &Observed,
        signals: &mut Signals,
    ) -> Result<(), End> {
        if self.direction == Direction::Forward && self.heal_if_needed(observed, signals).await? {
            return Ok(());
        }
        let cancel = Cancel::default();
        let mut work = self.stage(steps, observed, signals, &cancel).await?;
        if self.direction == Direction::Forward {
            self.check(&mut work, observed, Refused::No).await?;
            self.adopt(steps, &work, observed).map_err(blocked)?;
        }
        loop {
            if work.is_empty() {
                return Ok(());
            }
            let begun = self.begin_package_change(&work, observed, &cancel).await?;
            self.stop_for_removal(steps, &work).await;
            match self.transact(&work, observed, signals).await? {
                Transacted::Done => return Ok(()),
                Transacted::Refused(error) if self.direction == Direction::Back => {
                    let apps: Vec<AppName> = work.apps().cloned().collect();
                    let failure = Failure::new(Phase::Rollback, error);
                    return self.fail_back(apps.into_iter().map(|app| (app, failure.clone())));
                }
                // Nothing was touched. Which of them do not fit is found out, and the others go on.
                Transacted::Refused(error) => {
                    let withdrawn = begun
                        .into_iter()
                        .map(|(app, before)| (app, Event::Withdrawn { before }));
                    self.book.record(withdrawn).map_err(blocked)?;
                    self.check(&mut work, observed, Refused::Whole(error)).await?;
                }
            }
        }
    }

    /// What a killed package manager left is healed once per attempt, before anything else is done. True: observe again.
    async fn heal_if_needed(&mut self, observed: &Observed, signals: &mut Signals) -> Result<bool, End> {
        if self.healed || !observed.packages.iter().any(|(_, package)| package.broken) {
            return Ok(false);
        }
        self.converging("healing half-installed packages");
        match self.engine.host.packages.heal().await {
            Ok(()) => {
                tracing::warn!("half-installed packages were healed, as far as the package manager can")
            }
            // Then it is not a leftover, but a package manager at work.
            Err(error) if error.category == Category::Locked => {
                self.wait_for_lock(&error, signals).await?;
                self.begin_passes_anew();
                return Ok(true);
            }
            // The package that cannot be healed fails by its own name.
            Err(error) => tracing::warn!("cannot heal half-installed packages: {error}"),
        }
        self.healed = true;
        self.begin_passes_anew();
        Ok(true)
    }

    /// Until it is worth another try; `Err`: interrupted.
    async fn wait_for_lock(&self, error: &HostError, signals: &mut Signals) -> Result<(), End> {
        self.converging(error.message.clone());
        // What ends this wait: the next try, a question, and an interrupt.
        let signal = tokio::select! {
            () = tokio::time::sleep(LOCK_RETRY) => return Ok(()),
            signal = signals.asked_or_interrupted(self.desired) => signal,
        };
        match (signal, self.direction) {
            (Signal::Question(question), _) => self.answer(question, signals).await,
            (Signal::Interrupt(Interrupt::Superseded), Direction::Back) => {
                tokio::time::sleep(LOCK_RETRY).await;
                Ok(())
            }
            (Signal::Interrupt(interrupt), _) => Err(interrupt.into()),
            (Signal::Wake, _) => Ok(()),
        }
    }

    /// Fetches and verifies. What fails drops out, and what it was to replace stays.
    async fn stage(
        &mut self,
        steps: PackageSteps<'_>,
        observed: &Observed,
        signals: &mut Signals,
        cancel: &Cancel,
    ) -> Result<PackageWork, End> {
        let mut work = PackageWork::removals_of(steps);
        let installs: Vec<(AppName, Install)> = steps
            .iter()
            .filter_map(|step| match &step.action {
                PackageAction::Install(install) => Some((step.app.clone(), install.clone())),
                PackageAction::Adopt { .. }
                | PackageAction::StopForRemoval { .. }
                | PackageAction::Remove { .. } => None,
            })
            .collect();
        if installs.is_empty() {
            return Ok(work);
        }
        let names: Vec<&str> = installs.iter().map(|(app, _)| app.as_str()).collect();
        self.converging(format!("downloading {}", names.join(", ")));
        let records = self.engine.ledger.records();
        let staging = stage::stage(&self.engine.host, &installs, &records, cancel);
        tokio::pin!(staging);
        let outcome = if self.direction == Direction::Back {
            // From this host alone.
            staging.await
        } else {
            // Downloads go on by themselves while a question is answered.
            let ended = loop {
                let signal = tokio::select! {
                    outcome = &mut staging => break Ok(outcome),
                    signal = signals.asked_or_interrupted(self.desired) => signal,
                };
                let answered = match signal {
                    Signal::Question(question) => self.answer(question, signals).await,
                    Signal::Interrupt(interrupt) => Err(interrupt.into()),
                    Signal::Wake => Ok(()),
                };
                if let Err(end) = answered {
                    break Err(end);
                }
            };
            match ended {
                Ok(outcome) => outcome,
                Err(end) => {
                    cancel.set();
                    staging.await;
                    return Err(end);
                }
            }
        };
        self.fail_in_direction(outcome.failures, observed)?;
        work.installs = outcome.staged;
        self.drop_failed(&mut work);
        Ok(work)
    }

    /// What has failed by now, or with another, is left as it is.
    fn drop_failed(&self, work: &mut PackageWork) {
        let goes_on = |app: &AppName| match self.direction {
            Direction::Back => matches!(self.book.get(app), Some(Progress::RollingBack { .. })),
            Direction::Forward => self.may_go_forward(app),
        };
        work.retain(goes_on);
    }

    /// The package manager's own dry run, where it is not part of the transaction, or that has refused all of them together.
    /// Applications are then added one by one to those that pass, so that what depends on one another stays together.
    async fn check(
        &mut self,
        work: &mut PackageWork,
        observed: &Observed,
        refused: Refused,
    ) -> Result<(), End> {
        let packages = self.engine.host.packages.clone();
        let error = match &refused {
            Refused::Whole(error) => error.clone(),
            Refused::No if work.is_empty() => return Ok(()),
            Refused::No if packages.refuses_untouched() && work.removals.is_empty() => return Ok(()),
            Refused::No => match work::simulate(&*packages, &work.transaction()).await {
                Ok(_) => return Ok(()),
                // To apply waits for the lock; the dry run is not worth a wait of its own.
                Err(error) if error.category == Category::Locked => return Ok(()),
                Err(error) => error,
            },
        };
        let is_refused = matches!(refused, Refused::Whole(_));
        let mut failures = work::failing_in_simulation(&*packages, work, error.clone()).await;
        if failures.is_empty() && is_refused {
            // The run refuses what the dry run does not: nobody can be told apart.
            failures = work.apps().map(|app| (app.clone(), error.clone())).collect();
        }
        let failures = failures
            .into_iter()
            .map(|(app, error)| (app, Failure::new(Phase::Check, error)));
        self.fail_all(failures.collect::<Vec<_>>(), observed)?;
        self.drop_failed(work);
        Ok(())
    }

    /// What undo needs is durable when it returns. Gives those whose change has begun just now, with what they were.
    async fn begin_package_change(
        &mut self,
        work: &PackageWork,
        observed: &Observed,
        cancel: &Cancel,
    ) -> Result<BTreeMap<AppName, Option<Box<Progress>>>, End> {
        let mut begun = BTreeMap::new();
        let mut events = Vec::new();
        for app in work.apps().filter(|app| self.is_change(app)) {
            if !matches!(self.book.get(app), Some(Progress::Applying { .. })) {
                begun.insert(app.clone(), self.book.get(app).cloned().map(Box::new));
            }
            let unfinished = Unfinished {
                in_transaction: true,
                outdated: instances(observed, app),
            };
            let change = self.new_change(app, work, observed, unfinished, cancel).await?;
            events.push((app.clone(), Event::Begin(Box::new(change))));
        }
        if !events.is_empty() {
            self.book.record(events).map_err(blocked)?;
        }
        let repaired: Vec<&AppName> = work.apps().filter(|app| !self.is_change(app)).collect();
        for app in repaired {
            let outdated = instances(observed, app);
            self.book
                .update(&[app], |progress| {
                    if let Some(unfinished) = progress.unfinished_mut() {
                        unfinished.in_transaction = true;
                        unfinished.outdated.extend(outdated.clone());
                    }
                })
                .map_err(blocked)?;
        }
        Ok(begun)
    }

    async fn new_change(
        &self,
        app: &AppName,
        work: &PackageWork,
        observed: &Observed,
        unfinished: Unfinished,
        cancel: &Cancel,
    ) -> Result<Change, End> {
        let engine = self.engine;
        let records = engine.ledger.records();
        let settled = self.book.get(app).and_then(Progress::settled_spec);
        let before = undo::before_package_change(
            &engine.host,
            observed,
            &records,
            app,
            &work.installs,
            settled,
            cancel,
        );
        let before = before
            .await
            .map_err(|error| blocked(Failure::new(Phase::Check, error)))?;
        Ok(self.change_of(app, before, unfinished))
    }

    /// A failure does not stop the removal, whose own scripts may fare better.
    async fn stop_for_removal(&self, steps: PackageSteps<'_>, work: &PackageWork) {
        for step in steps {
            if let PackageAction::StopForRemoval { service } = &step.action
                && work.removals.iter().any(|removal| removal.app == step.app)
                && let Err(error) = self.engine.host.services.stop(service).await
            {
                tracing::warn!(app = %step.app, "cannot stop {service} of {} before its removal: {error}", step.app);
            }
        }
    }

    async fn transact(
        &mut self,
        work: &PackageWork,
        observed: &Observed,
        signals: &mut Signals,
    ) -> Result<Transacted, End> {
        let detail = work.describe();
        tracing::info!("{detail}");
        if self.direction == Direction::Forward {
            let arriving = work.installs.iter().map(Arriving::from).collect();
            record::provenance(&self.engine.host, &self.engine.ledger, arriving)
                .await
                .map_err(blocked)?;
            self.guard_own_upgrade(work).await.map_err(blocked)?;
        }
        let mut failures = Failures::new();
        loop {
            self.converging(detail.clone());
            match change_packages(&self.engine.host, work, &mut failures, self.direction).await {
                Ok(()) => break,
                Err(ApplyError::Locked(error)) => self.wait_for_lock(&error, signals).await?,
                Err(ApplyError::Refused(error)) => return Ok(Transacted::Refused(error)),
                Err(ApplyError::Failed(error)) => {
                    return Err(blocked(Failure::new(Phase::Install, error)));
                }
            }
        }
        let whole: Vec<&AppName> = work.apps().filter(|app| !failures.contains_key(*app)).collect();
        self.book.note_in_memory(&whole, |progress| {
            if let Some(unfinished) = progress.unfinished_mut() {
                unfinished.in_transaction = false;
            }
        });
        // In one step: killed between the two, the agent would take a failed package for a good one.
        self.fail_in_direction(failures, observed)?;
        if let Err(error) = self.engine.host.services.reread_units().await {
            tracing::warn!("the init system cannot reload its units: {error}");
        }
        for app in work.apps() {
            self.engine.observer.forget_config(app);
        }
        Ok(Transacted::Done)
    }

    async fn guard_own_upgrade(&self, work: &PackageWork) -> Result<(), crate::state_file::StateFileError> {
        let own = work.installs.iter().find(|staged| staged.package() == SELF_APP);
        let change = own.and_then(|own| Some((&own.app, self.book.get(&own.app)?.change()?)));
        match (&self.engine.guard, change) {
            (Some(guard), Some((app, change))) => guard.arm(app, change).await,
            (None, _) | (_, None) => Ok(()),
        }
    }
}

/// Whether the package manager has refused a transaction.
enum Refused {
    No,
    Whole(HostError),
}

enum Transacted {
    Done,
    /// Nothing was touched.
    Refused(HostError),
}

/// Services of `app` that run now.
fn instances(observed: &Observed, app: &AppName) -> BTreeMap<String, Option<u64>> {
    observed
        .apps
        .get(app)
        .map(|there| there.running_instances())
        .unwrap_or_default()
}

/// Waits as long as somebody else holds the package manager's lock.
pub async fn with_lock<F>(change: impl Fn() -> F) -> Result<(), HostError>
where
    F: Future<Output = Result<(), HostError>>,
{
    loop {
        match change().await {
            Err(error) if error.category == Category::Locked => tokio::time::sleep(LOCK_RETRY).await,
            result => return result,
        }
    }
}

/// Undoes the package part of `change`, for the guard of the agent's own upgrade: the agent that comes back does the rest.
pub async fn undo_package(engine: &Engine, app: &AppName, change: &Change) -> Result<(), HostError> {
    work::undo_package(engine, app, change).await
}
