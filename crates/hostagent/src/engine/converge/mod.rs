//! The loop that brings the host to its desired state: observe, plan, carry out the first part of the plan, and again until
//! the plan is empty; then watch what was changed, while drift of the others is repaired.
//!
//! Every turn ends at a safe point: what is done shows in the next observation, what is not is planned again. What undo
//! needs is durable before the first change. As long as anything is being rolled back, nothing else is done.

mod forward;
mod back;
mod passes;
mod fail;
mod roles;

use std::collections::BTreeSet;
use std::sync::Arc;

use host::{Family, HostError};
use protocol::{AppName, Category, Phase};
use tokio::time::Instant;

use super::Engine;
use super::bake::Bakes;
use super::book::ProgressBook;
use super::failure::{Failure, Failures};
use super::flaps::Flaps;
use super::forecast;
use super::observe::{Freshness, Observed, SELF_APP};
use super::progress::{DesiredDigest, Event, Progress};
use super::signals::{Interrupt, PlanQuestion, Signals};
use super::snapshot::{Before, UndoSource};
use crate::guard::Guard;
use crate::host_state::{Board, Standing};
use crate::ledger::Desired;
use passes::Passes;

/// How an attempt ended.
#[derive(Debug)]
pub enum End {
    /// Nothing is left to do but for the applications that are in trouble.
    Finished(Finished),
    /// The desired state has changed: start over with the new one.
    Superseded,
    /// The agent is to stop; the next start goes on.
    Stopped,
    /// The host could not be observed, or the agent's own state not be written.
    Blocked(Failure),
}

#[derive(Debug)]
pub struct Finished {
    pub observed: Arc<Observed>,
    /// What no step can reach, by application.
    pub faults: Failures,
    /// Whether anything was done.
    pub worked: bool,
    /// When the last turn began.
    pub turn_at: Instant,
}

impl From<Interrupt> for End {
    fn from(interrupt: Interrupt) -> Self {
        match interrupt {
            Interrupt::Superseded => Self::Superseded,
            Interrupt::Stopped => Self::Stopped,
        }
    }
}

/// The end of an attempt because something fails that is not of one application.
pub(super) fn blocked(error: impl Into<Failure>) -> End {
    End::Blocked(error.into())
}

/// Which way applications go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Back,
}

/// What is left after a turn of the loop.
enum Turn {
    Again,
    Finished(Observed),
}

/// One attempt to reach `desired`.
pub struct Convergence<'a> {
    pub(super) engine: &'a Engine,
    pub(super) desired: &'a Arc<Desired>,
    digest: DesiredDigest,
    pub(super) book: &'a mut ProgressBook,
    bakes: &'a mut Bakes,
    flaps: &'a mut Flaps,
    board: &'a Board,
    /// Who is told that the attempt has begun.
    reply_to: Option<String>,
    worked: bool,
    crashes_checked: bool,
    /// When the last turn began: what was due by then was looked at.
    turn_at: Instant,
    passes: Passes,
    pub(super) healed: bool,
    faults: Failures,
    pub(super) direction: Direction,
}

impl<'a> Convergence<'a> {
    pub fn new(
        engine: &'a Engine,
        desired: &'a Arc<Desired>,
        book: &'a mut ProgressBook,
        bakes: &'a mut Bakes,
        flaps: &'a mut Flaps,
        board: &'a Board,
        reply_to: Option<String>,
    ) -> Self {
        Self {
            engine,
            desired,
            digest: DesiredDigest::of(&desired.apps),
            book,
            bakes,
            flaps,
            board,
            reply_to,
            worked: false,
            crashes_checked: false,
            turn_at: Instant::now(),
            passes: Passes::default(),
            healed: false,
            faults: Failures::new(),
            direction: Direction::Forward,
        }
    }

    /// Until nothing is left to do, or something ends it.
    pub async fn run(mut self, signals: &mut Signals) -> End {
        let end = self.run_to_end(signals).await.unwrap_or_else(|end| end);
        if let Err(error) = self.tidy().await {
            tracing::warn!("cannot update the records of installed applications: {error}");
        }
        if matches!(end, End::Stopped)
            && let Err(error) = self.book.note_stop()
        {
            tracing::warn!(
                "cannot store that the agent was stopped; the next start counts this as a crash: {error}"
            );
        }
        end
    }

