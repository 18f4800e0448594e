//! What goes back: after a failure, and after a crash.

use protocol::{AppName, Category, Phase};

use super::attempt::Attempt;
use super::{End, stuck, together};
use crate::engine::failure::{Failure, Failures};
use crate::engine::rollback;

impl Attempt<'_> {
    /// What an earlier run of the agent, or an attempt that was superseded, has left.
    pub(super) fn take_up_journal(&mut self) -> Result<(), End> {
        let Some(journal) = self.journal.get() else {
            return Ok(());
        };
        let same = journal.desired == self.desired.apps;
        let crashes = journal.crashes;
        let doomed: Vec<(AppName, Option<Failure>)> = journal
            .entries
            .iter()
            .map(|(app, entry)| (app.clone(), entry.doomed.clone()))
            .collect();
        // First those that failed, by what they failed of; then those that are tied to them.
        for (app, failure) in &doomed {
            if let Some(failure) = failure
                && !self.held.contains(app)
            {
                self.failures.insert(app.clone(), failure.clone());
            }
        }
        for (app, failure) in doomed {
            match failure {
                Some(failure) if !self.held.contains(&app) && same => self.fail(&app, failure),
                // What was tied to it then, and changed, was doomed with it.
                Some(_) if !self.held.contains(&app) => {
                    self.stale.insert(app);
                }
                None if same && crashes >= self.engine.max_crashes => {
                    let message = format!(
                        "the agent was killed {crashes} times while changing {app}; it is given up. Look at the system's \
                         log for what killed it (the OOM killer, a watchdog), then change the desired state or say \
                         `hostagent retry`"
                    );
                    let failure = Failure {
                        phase: Phase::Install,
                        category: Category::Timeout,
                        message,
                        rolled_back: false,
                    };
                    self.fail(&app, failure);
                }
                Some(_) | None => {}
            }
        }
        Ok(())
    }

    /// What failed after it was changed.
    pub(super) fn to_be_rolled_back(&self) -> Failures {
        let failed = self.failures.iter();
        failed
            .filter(|(app, _)| self.journal.entry(app).is_some())
            .filter(|(app, _)| !self.rolled_back.contains(*app) && !self.held.contains(*app))
            .map(|(app, failure)| (app.clone(), failure.clone()))
            .collect()
    }

    /// What failed because somebody else was changing the package at that time is no failure: it is planned anew. How
    /// often, the passes of an attempt limit.
    async fn leave_overtaken(&mut self) -> Result<(), End> {
        for (app, _) in self.to_be_rolled_back() {
            if let Some(entry) = self.journal.entry(&app).cloned()
                && rollback::is_overtaken(self.engine, &app, &entry).await
            {
                self.start_over(&app)?;
            }
        }
        Ok(())
    }

    /// What fell only because `app` did gets up with it; what failed by itself will do so again.
    fn start_over(&mut self, app: &AppName) -> Result<(), End> {
        tracing::warn!(%app, "somebody else has changed its package meanwhile; it is looked at anew");
        for tied in together::with(&self.desired.apps, app) {
            if !self.held.contains(&tied) {
                self.failures.remove(&tied);
                self.rolled_back.remove(&tied);
                self.journal.reprieve(&tied).map_err(stuck)?;
            }
        }
        self.failures.remove(app);
        self.stale.remove(app);
        self.journal.forget(app).map_err(stuck)
    }

    /// Brings back every application that failed after it was changed.
    pub(super) async fn roll_back_failed(&mut self) -> Result<(), End> {
        self.leave_overtaken().await?;
        let failed = self.to_be_rolled_back();
        // At once: killed between two that stand or fall together, the agent would let one of them stand.
        self.journal.doom(&failed).map_err(stuck)?;
        for (app, failure) in failed {
            let Some(entry) = self.journal.entry(&app).cloned() else {
                continue;
            };
            self.converging(None, format!("rolling back {app}"));
            tracing::warn!(%app, "rolling back");
            let failure = match rollback::roll_back(self.engine, &app, &entry).await {
                Ok(()) if self.stale.remove(&app) => {
                    self.failures.remove(&app);
                    self.journal.forget(&app).map_err(stuck)?;
                    continue;
                }
                Ok(()) => {
                    tracing::warn!(%app, "rolled back: it is what it was");
                    Failure {
                        rolled_back: true,
                        ..failure
                    }
                }
                // There is no way back, and by now something else is desired: that may be the way out.
                Err(obstacle) if self.stale.remove(&app) => {
                    tracing::warn!(%app, "{}; going on to what is desired now", obstacle.message);
                    self.failures.remove(&app);
                    self.journal.reprieve(&app).map_err(stuck)?;
                    continue;
                }
                Err(obstacle) => {
                    tracing::error!(%app, "{}", obstacle.message);
                    let message = format!("{}. And the application {}", failure.message, obstacle.message);
                    Failure {
                        phase: Phase::Rollback,
                        category: obstacle.category,
                        message,
                        rolled_back: false,
                    }
                }
            };
            self.failures.insert(app.clone(), failure);
            self.rolled_back.insert(app);
        }
        Ok(())
    }
}
