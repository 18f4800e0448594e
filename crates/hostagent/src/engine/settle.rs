//! Config and services, in the order of ranks; then restarts of services that still run a previous version.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use host::{HostError, atomic_file};
use protocol::spec::cmp_rank;
use protocol::{AppName, Category, Phase};

use super::Engine;
use super::converge::{Convergence, Direction, End, blocked};
use super::failure::{Failure, Failures};
use super::observe::Observed;
use super::plan::{SettleAction, Step, Targets, rank_of};
use super::progress::{Event, Progress, Unfinished};
use super::signals::{Interrupt, Signals};
use super::snapshot::SavedFile;
use super::undo;

/// Applications whose services are started or stopped side by side, at most.
const SIDE_BY_SIDE: usize = 8;

impl Convergence<'_> {
    /// Config and services. An application whose step fails is left where it is; the others go on. Those of one rank get their
    /// config one after the other, since hooks may share files; then what is to stop stops, side by side; then the rest starts,
    /// which may need what the others have released.
    pub(super) async fn settle(
        &mut self,
        steps: &[Step<SettleAction>],
        targets: &Targets,
        observed: &Observed,
        signals: &mut Signals,
    ) -> Result<(), End> {
        self.begin_settling(steps, observed)?;
        let mut failed = Failures::new();
        for equals in by_rank(steps, targets) {
            for (turn, side_by_side) in [
                (SettleTurn::Config, 1),
                (SettleTurn::Stop, SIDE_BY_SIDE),
                (SettleTurn::Start, SIDE_BY_SIDE),
            ] {
                let in_turn: Vec<&Step<SettleAction>> = equals
                    .iter()
                    .copied()
                    .filter(|step| SettleTurn::of(&step.action) == turn)
                    .collect();
                let ended = self
                    .take_steps(&in_turn, side_by_side, observed, &mut failed, signals)
                    .await;
                if let Err(end) = ended {
                    self.fail_settling(failed, observed).await?;
                    return Err(end);
                }
            }
        }
        self.fail_settling(failed, observed).await
    }

    /// What undo needs of those that are changed is durable when it returns. A repair needs nothing.
    fn begin_settling(&mut self, steps: &[Step<SettleAction>], observed: &Observed) -> Result<(), End> {
        if self.direction == Direction::Back {
            return self.note_restored_services(steps, observed);
        }
        let apps: BTreeSet<&AppName> = steps.iter().map(|step| &step.app).collect();
        let mut events = Vec::new();
        for app in apps.into_iter().filter(|app| self.is_change(app)) {
            let settled = self.book.get(app).and_then(Progress::settled_spec);
            let before = undo::before(observed, &self.engine.ledger.records(), app, settled);
            let mut change = self.change_of(app, before, Unfinished::default());
            change.started = started_by(steps, app);
            events.push((app.clone(), Event::Begin(Box::new(change))));
        }
        match events.is_empty() {
            true => Ok(()),
            false => self.book.record(events).map_err(blocked),
        }
    }

    /// A service that runs while its files are put back runs with what was there before: it is restarted.
    fn note_restored_services(
        &mut self,
        steps: &[Step<SettleAction>],
        observed: &Observed,
    ) -> Result<(), End> {
        let restored = steps
            .iter()
            .filter(|step| matches!(step.action, SettleAction::RestoreFile(_)));
        for app in restored.map(|step| &step.app).collect::<BTreeSet<_>>() {
            let Some(there) = observed.apps.get(app) else {
                continue;
            };
            let running = there.running_instances();
            self.book
                .update(&[app], |progress| {
                    if let Some(unfinished) = progress.unfinished_mut() {
                        unfinished.outdated.extend(running.clone());
                    }
                })
                .map_err(blocked)?;
        }
        Ok(())
    }

    /// Those of one application one after the other, up to `side_by_side` applications at the same time.
    async fn take_steps(
        &self,
        steps: &[&Step<SettleAction>],
        side_by_side: usize,
        observed: &Observed,
        failed: &mut Failures,
        signals: &Signals,
    ) -> Result<(), End> {
        let engine = self.engine;
        let mut waiting: VecDeque<_> = steps
            .chunk_by(|one, next| one.app == next.app)
            .map(<[_]>::iter)
            .collect();
        let mut taken = FuturesUnordered::new();
        let mut running: BTreeMap<&AppName, &SettleAction> = BTreeMap::new();
        loop {
            while taken.len() < side_by_side
                && self.interrupt(signals).is_none()
                && let Some(mut of_app) = waiting.pop_front()
            {
                let Some(step) = of_app.next() else { continue };
                if failed.contains_key(&step.app)
                    || self
                        .tied_to(&step.app)
                        .iter()
                        .any(|tied| failed.contains_key(tied))
                {
                    continue;
                }
                tracing::info!(app = %step.app, "{}: {}", step.app, step.action);
                running.insert(&step.app, &step.action);
                taken.push(async move {
                    let settled = settle_step(engine, observed, step).await;
                    (step, settled, of_app)
                });
            }
            if !running.is_empty() {
                let each = running.iter().map(|(app, action)| format!("{app}: {action}"));
                self.converging(each.collect::<Vec<_>>().join("; "));
            }
            let Some((step, settled, rest)) = taken.next().await else {
                return self
                    .interrupt(signals)
                    .map_or(Ok(()), |interrupt| Err(interrupt.into()));
            };
            running.remove(&step.app);
            match settled {
                Ok(()) => waiting.push_front(rest),
                Err(failure) => {
                    failed.insert(step.app.clone(), failure);
                }
            }
        }
    }

    /// A rollback that was begun is not left for another desired state.
    fn interrupt(&self, signals: &Signals) -> Option<Interrupt> {
        signals
            .pending(self.desired)
            .filter(|interrupt| *interrupt == Interrupt::Stopped || self.direction == Direction::Forward)
    }

    async fn fail_settling(&mut self, mut failed: Failures, observed: &Observed) -> Result<(), End> {
        if failed.is_empty() {
            return Ok(());
        }
        if self.direction == Direction::Back {
            return self.fail_back(failed);
        }
        for app in self.changed_externally(failed.keys(), observed).await {
            tracing::warn!(%app, "{app} failed while its package was changed externally; it is planned again");
            failed.remove(&app);
            self.book.note([(app, Event::ChangedExternally)]);
        }
        // A service whose start failed and that runs all the same was started by somebody else.
        self.book
            .note_in_memory(&failed.keys().collect::<Vec<_>>(), |progress| {
                if let Progress::Applying { change } = progress {
                    change.started.clear();
                }
            });
        self.fail_all(failed, observed)
    }

    /// Those of `apps` whose packages are no longer as `observed`.
    async fn changed_externally(
        &self,
        apps: impl Iterator<Item = &AppName>,
        observed: &Observed,
    ) -> Vec<AppName> {
        let Ok(installed) = self.engine.host.packages.installed().await else {
            return Vec::new();
        };
        let is_changed = |app: &&AppName| {
            observed.apps.get(*app).is_some_and(|there| {
                installed
                    .get(&there.package)
                    .is_none_or(|now| now.version != there.version || now.broken)
            })
        };
        apps.filter(is_changed).cloned().collect()
    }

    /// Services that still run the previous version, in the order of ranks, those of one rank side by side. None is begun once
    /// there is something else to do.
    pub(super) async fn restart(
        &mut self,
        steps: &[Step<Vec<String>>],
        targets: &Targets,
        observed: &Observed,
        signals: &mut Signals,
    ) -> Result<(), End> {
        let mut failed = Failures::new();
        for equals in by_rank(steps, targets) {
            self.restart_equals(&equals, &mut failed, signals).await;
        }
        self.fail_in_direction(failed, observed)?;
        self.interrupt(signals)
            .map_or(Ok(()), |interrupt| Err(interrupt.into()))
    }

    async fn restart_equals(
        &mut self,
        steps: &[&Step<Vec<String>>],
        failed: &mut Failures,
        signals: &Signals,
    ) {
        let services = self.engine.host.services.clone();
        let mut waiting = steps.iter();
        let mut restarting = FuturesUnordered::new();
        let mut running: BTreeMap<&AppName, String> = BTreeMap::new();
        loop {
            while restarting.len() < SIDE_BY_SIDE
                && self.interrupt(signals).is_none()
                && let Some(step) = waiting.next()
            {
                let names = step.action.join(", ");
                tracing::info!(app = %step.app, "{}: restart {names}, which still runs the previous version", step.app);
                running.insert(&step.app, names);
                let services = services.clone();
                restarting.push(async move {
                    let mut error = None;
                    for service in &step.action {
                        error = services.restart(service).await.err().or(error);
                    }
                    (step, error)
                });
            }
            if !running.is_empty() {
                let each = running
                    .iter()
                    .map(|(app, names)| format!("{app}: restart {names}"));
                self.converging(each.collect::<Vec<_>>().join("; "));
            }
            let Some((step, error)) = restarting.next().await else {
                return;
            };
            running.remove(&step.app);
            match error {
                Some(error) => {
                    failed.insert(step.app.clone(), Failure::new(Phase::Service, error));
                }
                // If this is not persisted, a crash costs one more restart.
                None => self.book.note_update(&[&step.app], |progress| {
                    if let Some(unfinished) = progress.unfinished_mut() {
                        unfinished.outdated.clear();
                    }
                }),
            }
        }
    }
}