    async fn run_to_end(&mut self, signals: &mut Signals) -> Result<End, End> {
        self.take_up()?;
        loop {
            if let Turn::Finished(observed) = self.turn(signals).await? {
                return Ok(End::Finished(Finished {
                    observed: Arc::new(observed),
                    faults: self.all_faults(),
                    worked: self.worked,
                    turn_at: self.turn_at,
                }));
            }
        }
    }

    /// What no step can reach, and what does not stay up.
    fn all_faults(&mut self) -> Failures {
        let mut faults = std::mem::take(&mut self.faults);
        for app in self.desired.apps.keys() {
            let is_in_trouble = self.book.get(app).and_then(Progress::trouble).is_some();
            if let Some(failure) = self.flaps.failure(app)
                && !is_in_trouble
            {
                faults.entry(app.clone()).or_insert(failure);
            }
        }
        faults
    }

    /// What an earlier run of the agent, or an attempt that was superseded, has left.
    fn take_up(&mut self) -> Result<(), End> {
        if !self.desired.stated {
            return Ok(());
        }
        let apps: Vec<AppName> = self.book.apps().keys().cloned().collect();
        let desired = apps.iter().map(|app| {
            let digest = self.digest.clone();
            (app.clone(), Event::Desired { digest })
        });
        self.book.note(desired.collect::<Vec<_>>());
        Ok(())
    }

    /// A change that kills the agent again and again is rolled back. True if there is any.
    fn fail_crashed(&mut self, observed: &Observed) -> Result<bool, End> {
        if std::mem::replace(&mut self.crashes_checked, true) {
            return Ok(false);
        }
        let crashed: Vec<(AppName, Failure)> = self
            .book
            .in_progress()
            .filter_map(|(app, progress)| {
                let change = progress.change()?;
                let is_over = change.desired == self.digest && change.crashes >= self.engine.max_crashes;
                let goes_forward = !matches!(progress, Progress::RollingBack { .. });
                (is_over && goes_forward).then(|| (app.clone(), change.crashed_too_often(app)))
            })
            .collect();
        let any = !crashed.is_empty();
        self.fail_all(crashed, observed)?;
        Ok(any)
    }

    async fn turn(&mut self, signals: &mut Signals) -> Result<Turn, End> {
        self.direction = match self.book.is_rolling_back() {
            true => Direction::Back,
            false => Direction::Forward,
        };
        self.safe_point(signals).await?;
        self.turn_at = Instant::now();
        let mut observed = self.observe().await?;
        if self.fail_crashed(&observed)? || self.note_external_changes(&observed) {
            return Ok(Turn::Again);
        }
        match self.direction {
            Direction::Back => self.turn_back(&mut observed, signals).await,
            Direction::Forward => self.turn_forward(observed, signals).await,
        }
    }

    /// Ends the attempt if it is to end. A rollback that was begun is not left for another desired state.
    async fn safe_point(&mut self, signals: &mut Signals) -> Result<(), End> {
        self.check_interrupts(signals)?;
        while let Ok(question) = signals.questions.try_recv() {
            self.answer(question, signals).await?;
        }
        self.check_interrupts(signals)
    }

    fn check_interrupts(&self, signals: &Signals) -> Result<(), End> {
        match signals.pending(self.desired) {
            Some(Interrupt::Superseded) if self.direction == Direction::Back => Ok(()),
            Some(interrupt) => Err(interrupt.into()),
            None => Ok(()),
        }
    }

    /// A question that is dropped is asked again.
    pub(super) async fn answer(&self, question: PlanQuestion, signals: &mut Signals) -> Result<(), End> {
        let answering = forecast::answer(self.engine, question);
        tokio::pin!(answering);
        // A forecast only looks: it can be dropped.
        tokio::select! {
            () = &mut answering => return Ok(()),
            interrupt = signals.interrupted(self.desired) => match (interrupt, self.direction) {
                (Interrupt::Superseded, Direction::Back) => {}
                (interrupt, _) => return Err(interrupt.into()),
            },
        }
        answering.await;
        Ok(())
    }

    async fn observe(&self) -> Result<Observed, End> {
        let failed = |error: HostError| blocked(Failure::new(Phase::Observe, error));
        let observed = self.engine.observe(&self.desired.apps, Freshness::Light).await;
        let mut observed = observed.map_err(failed)?;
        let family = self.engine.host.packages.family();
        for (app, progress) in self.book.apps() {
            // While the agent itself is rolled back, it is this program that observes: the package is there, and to install
            // it again would end this program time and again.
            let is_self = observed
                .apps
                .get(app)
                .is_some_and(|there| there.package == SELF_APP);
            if let Some(unfinished) = progress.unfinished()
                && !(is_self && matches!(progress, Progress::RollingBack { .. }))
            {
                observed.mark_unfinished(app, unfinished, family);
            }
        }
        Ok(observed)
    }

