//! The settling stage of an attempt: config and services, in the order of ranks.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use protocol::AppName;
use protocol::spec::{Rank, cmp_rank};

use super::attempt::Attempt;
use super::{End, Interrupts};
use crate::engine::apply;
use crate::engine::observe::Observed;
use crate::engine::plan::{Action, Step};
use host::Cancel;

/// Applications whose services are started or stopped side by side, at most.
pub(super) const SIDE_BY_SIDE: usize = 8;

impl Attempt<'_> {
    /// Config and services. An application whose step fails is left where it is; the others go on. Those of one rank get their
    /// config one after the other, since hooks may share files; then what is to stop stops, side by side; then the rest starts,
    /// which may need what the others have let go of.
    pub(super) async fn settle(
        &mut self,
        steps: &[&Step],
        observed: &Arc<Observed>,
        interrupts: &Interrupts,
    ) -> Option<End> {
        if let Err(end) = self.journal(steps, observed, &[], &Cancel::default()).await {
            return Some(end);
        }
        let desired = self.desired;
        let rank = |step: &Step| -> Option<Rank> { desired.apps.get(&step.app)?.rank };
        for equals in steps.chunk_by(|one, next| cmp_rank(rank(one), rank(next)).is_eq()) {
            for (turn, side_by_side) in [
                (Turn::Config, 1),
                (Turn::Stop, SIDE_BY_SIDE),
                (Turn::Start, SIDE_BY_SIDE),
            ] {
                let in_turn = equals
                    .iter()
                    .copied()
                    .filter(|step| Turn::of(&step.action) == turn);
                let steps: Vec<&Step> = in_turn.collect();
                let end = self.take_steps(&steps, side_by_side, observed, interrupts).await;
                if end.is_some() {
                    return end;
                }
            }
        }
        None
    }

    /// Those of one application one after the other, up to `side_by_side` applications at the same time.
    async fn take_steps(
        &mut self,
        steps: &[&Step],
        side_by_side: usize,
        observed: &Arc<Observed>,
        interrupts: &Interrupts,
    ) -> Option<End> {
        let (engine, desired) = (self.engine, self.desired);
        let mut waiting: VecDeque<_> = steps
            .chunk_by(|one, next| one.app == next.app)
            .map(<[_]>::iter)
            .collect();
        let mut taken = FuturesUnordered::new();
        let mut under_way: BTreeMap<&AppName, &Action> = BTreeMap::new();
        loop {
            while taken.len() < side_by_side
                && interrupts.pending(desired).is_none()
                && let Some(mut of_app) = waiting.pop_front()
            {
                let Some(step) = of_app.next() else { continue };
                let Some(spec) = desired.apps.get(&step.app) else {
                    continue;
                };
                if self.failures.contains_key(&step.app) {
                    continue;
                }
                tracing::info!(app = %step.app, "{}", step.action);
                under_way.insert(&step.app, &step.action);
                taken.push(async move {
                    let settled =
                        apply::settle_step(&engine.host, &engine.observer, observed, spec, step).await;
                    (step, settled, of_app)
                });
            }
            if !under_way.is_empty() {
                self.converging(Some(observed), describe(&under_way));
            }
            let Some((step, settled, rest)) = taken.next().await else {
                return interrupts.pending(desired);
            };
            under_way.remove(&step.app);
            match settled {
                Ok(()) => waiting.push_front(rest),
                Err(failure) => self.fail(&step.app, failure),
            }
        }
    }
}

/// What comes when within a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Config,
    Stop,
    Start,
}

impl Turn {
    fn of(action: &Action) -> Self {
        match action {
            Action::Configure { .. } => Self::Config,
            Action::Disable { .. } | Action::Stop { .. } => Self::Stop,
            Action::Enable { .. }
            | Action::Start { .. }
            | Action::RunServices { .. }
            | Action::Adopt { .. }
            | Action::StopForRemoval { .. }
            | Action::Remove { .. }
            | Action::Install(_) => Self::Start,
        }
    }
}

/// What is being done, by application.
fn describe(under_way: &BTreeMap<&AppName, &Action>) -> String {
    let each = under_way.iter().map(|(app, action)| format!("{app}: {action}"));
    each.collect::<Vec<_>>().join("; ")
}
