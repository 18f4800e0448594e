//! The package stage of an attempt: stage, check, journal, then one transaction of the package manager.

use std::sync::Arc;
use std::time::Duration;

use protocol::satisfied::version_satisfied;
use protocol::{AppName, Category, Phase};

use super::attempt::Attempt;
use super::{End, Interrupts, stuck};
use crate::engine::apply::{self, PackageWork, PackagesEnd, Removal};
use crate::engine::failure::{Failure, Failures};
use crate::engine::observe::{Observed, SELF_APP};
use crate::engine::plan::{Action, Step};
use crate::engine::stage;
use crate::ledger::Provenance;
use host::download::url_for_family;
use host::{Cancel, HostError, Packages, Transaction};

/// How long to wait between two looks at the package manager's lock.
const LOCK_RETRY: Duration = Duration::from_secs(2);

impl Attempt<'_> {
    pub(super) async fn change_packages(
        &mut self,
        steps: &[&Step],
        observed: &Arc<Observed>,
        interrupts: &mut Interrupts,
    ) -> Option<End> {
        self.try_change_packages(steps, observed, interrupts).await.err()
    }

    async fn try_change_packages(
        &mut self,
        steps: &[&Step],
        observed: &Arc<Observed>,
        interrupts: &mut Interrupts,
    ) -> Result<(), End> {
        if self.heal_if_needed(observed, interrupts).await? {
            return Ok(());
        }
        let cancel = Cancel::default();
        let mut work = self.stage(steps, interrupts, observed, &cancel).await?;
        self.check(&mut work).await?;
        // What dropped out, by itself or with another, is left as it is.
        work.installs
            .retain(|staged| !self.failures.contains_key(&staged.app));
        work.removals
            .retain(|removal| !self.failures.contains_key(&removal.app));
        let steps: Vec<&Step> = steps
            .iter()
            .copied()
            .filter(|step| !self.failures.contains_key(&step.app))
            .collect();
        self.adopt(&steps, &work, observed).map_err(stuck)?;
        if work.installs.is_empty() && work.removals.is_empty() {
            return Ok(());
        }
        self.journal(&steps, observed, &work.installs, &cancel).await?;
        apply::stop_for_removal(&self.engine.host, &steps).await;
        self.transact(&work, interrupts).await
    }

    /// What a killed package manager left is healed once per attempt, before anything else is done. True:
    /// look at the host again.
    async fn heal_if_needed(
        &mut self,
        observed: &Observed,
        interrupts: &mut Interrupts,
    ) -> Result<bool, End> {
        if self.healed || !observed.packages.iter().any(|(_, package)| package.broken) {
            return Ok(false);
        }
        self.converging(None, "healing half-installed packages");
        match self.engine.host.packages.heal().await {
            Ok(()) => {
                tracing::warn!("half-installed packages were healed, as far as the package manager can")
            }
            // Not a leftover, then, but somebody's work in progress: perhaps that of a package manager which
            // an earlier run of the agent started.
            Err(error) if error.category == Category::Locked => {
                self.wait_for_lock(&error, interrupts).await?;
                self.passes_begin_anew();
                return Ok(true);
            }
            // The package that can't be healed will fail by its own name.
            Err(error) => tracing::warn!(%error, "could not heal half-installed packages"),
        }
        self.healed = true;
        self.passes_begin_anew();
        Ok(true)
    }

    /// Until it is worth another try; `Err`: interrupted.
    async fn wait_for_lock(&self, error: &HostError, interrupts: &mut Interrupts) -> Result<(), End> {
        self.converging(None, format!("waiting for the package lock: {}", error.message));
        // The only two things that end this wait: the next try, and an interrupt.
        tokio::select! {
            () = tokio::time::sleep(LOCK_RETRY) => {}
            () = interrupts.wait(self.desired) => {}
        }
        match interrupts.pending(self.desired) {
            Some(end) => Err(end),
            None => Ok(()),
        }
    }

    /// Downloads and verifies; what fails drops out, with what it was to replace left as it is.
    async fn stage(
        &mut self,
        steps: &[&Step],
        interrupts: &mut Interrupts,
        observed: &Arc<Observed>,
        cancel: &Cancel,
    ) -> Result<PackageWork, End> {
        let installs: Vec<_> = steps
            .iter()
            .filter_map(|step| match &step.action {
                Action::Install(install) => Some((&step.app, install)),
                _ => None,
            })
            .collect();
        let removals = steps.iter().filter_map(|step| match &step.action {
            Action::Remove { package, .. } => Some(Removal {
                app: step.app.clone(),
                package: package.clone(),
            }),
            _ => None,
        });
        let mut work = PackageWork {
            removals: removals.collect(),
            installs: Vec::new(),
        };
        if installs.is_empty() {
            return Ok(work);
        }
        let names: Vec<&str> = installs.iter().map(|(app, _)| app.as_str()).collect();
        self.converging(Some(observed), format!("downloading {}", names.join(", ")));
        let records = self.engine.ledger.records();
        let staging = stage::stage(&self.engine.host, &installs, &records, cancel);
        tokio::pin!(staging);
        let outcome = tokio::select! {
            outcome = &mut staging => outcome,
            () = interrupts.wait(self.desired) => {
                cancel.set();
                staging.await
            }
        };
        if let Some(end) = interrupts.pending(self.desired) {
            return Err(end);
        }
        for (app, failure) in outcome.failures {
            self.fail(&app, failure);
        }
        work.installs = outcome.staged;
        Ok(work)
    }

    /// The package manager's own dry run. If it fails for all together, those that it fails for drop out:
    /// they are added one by one to what passes, so that what depends on one another stays together.
    async fn check(&mut self, work: &mut PackageWork) -> Result<(), End> {
        if work.installs.is_empty() && work.removals.is_empty() {
            return Ok(());
        }
        let packages = self.engine.host.packages.clone();
        let removals: Vec<String> = work
            .removals
            .iter()
            .map(|removal| removal.package.clone())
            .collect();
        let transaction = |installs: &[stage::Staged]| Transaction {
            install: installs.iter().map(|staged| staged.source.clone()).collect(),
            remove: removals.clone(),
        };
        let Err(error) = dry_run(&*packages, &transaction(&work.installs)).await else {
            return Ok(());
        };
        if error.category == Category::Locked {
            // Applying waits for the lock; the dry run is not worth a wait of its own.
            return Ok(());
        }
        if let [staged] = work.installs.as_slice() {
            self.fail(&staged.app.clone(), Failure::new(Phase::Check, error));
            return Ok(());
        }
        if work.installs.is_empty() {
            for removal in &work.removals {
                self.fail(&removal.app, Failure::new(Phase::Check, error.clone()));
            }
            return Ok(());
        }
        let mut passing: Vec<stage::Staged> = Vec::new();
        let mut open = std::mem::take(&mut work.installs);
        loop {
            let count = open.len();
            let mut failing: Vec<(stage::Staged, HostError)> = Vec::new();
            for staged in open {
                passing.push(staged);
                if let Err(error) = dry_run(&*packages, &transaction(&passing)).await
                    && let Some(staged) = passing.pop()
                {
                    failing.push((staged, error));
                }
            }
            if failing.len() == count || failing.is_empty() {
                for (staged, error) in failing {
                    self.fail(&staged.app, Failure::new(Phase::Check, error));
                }
                work.installs = passing;
                return Ok(());
            }
            open = failing.into_iter().map(|(staged, _)| staged).collect();
        }
    }

    fn adopt(
        &self,
        steps: &[&Step],
        work: &PackageWork,
        observed: &Observed,
    ) -> Result<(), crate::state_file::StateFileError> {
        let ledger = &self.engine.ledger;
        let adopted = steps.iter().filter_map(|step| match &step.action {
            Action::Adopt { package } => Some((&step.app, package.as_str())),
            _ => None,
        });
        let installed = work.installs.iter().map(|staged| (&staged.app, staged.package()));
        let pairs: Vec<(&AppName, &str)> = adopted.clone().chain(installed).collect();
        apply::record(ledger, &self.desired.apps, &pairs)?;
        for (app, _) in adopted {
            if let Some(source) = self.source_of_adopted(app, observed) {
                apply::record_source(ledger, app, source)?;
            }
        }
        Ok(())
    }

    /// Where the version that is installed is to be had, by the desired state.
    fn source_of_adopted(&self, app: &AppName, observed: &Observed) -> Option<Provenance> {
        let spec = self.desired.apps.get(app)?;
        let there = observed.apps.get(app)?;
        let url = spec.url.as_deref()?;
        version_satisfied(&spec.version, &there.version).then(|| Provenance {
            version: there.version.clone(),
            url: Some(url_for_family(url, self.engine.host.packages.family())),
            sha256: spec.sha256.clone(),
            file: None,
        })
    }

    async fn guard_own_upgrade(&self, work: &PackageWork) -> Result<(), crate::state_file::StateFileError> {
        let own = work.installs.iter().find(|staged| staged.package() == SELF_APP);
        match (
            &self.engine.guard,
            own.and_then(|own| Some((&own.app, self.journal.entry(&own.app)?))),
        ) {
            (Some(guard), Some((app, entry))) => guard.arm(app, &self.desired.apps, entry).await,
            (None, _) | (_, None) => Ok(()),
        }
    }

    async fn transact(&mut self, work: &PackageWork, interrupts: &mut Interrupts) -> Result<(), End> {
        let detail = describe(work);
        tracing::info!("{detail}");
        apply::record_provenance(&self.engine.host, &self.engine.ledger, &work.installs)
            .await
            .map_err(stuck)?;
        self.guard_own_upgrade(work).await.map_err(stuck)?;
        let apps = work.installs.iter().map(|staged| staged.app.clone()).collect();
        self.journal.begin_transaction(apps).map_err(stuck)?;
        let mut failures = Failures::new();
        loop {
            self.converging(None, detail.clone());
            match apply::change_packages(&self.engine.host, work, &mut failures).await {
                PackagesEnd::Done => break,
                PackagesEnd::Locked(error) => self.wait_for_lock(&error, interrupts).await?,
            }
        }
        for (app, failure) in failures {
            self.fail(&app, failure);
        }
        // In one step: killed between the two, the agent would take a failed package for a good one.
        let doomed = self.to_be_rolled_back();
        self.journal.end_transaction(&doomed).map_err(stuck)?;
        if let Err(error) = self.engine.host.services.reread_units().await {
            tracing::warn!(%error, "the init system could not read its units again");
        }
        for app in work.installs.iter().map(|staged| &staged.app) {
            self.engine.observer.forget_config(app);
        }
        Ok(())
    }
}

/// An error: refused, or other packages would have to be removed.
async fn dry_run(packages: &dyn Packages, transaction: &Transaction) -> Result<(), HostError> {
    let simulation = packages.simulate(transaction).await?;
    simulation.refuse_removals(transaction)
}

fn describe(work: &PackageWork) -> String {
    let removals = work
        .removals
        .iter()
        .map(|removal| format!("removing {}", removal.package));
    let installs = work
        .installs
        .iter()
        .map(|staged| format!("installing {} {}", staged.package(), staged.version()));
    removals.chain(installs).collect::<Vec<_>>().join(", ")
}
