//! The loop of one attempt.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use protocol::{AppName, Category, Phase};

use super::{End, Interrupts, stuck, together};
use crate::engine::Engine;
use crate::engine::failure::{Failure, Failures};
use crate::engine::journal::JournalFile;
use crate::engine::observe::{Freshness, Observed};
use crate::engine::plan::{Plan, Stage, Step};
use crate::engine::stage::Staged;
use crate::engine::{bake, undo};
use crate::host_state::{Board, Standing};
use crate::ledger::Desired;
use host::{Cancel, Family};

pub(super) struct Attempt<'a> {
    pub(super) engine: &'a Engine,
    pub(super) desired: &'a Arc<Desired>,
    pub(super) board: &'a Board,
    pub(super) journal: &'a mut JournalFile,
    pub(super) failures: Failures,
    /// Applications that failed in an earlier attempt, and are left alone in this one.
    pub(super) held: BTreeSet<AppName>,
    /// What an attempt for another desired state has left to be rolled back.
    pub(super) stale: BTreeSet<AppName>,
    /// What is back where it was, in this attempt.
    pub(super) rolled_back: BTreeSet<AppName>,
    /// What runs no previous version any more, whether the journal could be told or not.
    pub(super) restarted: BTreeSet<AppName>,
    baked: BTreeSet<AppName>,
    passes: BTreeMap<(AppName, Stage), u32>,
    pub(super) healed: bool,
}

/// How often an application may pass through a stage of one attempt before that is a failure to take.
const PACKAGE_PASSES: u32 = 1;
const SETTLE_PASSES: u32 = 2;

impl<'a> Attempt<'a> {
    pub(super) fn new(
        engine: &'a Engine,
        desired: &'a Arc<Desired>,
        held: &Failures,
        journal: &'a mut JournalFile,
        board: &'a Board,
    ) -> Self {
        Self {
            engine,
            desired,
            board,
            journal,
            failures: held.clone(),
            held: held.keys().cloned().collect(),
            stale: BTreeSet::new(),
            rolled_back: BTreeSet::new(),
            restarted: BTreeSet::new(),
            baked: BTreeSet::new(),
            passes: BTreeMap::new(),
            healed: false,
        }
    }

    pub(super) async fn run(&mut self, interrupts: &mut Interrupts) -> End {
        if let Err(end) = self.take_up_journal() {
            return end;
        }
        loop {
            // A rollback that was begun is ended before anything else, whatever is desired now.
            if let Err(end) = self.roll_back_failed().await {
                return end;
            }
            if let Some(end) = interrupts.pending(self.desired) {
                return self.interrupted(end);
            }
            let observed = match self.engine.observe(self.desired, Freshness::Light).await {
                Ok(observed) => self.with_suspicion(observed),
                Err(error) => return stuck(Failure::new(Phase::Observe, error)),
            };
            let plan = self.engine.plan(self.desired, &observed);
            if self.take_faults(&plan) {
                continue;
            }
            let plan = self.without_failed(plan);
            let end = match plan.next_stage() {
                Some((stage, steps)) if self.give_up_on_the_stubborn(stage, &steps, &observed) => None,
                Some((Stage::Packages, steps)) => self.change_packages(&steps, &observed, interrupts).await,
                Some((Stage::Settle, steps)) => self.settle(&steps, &observed, interrupts).await,
                None if self.restart_outdated(&observed, interrupts).await => None,
                None => match self.bake(&observed, interrupts).await {
                    Baked::Some => None,
                    Baked::NothingLeft => Some(End::Finished(std::mem::take(&mut self.failures))),
                    Baked::Ended(end) => Some(end),
                },
            };
            if let Some(end) = end {
                return self.interrupted(end);
            }
        }
    }

    /// What was in a transaction when the agent was killed may only look installed: rpm enters a package
    /// before its last script has run. (dpkg tells by itself.)
    fn with_suspicion(&self, mut observed: Arc<Observed>) -> Arc<Observed> {
        let suspects = self.journal.get().map(|journal| &journal.in_transaction);
        if self.engine.host.packages.family() == Family::Rpm {
            for app in suspects
                .into_iter()
                .flatten()
                .filter(|app| !self.failures.contains_key(*app))
            {
                if let Some(there) = Arc::make_mut(&mut observed).apps.get_mut(app) {
                    there.broken = true;
                }
            }
        }
        observed
    }

