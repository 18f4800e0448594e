//! A turn of the loop while nothing is being rolled back.

use super::fail::tied_failure;
use super::passes::Stage;
use super::roles::Role;
use super::{Convergence, End, Turn};
use crate::alarm;
use crate::engine::bake::BakeResult;
use crate::engine::failure::{Failure, Failures};
use crate::engine::observe::{Observed, ObservedApp};
use crate::engine::plan::{self, Plan, SettleAction, Targets};
use crate::engine::progress::{Event, Progress};
use crate::engine::signals::{Signal, Signals};
use crate::host_state::Standing;
use protocol::AppName;
use tokio::time::Instant;

impl Convergence<'_> {
    pub(super) async fn turn_forward(
        &mut self,
        observed: Observed,
        signals: &mut Signals,
    ) -> Result<Turn, End> {
        if !self.desired.stated {
            // As long as nothing was ever desired, or that is lost, nothing is touched, and nothing that is known is forgotten.
            return Ok(Turn::Finished(observed));
        }
        self.release(&observed);
        self.note_flaps(&observed);
        if self.book.is_rolling_back() || self.look_at_bakes(&observed)? {
            return Ok(Turn::Again);
        }
        let all = self.engine.targets(&self.desired.apps, &observed);
        let whole = plan::plan(&all, &observed, self.family());
        let plan = self.plan_by_role(&all, &observed);
        if self.take_faults(&plan, &observed)? {
            return Ok(Turn::Again);
        }
        if self.fail_with_held(&plan, &observed)? {
            return Ok(Turn::Again);
        }
        let plan = self.without_blocked(plan, &observed);
        self.note_reached(&whole, &plan, &observed);
        let Some(stage) = Stage::first_of(&plan) else {
            return self.rest(observed, signals).await;
        };
        self.begins(&observed, &self.describe(&plan));
        let given_up = self.passes.count(stage, &plan, &observed);
        if !given_up.is_empty() {
            self.fail_all(given_up, &observed)?;
            return Ok(Turn::Again);
        }
        match stage {
            Stage::Packages => self.change_packages(&plan.packages, &observed, signals).await?,
            Stage::Settle => self.settle(&plan.settle, &all, &observed, signals).await?,
            Stage::Restart => self.restart(&plan.restarts, &all, &observed, signals).await?,
        }
        Ok(Turn::Again)
    }

    /// What the agent changes itself says nothing of an application's health.
    fn note_flaps(&mut self, observed: &Observed) {
        let now = Instant::now();
        self.flaps.prune(now);
        for (app, there) in &observed.apps {
            let counts = matches!(
                self.book.get(app),
                Some(Progress::Settled { .. } | Progress::Repairing { .. } | Progress::Held { .. })
            );
            self.flaps.note(app, there, counts, now);
        }
    }

    fn plan_by_role(&self, all: &Targets, observed: &Observed) -> Plan {
        let mut plan = plan::plan(&self.forward_targets(all), observed, self.family());
        self.spare_started(&mut plan);
        plan
    }

    /// What is kept at its previous state and is desired to run is left running, if somebody has started it.
    fn spare_started(&self, plan: &mut Plan) {
        plan.settle.retain(|step| {
            let (SettleAction::Stop { service } | SettleAction::Disable { service }) = &step.action else {
                return true;
            };
            let spec = self.desired.apps.get(&step.app);
            let is_desired = spec.is_some_and(|spec| spec.wants_service(service));
            !is_desired
        });
    }

    /// A fault during a change fails the change. Other faults are reported as long as they are there, and not stored. True if anything failed.
    fn take_faults(&mut self, plan: &Plan, observed: &Observed) -> Result<bool, End> {
        let mut failures = Vec::new();
        self.faults = Failures::new();
        for fault in &plan.faults {
            let failure = Failure {
                phase: fault.phase,
                category: fault.category,
                message: fault.message.clone(),
            };
            match self.book.get(&fault.app) {
                Some(Progress::Applying { .. }) => failures.push((fault.app.clone(), failure)),
                _ => match self.role_of(&fault.app) {
                    Role::Change | Role::Repair => {
                        self.faults.entry(fault.app.clone()).or_insert(failure);
                    }
                    // It has its error already.
                    Role::Keep | Role::Bake | Role::Leave => {}
                },
            }
        }
        let any = !failures.is_empty();
        self.fail_all(failures, observed)?;
        Ok(any)
    }

    /// What stands or falls with an application that is held, or stuck, is not changed. True if anything failed.
    fn fail_with_held(&mut self, plan: &Plan, observed: &Observed) -> Result<bool, End> {
        let now = Instant::now();
        let mut failures = Vec::new();
        for app in self.desired.apps.keys() {
            if self.role_of(app) != Role::Change || !plan.has_steps_for(app) {
                continue;
            }
            let troubled = self
                .tied_to(app)
                .into_iter()
                .find_map(|tied| match self.book.get(&tied)? {
                    Progress::Held { trouble, .. } | Progress::Stuck { trouble, .. }
                        if !trouble.is_due(now) =>
                    {
                        Some((tied, trouble.failure.clone()))
                    }
                    _ => None,
                });
            if let Some((tied, failure)) = troubled {
                failures.push((app.clone(), tied_failure(app, &tied, &failure)));
            }
        }
        let any = !failures.is_empty();
        self.fail_all(failures, observed)?;
        Ok(any)
    }

    /// What is about to be done, for people: drift by what has drifted.
    fn describe(&self, plan: &Plan) -> String {
        /// A plan for hundreds of applications is not told in one line.
        const SHOWN: usize = 3;
        let apps: Vec<&AppName> = self
            .desired
            .apps
            .keys()
            .chain(
                self.book
                    .apps()
                    .keys()
                    .filter(|app| !self.desired.apps.contains_key(*app)),
            )
            .filter(|app| plan.has_steps_for(app))
            .collect();
        let is_drift = apps
            .iter()
            .all(|app| matches!(self.role_of(app), Role::Repair | Role::Keep));
        let each = apps
            .iter()
            .take(SHOWN)
            .map(|app| format!("{app}: {}", plan.describe(app)));
        let each = each.collect::<Vec<_>>().join("; ");
        let more = match apps.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        match is_drift {
            true => format!("repairing drift: {each}{more}"),
            false => format!("about to begin: {each}{more}"),
        }
    }

    /// What has a fault is kept at the state that it is in: its services at least. So is what it stands or falls with.
    fn without_blocked(&self, mut plan: Plan, observed: &Observed) -> Plan {
        let mut blocked: Vec<AppName> = self.faults.keys().cloned().collect();
        for app in self.faults.keys() {
            let tied = self.tied_to(app);
            blocked.extend(tied.into_iter().filter(|app| self.role_of(app) == Role::Change));
        }
        plan.retain(|app| !blocked.contains(app));
        let kept = blocked
            .into_iter()
            .filter_map(|app| Some((app.clone(), self.kept_target(&app)?)));
        let mut kept = plan::plan(&kept.collect(), observed, self.family());
        self.spare_started(&mut kept);
        plan.settle.append(&mut kept.settle);
        plan.restarts.append(&mut kept.restarts);
        plan
    }

    /// Applications for which nothing is left to do, of all that is desired and all that is remembered.
    fn note_reached(&mut self, whole: &Plan, plan: &Plan, observed: &Observed) {
        let is_done =
            |plan: &Plan, app: &AppName| !plan.has_steps_for(app) && plan.faults_of(app).next().is_none();
        let apps = self.desired.apps.keys().chain(self.book.apps().keys());
        let mut events: Vec<(AppName, Event)> = Vec::new();
        for app in apps {
            if !plan.has_steps_for(app) {
                self.passes.forget(app);
            }
            let event = match self.role_of(app) {
                Role::Change | Role::Repair if is_done(whole, app) => self.reached(app, observed),
                // Done by somebody else.
                Role::Leave | Role::Keep
                    if is_done(whole, app)
                        && (self.desired.apps.contains_key(app) || !observed.apps.contains_key(app)) =>
                {
                    self.reached(app, observed)
                }
                Role::Keep if !plan.has_steps_for(app) => self.repair_reached(app),
                Role::Change | Role::Repair | Role::Leave | Role::Keep | Role::Bake => None,
            };
            events.extend(event.map(|event| (app.clone(), event)));
        }
        if !events.is_empty() {
            let released = self.released_by(&events);
            self.book.note(events);
            self.book.note(released);
        }
    }

    /// What is held only for an application that is well again.
    fn released_by(&self, events: &[(AppName, Event)]) -> Vec<(AppName, Event)> {
        let well_again = events.iter().filter(|(app, event)| {
            matches!(event, Event::Reached { .. }) && self.book.get(app).and_then(Progress::trouble).is_some()
        });
        let tied = well_again.flat_map(|(app, _)| self.tied_to(app));
        let held = tied.filter(|tied| matches!(self.book.get(tied), Some(Progress::Held { .. })));
        held.map(|tied| (tied, Event::Release)).collect()
    }

    /// `None`: that is known.
    fn reached(&self, app: &AppName, observed: &Observed) -> Option<Event> {
        let spec = self.desired.apps.get(app);
        match (self.book.get(app), spec) {
            (None, None) => return None,
            (
                Some(Progress::Settled {
                    spec: settled,
                    unfinished,
                }),
                Some(spec),
            ) if **settled == *spec && *unfinished == Default::default() => {
                return None;
            }
            _ => {}
        }
        let bake = observed
            .apps
            .get(app)
            .is_some_and(|there| self.is_to_be_baked(app, there));
        Some(Event::Reached {
            spec: spec.cloned().map(Box::new),
            digest: self.digest.clone(),
            bake,
        })
    }

    fn repair_reached(&self, app: &AppName) -> Option<Event> {
        match self.book.get(app) {
            Some(Progress::Held { repair: Some(_), .. }) => Some(Event::RepairReached),
            _ => None,
        }
    }

    /// Whether it has anything that may prove bad, or stands or falls with others.
    fn is_to_be_baked(&self, app: &AppName, there: &ObservedApp) -> bool {
        let Some(spec) = self.desired.apps.get(app) else {
            return false;
        };
        let runs = there.services.keys().any(|name| spec.wants_service(name));
        let period = self.engine.bake_period;
        !period.is_zero() && (runs || there.has_checks()) || !self.tied_to(app).is_empty()
    }

    /// True if any has failed, or is good now.
    fn look_at_bakes(&mut self, observed: &Observed) -> Result<bool, End> {
        let baking = self.book.apps().iter();
        let baking = baking.filter(|(_, progress)| matches!(progress, Progress::Baking { .. }));
        let apps: Vec<AppName> = baking.map(|(app, _)| app.clone()).collect();
        self.bakes.keep(&apps);
        let (mut failures, mut good) = (Vec::new(), Vec::new());
        for app in apps {
            let Some(spec) = self
                .desired
                .apps
                .get(&app)
                .filter(|spec| self.bakes_for(&app, spec))
            else {
                // Something else is desired of it by now: its change goes on.
                self.bakes.forget(&app);
                let event = Event::Superseded;
                self.book.note([(app, event)]);
                return Ok(true);
            };
            match self.bakes.look(self.engine, &app, spec, observed) {
                BakeResult::Watching => {}
                BakeResult::Good => good.push(app),
                BakeResult::Failed(failure) => failures.push((app, failure)),
            }
        }
        let good: Vec<AppName> = good
            .iter()
            .filter(|app| {
                self.tied_to(app)
                    .iter()
                    .all(|tied| good.contains(tied) || self.is_settled(tied))
            })
            .cloned()
            .collect();
        let any = !failures.is_empty() || !good.is_empty();
        self.book.note(
            good.into_iter()
                .map(|app| (app, Event::Baked))
                .collect::<Vec<_>>(),
        );
        self.fail_all(failures, observed)?;
        Ok(any)
    }

    fn bakes_for(&self, app: &AppName, spec: &protocol::AppSpec) -> bool {
        let change = self.book.get(app).and_then(Progress::change);
        change.is_some_and(|change| change.spec.as_deref() == Some(spec))
    }

    fn is_settled(&self, app: &AppName) -> bool {
        match (self.book.get(app), self.desired.apps.get(app)) {
            (Some(Progress::Settled { spec, .. } | Progress::Repairing { spec, .. }), Some(desired)) => {
                **spec == *desired
            }
            (_, None) => true,
            _ => false,
        }
    }

    /// Nothing is to be done now: waits while anything is watched.
    async fn rest(&mut self, observed: Observed, signals: &mut Signals) -> Result<Turn, End> {
        let baking = self.book.apps().iter();
        let baking = baking.filter(|(_, progress)| matches!(progress, Progress::Baking { .. }));
        let names: Vec<&str> = baking.map(|(app, _)| app.as_str()).collect();
        if names.is_empty() {
            return Ok(Turn::Finished(observed));
        }
        if !self.bakes.have_begun(names.iter().copied()) {
            return Ok(Turn::Again);
        }
        let period = self.engine.bake_period.as_secs();
        let detail = format!("watching {} for {period} s", names.join(", "));
        self.begins(&observed, &detail);
        let standing = Standing::Watching { detail };
        self.board
            .note(self.desired, Some(&std::sync::Arc::new(observed)), standing);
        let flaps = self.flaps.next_change(Instant::now());
        let retry_at = self.book.next_retry(self.turn_at).into_iter().chain(flaps).min();
        // Each arm only waits; whatever ends the wait, the host is looked at anew.
        tokio::select! {
            signal = signals.next(self.desired) => match signal {
                Signal::Interrupt(interrupt) => return Err(interrupt.into()),
                Signal::Question(question) => self.answer(question, signals).await?,
                Signal::Wake => {}
            },
            () = self.bakes.next_look() => self.engine.host.services.forget_answers(),
            () = alarm::reached(retry_at) => {}
        }
        Ok(Turn::Again)
    }
}