/// Steps of equal rank together, the ranks in their order, applications of one rank by name.
fn by_rank<'a, Action>(steps: &'a [Step<Action>], targets: &Targets) -> Vec<Vec<&'a Step<Action>>> {
    let mut sorted: Vec<&Step<Action>> = steps.iter().collect();
    sorted.sort_by(|one, other| {
        cmp_rank(rank_of(targets, &one.app), rank_of(targets, &other.app))
            .then_with(|| one.app.cmp(&other.app))
    });
    sorted
        .chunk_by(|one, next| cmp_rank(rank_of(targets, &one.app), rank_of(targets, &next.app)).is_eq())
        .map(<[_]>::to_vec)
        .collect()
}

fn started_by(steps: &[Step<SettleAction>], app: &AppName) -> BTreeSet<String> {
    let of_app = steps.iter().filter(|step| step.app == *app);
    let started = of_app.filter_map(|step| match &step.action {
        SettleAction::Start { service } => Some(service.clone()),
        SettleAction::RestoreFile(_)
        | SettleAction::Configure { .. }
        | SettleAction::Enable { .. }
        | SettleAction::Disable { .. }
        | SettleAction::Stop { .. } => None,
    });
    started.collect()
}

/// What comes when within a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SettleTurn {
    Config,
    Stop,
    Start,
}