    /// The journal outlives an interruption, and says whether it was in good order.
    fn interrupted(&mut self, end: End) -> End {
        if matches!(end, End::Stopped)
            && let Err(error) = self.journal.note_stop()
        {
            tracing::warn!(%error, "this stop will count as a crash");
        }
        end
    }

    pub(super) fn converging(&self, observed: Option<&Arc<Observed>>, detail: impl Into<String>) {
        self.board.note(
            self.desired,
            observed,
            Standing::Converging {
                detail: detail.into(),
            },
        );
    }

    /// Those that stand or fall with `app` fail with it.
    pub(super) fn fail(&mut self, app: &AppName, failure: Failure) {
        tracing::error!(%app, phase = %failure.phase, category = %failure.category, "{}", failure.message);
        for tied in together::with(&self.desired.apps, app) {
            if let Entry::Vacant(vacant) = self.failures.entry(tied) {
                let tied = vacant.key();
                let message = format!(
                    "{tied} stands or falls with {app} (requires), which failed: {}",
                    failure.message
                );
                tracing::error!(app = %tied, "{message}");
                vacant.insert(Failure {
                    message,
                    ..failure.clone()
                });
            }
        }
        self.failures.insert(app.clone(), failure);
    }

    /// True if there was any that is new.
    fn take_faults(&mut self, plan: &Plan) -> bool {
        let mut new = false;
        for fault in &plan.faults {
            if !self.failures.contains_key(&fault.app) {
                new = true;
                let failure = Failure {
                    phase: fault.phase,
                    category: fault.category,
                    message: fault.message.clone(),
                    rolled_back: false,
                };
                self.fail(&fault.app, failure);
            }
        }
        new
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

    /// After the package database was healed, what is there is looked at with fresh eyes.
    pub(super) fn passes_begin_anew(&mut self) {
        self.passes.clear();
    }

    /// Takes down what undo needs for all that `steps` change.
    pub(super) async fn journal(
        &mut self,
        steps: &[&Step],
        observed: &Observed,
        arriving: &[Staged],
        cancel: &Cancel,
    ) -> Result<(), End> {
        let engine = self.engine;
        let records = engine.ledger.records();
        let entries = undo::entries(&engine.host, observed, &records, steps, arriving, cancel)
            .await
            .map_err(|error| stuck(Failure::new(Phase::Check, error)))?;
        self.journal.add(&self.desired.apps, entries).map_err(stuck)
    }

    /// Watches all that was changed and not yet baked.
    async fn bake(&mut self, observed: &Arc<Observed>, interrupts: &mut Interrupts) -> Baked {
        let changed = self
            .journal
            .get()
            .into_iter()
            .flat_map(|journal| journal.entries.keys());
        let apps: Vec<AppName> = changed
            .filter(|app| {
                !self.failures.contains_key(*app) && !self.baked.contains(*app) && !self.held.contains(*app)
            })
            .filter(|app| self.desired.apps.contains_key(*app) && observed.apps.contains_key(*app))
            .cloned()
            .collect();
        if apps.is_empty() || self.engine.bake_period.is_zero() {
            return Baked::NothingLeft;
        }
        let names: Vec<&str> = apps.iter().map(AppName::as_str).collect();
        let period = self.engine.bake_period.as_secs();
        self.converging(
            Some(observed),
            format!("watching {} for {period} s", names.join(", ")),
        );
        let baked = tokio::select! {
            baked = bake::bake(self.engine, self.desired, &apps, observed) => baked,
            () = interrupts.wait(self.desired) => return match interrupts.pending(self.desired) {
                Some(end) => Baked::Ended(end),
                None => Baked::Some,
            },
        };
        match baked {
            Ok(failures) => {
                for (app, failure) in failures {
                    self.fail(&app, failure);
                }
                self.baked.extend(apps);
                Baked::Some
            }
            Err(error) => Baked::Ended(stuck(Failure::new(Phase::Observe, error))),
        }
    }
}

enum Baked {
    /// Something was watched; look again.
    Some,
    NothingLeft,
    Ended(End),
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
                rolled_back: false,
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
                rolled_back: false,
            }
        }
    }
}
