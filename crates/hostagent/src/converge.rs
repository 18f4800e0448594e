//! One attempt to bring the host to its desired state: observe, plan, carry out the first stage of the
//! plan, and again, until the plan is empty, a newer desired state takes over, or the agent stops.
//!
//! Every turn of the loop ends at a safe point: what is done shows in the next observation, what is not is
//! planned again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use protocol::{AppName, Category, Phase};
use tokio::sync::watch;

use crate::apply::{self, Failure, Failures, PackageWork, PackagesEnd, Removal};
use crate::host::{Cancel, Host, HostError};
use crate::host_state::{Board, Standing};
use crate::ledger::{Desired, Ledger};
use crate::observe::{Freshness, Observed, Observer};
use crate::plan::{self, Action, Plan, Stage, Step};
use crate::stage;

/// What converges: the host's facilities, and the agent's memory of what it did.
pub struct Engine {
    pub host: Host,
    pub observer: Observer,
    pub ledger: Arc<Ledger>,
}

/// How an attempt ended.
#[derive(Debug)]
pub enum End {
    /// Nothing is left to do but for the applications that failed.
    Finished(Failures),
    /// The desired state has changed: start over with the new one.
    Superseded,
    /// The agent is to stop; the next start goes on.
    Stopped,
    /// The host could not be looked at, or the agent's own state not be written.
    Stuck(Failure),
}

/// What ends an attempt at its next safe point.
pub struct Interrupts {
    pub desired: watch::Receiver<Arc<Desired>>,
    pub stop: watch::Receiver<bool>,
}

impl Interrupts {
    fn pending(&self, attempt: &Desired) -> Option<End> {
        if *self.stop.borrow() {
            Some(End::Stopped)
        } else if !self.desired.borrow().same_state(attempt) {
            Some(End::Superseded)
        } else {
            None
        }
    }

    /// Returns when there is one. Cancel-safe: it only waits on watches.
    async fn wait(&mut self, attempt: &Desired) {
        while self.pending(attempt).is_none() {
            let ended = tokio::select! {
                changed = self.desired.changed() => changed.is_err(),
                changed = self.stop.changed() => changed.is_err(),
            };
            if ended {
                return;
            }
        }
    }
}

/// How long to wait between two looks at the package manager's lock.
const LOCK_RETRY: Duration = Duration::from_secs(2);

/// How often an application may pass through a stage of one attempt before that is a failure to take.
const PACKAGE_PASSES: u32 = 1;
const SETTLE_PASSES: u32 = 2;

impl Engine {
    pub async fn observe(&self, desired: &Desired, freshness: Freshness) -> Result<Arc<Observed>, HostError> {
        let observed = self
            .observer
            .observe(&desired.apps, &self.ledger.records(), freshness)
            .await?;
        Ok(Arc::new(observed))
    }

    /// What there is to do; nothing, as long as nothing was ever desired.
    pub fn plan(&self, desired: &Desired, observed: &Observed) -> Plan {
        if !desired.stated {
            return Plan::default();
        }
        plan::plan(&desired.apps, observed, self.host.packages.family())
    }

    /// `held`: applications that are not to be touched in this attempt.
    pub async fn converge(
        &self,
        desired: &Arc<Desired>,
        held: &Failures,
        interrupts: &mut Interrupts,
        board: &Board,
    ) -> End {
        let mut attempt = Attempt {
            engine: self,
            desired,
            board,
            failures: held.clone(),
            passes: BTreeMap::new(),
            healed: false,
        };
        let end = attempt.run(interrupts).await;
        if let Err(error) = self.tidy_records(desired).await {
            tracing::warn!(%error, "could not bring the records of installed applications up to date");
        }
        end
    }

    /// An application that is neither desired nor installed is nobody's business any more; one that is
    /// desired goes, when it goes, by its newest rank.
    async fn tidy_records(&self, desired: &Desired) -> Result<(), HostError> {
        let packages = self.host.packages.installed().await?;
        self.ledger
            .change_records(|records| {
                records.retain(|app, record| {
                    let spec = desired.apps.get(app);
                    record.rank = spec.map_or(record.rank, |spec| spec.rank);
                    spec.is_some() || packages.contains_key(&record.package)
                });
            })
            .map_err(|error| HostError::new(Category::Host, error.to_string()))
    }
}

