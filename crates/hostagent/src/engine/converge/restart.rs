//! The restarts of an attempt: what a changed package has left running in its previous version.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use protocol::spec::cmp_rank;
use protocol::{AppName, Phase};

use super::Interrupts;
use super::attempt::Attempt;
use super::settle::SIDE_BY_SIDE;
use crate::engine::failure::Failure;
use crate::engine::journal::Before;
use crate::engine::observe::Observed;

/// An application, and those of its services that run its previous version.
type Outdated = (AppName, Vec<String>);

impl Attempt<'_> {
    /// A package that was changed and did not restart its services itself has left the old version running. They are
    /// restarted in the order of ranks, those of one rank side by side. True if there was any: look again.
    pub(super) async fn restart_outdated(
        &mut self,
        observed: &Arc<Observed>,
        interrupts: &Interrupts,
    ) -> bool {
        let (mut outdated, current): (Vec<Outdated>, Vec<Outdated>) = self
            .outdated(observed)
            .into_iter()
            .partition(|(_, services)| !services.is_empty());
        let current: Vec<&AppName> = current.iter().map(|(app, _)| app).collect();
        self.note_restarted(&current);
        let desired = self.desired;
        let rank = |app: &AppName| desired.apps.get(app)?.rank;
        outdated.sort_by(|(one, _), (other, _)| cmp_rank(rank(one), rank(other)));
        for equals in outdated.chunk_by(|(one, _), (next, _)| cmp_rank(rank(one), rank(next)).is_eq()) {
            self.restart(equals, observed, interrupts).await;
        }
        !outdated.is_empty()
    }

    /// Services of one application one after the other. None is begun once there is something else to do.
    async fn restart(&mut self, apps: &[Outdated], observed: &Arc<Observed>, interrupts: &Interrupts) {
        let (services, desired) = (&self.engine.host.services, self.desired);
        let mut waiting = apps.iter();
        let mut restarting = FuturesUnordered::new();
        let mut under_way: BTreeMap<&AppName, String> = BTreeMap::new();
        loop {
            while restarting.len() < SIDE_BY_SIDE
                && interrupts.pending(desired).is_none()
                && let Some((app, outdated)) = waiting.next()
            {
                if self.failures.contains_key(app) {
                    continue;
                }
                let names = outdated.join(", ");
                tracing::info!(%app, "restart {names}: the previous version still runs");
                under_way.insert(app, names);
                restarting.push(async move {
                    let mut errors = Vec::new();
                    for service in outdated {
                        if interrupts.pending(desired).is_some() {
                            return (app, errors, false);
                        }
                        errors.extend(services.restart(service).await.err());
                    }
                    (app, errors, true)
                });
            }
            if !under_way.is_empty() {
                let each = under_way
                    .iter()
                    .map(|(app, names)| format!("{app}: restart {names}"));
                self.converging(Some(observed), each.collect::<Vec<_>>().join("; "));
            }
            let Some((app, errors, are_all)) = restarting.next().await else {
                return;
            };
            under_way.remove(app);
            for error in errors {
                self.fail(app, Failure::new(Phase::Service, error));
            }
            if are_all {
                self.note_restarted(&[app]);
            }
        }
    }

    fn note_restarted(&mut self, apps: &[&AppName]) {
        self.restarted.extend(apps.iter().copied().cloned());
        // If this is not kept, the next attempt makes one more restart.
        if let Err(error) = self.journal.note_restarted(apps) {
            tracing::warn!(%error, "the journal could not be brought up to date");
        }
    }

    /// Applications whose package has changed, each with the services that ran before that and still do, in the same
    /// process as far as the init system can tell.
    fn outdated(&self, observed: &Observed) -> Vec<Outdated> {
        let entries = self
            .journal
            .get()
            .into_iter()
            .flat_map(|journal| &journal.entries);
        let entries = entries.filter(|(app, _)| !self.restarted.contains(*app));
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
