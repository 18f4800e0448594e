//! The settling stage of an attempt: config and services, application by application.

use std::sync::Arc;

use protocol::{AppName, Phase};

use super::attempt::Attempt;
use super::{End, Interrupts};
use crate::apply;
use crate::failure::Failure;
use crate::host::Cancel;
use crate::journal::Before;
use crate::observe::Observed;
use crate::plan::Step;

impl Attempt<'_> {
    /// Config and services. An application whose step fails is left where it is; the others go on.
    pub(super) async fn settle(
        &mut self,
        steps: &[&Step],
        observed: &Arc<Observed>,
        interrupts: &Interrupts,
    ) -> Option<End> {
        if let Err(end) = self.journal(steps, observed, &[], &Cancel::default()).await {
            return Some(end);
        }
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

    /// A package that was changed and did not restart its services itself has left the old version running.
    /// True if any service was started anew: look again.
    pub(super) async fn restart_outdated(&mut self, observed: &Arc<Observed>) -> bool {
        let mut restarted = false;
        for (app, services) in self.outdated(observed) {
            for service in services {
                restarted = true;
                self.converging(Some(observed), format!("{app}: restart {service}"));
                tracing::info!(%app, "restart {service}, which still runs the previous version");
                if let Err(error) = self.engine.host.services.restart(&service).await {
                    self.fail(&app, Failure::new(Phase::Service, error));
                }
            }
            // If this is not kept, a crash costs one more restart.
            if let Err(error) = self.journal.note_restarted(&app) {
                tracing::warn!(%error, "the journal could not be brought up to date");
            }
        }
        restarted
    }

    /// Services that ran before their package was changed, and still do, in the same process as far as the init
    /// system can tell.
    fn outdated(&self, observed: &Observed) -> Vec<(AppName, Vec<String>)> {
        let entries = self
            .journal
            .get()
            .into_iter()
            .flat_map(|journal| &journal.entries);
        let changed = entries.filter_map(|(app, entry)| match &entry.before {
            Before::Installed(before) if !entry.restarted && !self.failures.contains_key(app) => {
                let there = observed.apps.get(app)?;
                (there.version != before.version).then_some((app, before, there))
            }
            Before::Installed(_) | Before::Absent => None,
        });
        changed
            .map(|(app, before, there)| {
                let same = before.services.iter().filter(|(name, then)| {
                    let now = there.services.get(*name).copied().flatten();
                    then.running && now.is_some_and(|now| now.running && now.instance == then.instance)
                });
                (app.clone(), same.map(|(name, _)| name.clone()).collect())
            })
            .collect()
    }
}