struct Attempt<'a> {
    engine: &'a Engine,
    desired: &'a Arc<Desired>,
    board: &'a Board,
    failures: Failures,
    passes: BTreeMap<(AppName, Stage), u32>,
    healed: bool,
}

impl Attempt<'_> {
    async fn run(&mut self, interrupts: &mut Interrupts) -> End {
        loop {
            if let Some(end) = interrupts.pending(self.desired) {
                return end;
            }
            let observed = match self.engine.observe(self.desired, Freshness::Light).await {
                Ok(observed) => observed,
                Err(error) => return End::Stuck(Failure::new(Phase::Observe, error)),
            };
            let plan = self.engine.plan(self.desired, &observed);
            self.take_faults(&plan);
            let plan = self.without_failed(plan);
            let Some((stage, steps)) = plan.next_stage() else {
                return End::Finished(std::mem::take(&mut self.failures));
            };
            if self.give_up_on_the_stubborn(stage, &steps, &observed) {
                continue;
            }
            let end = match stage {
                Stage::Packages => self.change_packages(&steps, &observed, interrupts).await,
                Stage::Settle => self.settle(&steps, &observed, interrupts).await,
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    fn converging(&self, observed: Option<&Arc<Observed>>, detail: impl Into<String>) {
        self.board.note(
            self.desired,
            observed,
            Standing::Converging {
                detail: detail.into(),
            },
        );
    }

    fn fail(&mut self, app: &AppName, failure: Failure) {
        tracing::error!(%app, phase = ?failure.phase, category = ?failure.category, "{}", failure.message);
        self.failures.insert(app.clone(), failure);
    }

    /// Faults count once there is nothing left to install: they are about what is there.
    fn take_faults(&mut self, plan: &Plan) {
        for fault in &plan.faults {
            if !self.failures.contains_key(&fault.app) {
                let failure = Failure {
                    phase: fault.phase,
                    category: fault.category,
                    message: fault.message.clone(),
                };
                self.fail(&fault.app, failure);
            }
        }
    }

    fn without_failed(&self, mut plan: Plan) -> Plan {
        plan.steps.retain(|step| !self.failures.contains_key(&step.app));
        plan.faults.clear();
        plan
    }

    /// An application whose steps went well and that needs them again does not take them. True if the plan
    /// must be made anew.
    fn give_up_on_the_stubborn(&mut self, stage: Stage, steps: &[&Step], observed: &Observed) -> bool {
        let apps: BTreeSet<&AppName> = steps.iter().map(|step| &step.app).collect();
        let allowed = match stage {
            Stage::Packages => PACKAGE_PASSES,
            Stage::Settle => SETTLE_PASSES,
        };
        let mut gave_up = false;
        for app in apps {
            let passes = self.passes.entry((app.clone(), stage)).or_insert(0);
            if *passes < allowed {
                *passes += 1;
                continue;
            }
            gave_up = true;
            let wants: Vec<String> = steps
                .iter()
                .filter(|step| step.app == *app)
                .map(|step| step.action.to_string())
                .collect();
            let failure = stubborn(app, stage, &wants.join(", "), observed);
            self.fail(app, failure);
        }
        gave_up
    }

    async fn change_packages(
        &mut self,
        steps: &[&Step],
        observed: &Arc<Observed>,
        interrupts: &mut Interrupts,
    ) -> Option<End> {
        if let Err(failure) = self.heal_if_needed(observed).await {
            return Some(End::Stuck(failure));
        }
        let work = match self.stage(steps, interrupts, observed).await {
            Ok(work) => work,
            Err(end) => return Some(end),
        };
        if let Err(error) = self.record(steps, &work) {
            return Some(End::Stuck(error.into()));
        }
        if work.installs.is_empty() && work.removals.is_empty() {
            return None;
        }
        apply::stop_for_removal(&self.engine.host, steps).await;
        let detail = describe(&work);
        tracing::info!("{detail}");
        loop {
            self.converging(None, detail.clone());
            match apply::change_packages(&self.engine.host, &work).await {
                PackagesEnd::Done(failures) => {
                    for (app, failure) in failures {
                        self.fail(&app, failure);
                    }
                    break;
                }
                PackagesEnd::Locked(error) => {
                    self.converging(None, format!("waiting for the package lock: {}", error.message));
                    // The only two things that end this wait: the next try, and an interrupt.
                    let interrupted = tokio::select! {
                        () = tokio::time::sleep(LOCK_RETRY) => false,
                        () = interrupts.wait(self.desired) => true,
                    };
                    if interrupted {
                        return interrupts.pending(self.desired);
                    }
                }
            }
        }
        if let Err(error) = self.engine.host.services.reread_units().await {
            tracing::warn!(%error, "the init system could not read its units again");
        }
        for app in work.installs.iter().map(|staged| &staged.app) {
            self.engine.observer.forget_config(app);
        }
        None
    }

    /// What a killed package manager left is healed once per attempt, before anything else is done.
    async fn heal_if_needed(&mut self, observed: &Observed) -> Result<(), Failure> {
        if self.healed || !observed.packages.values().any(|package| package.broken) {
            return Ok(());
        }
        self.healed = true;
        self.converging(None, "healing half-installed packages");
        match self.engine.host.packages.heal().await {
            Ok(()) => Ok(()),
            Err(error) if error.category == Category::Locked => Err(Failure::new(Phase::Install, error)),
            // The package that can't be healed will fail by its own name.
            Err(error) => {
                tracing::warn!(%error, "could not heal half-installed packages");
                Ok(())
            }
        }
    }

    /// Downloads and verifies; what fails drops out, with what it was to replace left as it is.
    async fn stage(
        &mut self,
        steps: &[&Step],
        interrupts: &mut Interrupts,
        observed: &Arc<Observed>,
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
        let cancel = Cancel::default();
        let records = self.engine.ledger.records();
        let staging = stage::stage(&self.engine.host, &installs, &records, &cancel);
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

    fn record(&self, steps: &[&Step], work: &PackageWork) -> Result<(), crate::state_file::StateFileError> {
        let adopted = steps.iter().filter_map(|step| match &step.action {
            Action::Adopt { package } => Some((&step.app, package.as_str())),
            _ => None,
        });
        let installed = work.installs.iter().map(|staged| (&staged.app, staged.package()));
        let pairs: Vec<(&AppName, &str)> = adopted.chain(installed).collect();
        apply::record(&self.engine.ledger, &self.desired.apps, &pairs)
    }

    /// Config and services. An application whose step fails is left where it is; the others go on.
    async fn settle(
        &mut self,
        steps: &[&Step],
        observed: &Arc<Observed>,
        interrupts: &Interrupts,
    ) -> Option<End> {
        for step in steps {
            if let Some(end) = interrupts.pending(self.desired) {
                return Some(end);
            }
            let Some(spec) = self.desired.apps.get(&step.app) else {
                continue;
            };
            if self.failures.contains_key(&step.app) {
                continue;
            }
            self.converging(Some(observed), format!("{}: {}", step.app, step.action));
            tracing::info!(app = %step.app, "{}", step.action);
            let engine = self.engine;
            let settled = apply::settle_step(&engine.host, &engine.observer, observed, spec, step).await;
            if let Err(failure) = settled {
                self.fail(&step.app, failure);
            }
        }
        None
    }
}

fn stubborn(app: &AppName, stage: Stage, wants: &str, observed: &Observed) -> Failure {
    match stage {
        Stage::Packages => {
            let now = observed
                .apps
                .get(app)
                .map_or("not installed".to_owned(), |there| {
                    format!("at {}", there.version)
                });
            let message = format!(
                "the package manager reported success, yet {app} is {now} and still needs: {wants}. Look at the package \
                 manager's log on the host"
            );
            Failure {
                phase: Phase::Install,
                category: Category::Script,
                message,
            }
        }
        Stage::Settle => {
            let message = format!(
                "every step went well, yet {app} still needs: {wants}. Its service may end right after its start, or \
                 something else changes it; look at the service's own log"
            );
            Failure {
                phase: Phase::Health,
                category: Category::Unhealthy,
                message,
            }
        }
    }
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