    /// What failed, or is about to, because somebody else changed the package while only config and services were being changed,
    /// is planned anew. True if there is any. How often: [`Passes`].
    fn note_external_changes(&mut self, observed: &Observed) -> bool {
        let is_changed = |app: &AppName, progress: &Progress| {
            let Progress::RollingBack { change, .. } = progress else {
                return false;
            };
            let Before::Installed(before) = &change.before else {
                return false;
            };
            before.undo == UndoSource::NotNeeded
                && observed
                    .apps
                    .get(app)
                    .is_none_or(|there| there.version != before.version || there.broken)
        };
        let changed = self
            .book
            .in_progress()
            .filter(|(app, progress)| is_changed(app, progress));
        let changed: Vec<AppName> = changed.map(|(app, _)| app.clone()).collect();
        let mut events = Vec::new();
        for app in &changed {
            tracing::warn!(%app, "the package of {app} was changed externally; {app} is planned again");
            let tied = self.tied_to(app);
            events.extend(
                tied.into_iter()
                    .chain([app.clone()])
                    .map(|app| (app, Event::ChangedExternally)),
            );
        }
        self.book.note(events);
        !changed.is_empty()
    }

    /// Says once that the attempt has begun; `what`: for people.
    pub(super) fn begins(&mut self, observed: &Observed, what: &str) {
        if std::mem::replace(&mut self.worked, true) {
            return;
        }
        let was_converging = matches!(
            self.board.standing(),
            Standing::Converging { .. } | Standing::Watching { .. }
        );
        if !was_converging || self.reply_to.is_some() {
            tracing::info!("converging: {what}");
        }
        let standing = Standing::Converging {
            detail: what.to_owned(),
        };
        self.board
            .note(self.desired, Some(&Arc::new(observed.clone())), standing);
        if !self.is_retrying() {
            self.board.announce(self.reply_to.take());
        }
    }

    /// Whether this attempt repeats one that failed transiently: the master has been told.
    fn is_retrying(&self) -> bool {
        let mut troubles = self.book.apps().values().filter_map(Progress::trouble);
        self.reply_to.is_none() && troubles.any(|trouble| trouble.failure.category.is_transient())
    }

    pub(super) fn converging(&self, detail: impl Into<String>) {
        let detail = detail.into();
        self.board
            .note(self.desired, None, Standing::Converging { detail });
    }

    /// An application that is neither desired nor installed is no longer managed; one that is desired is removed, when it goes,
    /// by its newest rank. Package files that no rollback needs are released.
    async fn tidy(&self) -> Result<(), HostError> {
        let packages = self.engine.host.packages.installed().await?;
        self.engine
            .ledger
            .change_records(|records| {
                records.retain(|app, record| {
                    let spec = self.desired.apps.get(app);
                    record.rank = spec.map_or(record.rank, |spec| spec.rank);
                    spec.is_some() || packages.contains(&record.package)
                });
            })
            .map_err(|error| HostError::new(Category::Host, error.to_string()))?;
        let records = self.engine.ledger.records();
        let installed = records.values().filter_map(|record| {
            let version = packages.get(&record.package)?.version;
            record.provenance_of(version)?.file.clone()
        });
        let befores = self
            .book
            .apps()
            .values()
            .filter_map(|progress| Some(&progress.change()?.before));
        let undo = befores.filter_map(|before| match before {
            Before::Installed(snapshot) => match &snapshot.undo {
                UndoSource::File { path } => Some(path.clone()),
                UndoSource::NotNeeded
                | UndoSource::Url { .. }
                | UndoSource::Repository
                | UndoSource::Nowhere { .. } => None,
            },
            Before::Absent { .. } => None,
        });
        // The guard of the agent's own upgrade may have to install the previous one, also after this one counts as good.
        let guarded = self.engine.guard.as_ref().and_then(Guard::undo_file);
        let files: BTreeSet<_> = installed.chain(undo).chain(guarded).collect();
        self.engine.host.downloads.protect(&files);
        Ok(())
    }

    pub(super) fn family(&self) -> Family {
        self.engine.host.packages.family()
    }
}