impl SettleTurn {
    fn of(action: &SettleAction) -> Self {
        match action {
            SettleAction::RestoreFile(_) | SettleAction::Configure { .. } => Self::Config,
            SettleAction::Disable { .. } | SettleAction::Stop { .. } => Self::Stop,
            SettleAction::Enable { .. } | SettleAction::Start { .. } => Self::Start,
        }
    }
}

/// One step. Decides nothing.
async fn settle_step(engine: &Engine, observed: &Observed, step: &Step<SettleAction>) -> Result<(), Failure> {
    let host = &engine.host;
    let result = match &step.action {
        SettleAction::RestoreFile(file) => {
            let restored = restore_file(file);
            engine.observer.forget_config(&step.app);
            return restored.map_err(|error| Failure::new(Phase::Configure, error));
        }
        SettleAction::Configure { config, .. } => {
            let Some(there) = observed.apps.get(&step.app) else {
                return Ok(());
            };
            let running = there.running_services();
            let written = host
                .app_config
                .write(&step.app, &there.package, config, &running)
                .await;
            engine.observer.forget_config(&step.app);
            return written.map_err(|error| Failure::new(Phase::Configure, error));
        }
        SettleAction::Enable { service } => host.services.enable(service).await,
        SettleAction::Disable { service } => host.services.disable(service).await,
        SettleAction::Start { service } => host.services.start(service).await,
        SettleAction::Stop { service } => host.services.stop(service).await,
    };
    result.map_err(|error| Failure::new(Phase::Service, error))
}

fn restore_file(file: &SavedFile) -> Result<(), HostError> {
    let result = match &file.content {
        Some(content) => {
            atomic_file::replace_or_overwrite(&file.path, content.as_bytes(), file.mode, Some(file.owner))
        }
        None => match std::fs::remove_file(&file.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
    };
    result.map_err(|error| {
        HostError::new(
            Category::Host,
            format!("cannot restore {}: {error}", file.path.display()),
        )
    })
}
