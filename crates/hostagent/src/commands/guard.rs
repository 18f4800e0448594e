//! `hostagent guard`: watches an upgrade of the agent. The agent itself starts it
//! ([`crate::guard`]).

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bus::amqp;
use bus::backoff;
use protocol::{Apps, Category, Phase};
use tokio::time::Instant;

use super::Exit;
use super::context::Context;
use super::run::amqp_settings;
use crate::engine::book::ProgressBook;
use crate::engine::failure::Failure;
use crate::engine::observe::SELF_APP;
use crate::engine::packages::undo_package;
use crate::engine::progress::Progress;
use crate::engine::snapshot::Before;
use crate::guard::{self, WatchedUpgrade};
use crate::lock::Lock;
use crate::settings::Settings;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pause between two logins that test whether the broker is available. They are made only if the
/// new agent has converged and does not report.
const ASK_BROKER_EVERY: Duration = Duration::from_secs(5);
/// How long the broker must be available before a silent agent counts as failed: longer than the
/// longest pause between an agent's attempts to connect.
const BROKER_IS_FOUND: Duration = backoff::CAP.saturating_add(Duration::from_secs(30));
/// How long to wait for the lock of the upgraded agent after it was stopped.
const LOCK_FREE: Duration = Duration::from_secs(10);
const RESTORE_ATTEMPTS: u32 = 5;
const RESTORE_PAUSE: Duration = Duration::from_secs(30);

/// Runs until an agent has reported the outcome, or restores the previous agent.
pub async fn guard(settings: Settings) -> anyhow::Result<Exit> {
    let context = Context::open(&settings)?;
    let file = guard::file(&context.state_dir);
    // An agent reports only after the bake period.
    let deadline = settings.hostagent.own_upgrade_deadline + settings.hostagent.bake_period;
    let mut watch = NewAgentWatch::new(deadline);
    loop {
        let Some(watched) = file.peek()? else {
            tracing::info!("the agent's upgrade was reported; the guard ends");
            forget_unit(&context).await;
            return Ok(Exit::Ok);
        };
        if is_in_progress(&context, &watched).await {
            watch = NewAgentWatch::new(deadline);
        }
        let converged = has_converged(&context.state_dir, &watched);
        if converged && watch.asks_broker() {
            let login = amqp::log_in(&amqp_settings(&settings, &context)).await;
            if let Err(error) = &login
                && watch.is_broker_there != Some(false)
            {
                tracing::warn!(
                    "the new agent has converged, but the broker is unreachable; waiting: {error}"
                );
            }
            watch.note_broker(login.is_ok());
        }
        if watch.is_over(converged) {
            return restore_previous_agent(&context, &watched, watch.since.elapsed()).await;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The deadline of the new agent begins after the old agent and the package manager have ended.
async fn is_in_progress(context: &Context, watched: &WatchedUpgrade) -> bool {
    let before = Instant::now();
    if let Err(error) = context.host.packages.earlier_runs_end().await {
        tracing::warn!("cannot tell whether a package transaction is still running; retrying: {error}");
        return true;
    }
    before.elapsed() > LOOK_EVERY || watched.is_agent_there()
}

/// Observations since the old agent and the package manager have ended.
struct NewAgentWatch {
    deadline: Duration,
    since: Instant,
    /// Result of the last login.
    is_broker_there: Option<bool>,
    asked_at: Option<Instant>,
    /// Available since then without interruption.
    broker_there_since: Option<Instant>,
}

impl NewAgentWatch {
    fn new(deadline: Duration) -> Self {
        Self {
            deadline,
            since: Instant::now(),
            is_broker_there: None,
            asked_at: None,
            broker_there_since: None,
        }
    }

    fn asks_broker(&self) -> bool {
        self.asked_at.is_none_or(|at| at.elapsed() >= ASK_BROKER_EVERY)
    }

    fn note_broker(&mut self, there: bool) {
        let now = Instant::now();
        self.asked_at = Some(now);
        self.is_broker_there = Some(there);
        self.broker_there_since = there.then(|| self.broker_there_since.unwrap_or(now));
    }

    /// Whether the new agent has failed. One that has converged and only cannot report is kept,
    /// unless the guard, which is a copy of the old agent, can log in at the broker.
    fn is_over(&self, converged: bool) -> bool {
        let found_in = self.deadline.max(BROKER_IS_FOUND);
        let silent = self
            .broker_there_since
            .is_some_and(|since| since.elapsed() >= found_in);
        self.since.elapsed() > self.deadline && (!converged || silent)
    }
}

/// Whether the new agent has done everything except report the outcome.
fn has_converged(state_dir: &Path, watched: &WatchedUpgrade) -> bool {
    let stored = ProgressBook::peek(state_dir, &Apps::new());
    stored.is_ok_and(|stored| {
        let progress = stored.apps.get(&watched.app);
        !progress.is_some_and(Progress::is_in_progress)
    })
}

async fn restore_previous_agent(
    context: &Context,
    watched: &WatchedUpgrade,
    waited: Duration,
) -> anyhow::Result<Exit> {
    let Before::Installed(before) = &watched.change.before else {
        bail!("the agent was not installed before: there is nothing to roll back to");
    };
    let message = format!(
        "the upgraded agent did not start and report within {} s; {} {} was restored. See `journalctl -u {SELF_APP}` of \
         that time",
        waited.as_secs(),
        before.package,
        before.version
    );
    tracing::error!("{message}");
    if let Err(error) = context.host.services.stop(SELF_APP).await {
        tracing::warn!("cannot stop the upgraded agent: {error}");
    }
    let engine = context.looking_engine()?;
    {
        let _lock = take_lock(&context.state_dir).await?;
        let failure = Failure {
            phase: Phase::Health,
            category: Category::Unhealthy,
            message,
        };
        // The previous agent continues from this, and reports it.
        let mut book = ProgressBook::open(&context.state_dir, &engine.ledger)?;
        book.roll_back(&watched.app, watched.change.clone(), failure)?;
        book.note_stop()?;
    }
    let mut attempts = 0;
    let result = loop {
        attempts += 1;
        match undo_package(&engine, &watched.app, &watched.change).await {
            Err(error) if attempts < RESTORE_ATTEMPTS => {
                tracing::error!("cannot restore the previous agent yet: {error}");
                tokio::time::sleep(RESTORE_PAUSE).await;
            }
            result => break result,
        }
    };
    // Only now: until then a guard that starts at boot has to restore the agent.
    let called_off = match &result {
        Ok(()) => guard::call_off(&context.state_dir, &*context.host.services),
        Err(_) => Ok(()),
    };
    // Starts whichever agent is installed now, even if it is not the previous one.
    context.host.services.start(SELF_APP).await?;
    called_off?;
    if result.is_ok() {
        forget_unit(context).await;
    }
    result.context("cannot restore the previous agent")?;
    tracing::info!(version = %before.version, "the previous agent was restored");
    Ok(Exit::Ok)
}

/// The restored agent may create the unit of this name in another way, which systemd refuses as
/// long as it knows this one.
async fn forget_unit(context: &Context) {
    guard::remove_unit(&*context.host.services);
    if let Err(error) = context.host.services.reread_units().await {
        tracing::debug!(%error, "systemd still knows the unit of the guard");
    }
}

async fn take_lock(state_dir: &Path) -> anyhow::Result<Lock> {
    let until = Instant::now() + LOCK_FREE;
    loop {
        match Lock::take(state_dir) {
            Ok(lock) => return Ok(lock),
            Err(error) if Instant::now() > until => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(180);

    /// Seconds until a guard rolls the new agent back, within two hours. `broker`: whether it is
    /// available at that second.
    async fn given_up_after(converged_after: u64, broker: impl Fn(u64) -> bool) -> Option<u64> {
        let mut watch = NewAgentWatch::new(DEADLINE);
        for second in 0..7200 {
            let converged = second >= converged_after;
            if converged && watch.asks_broker() {
                watch.note_broker(broker(second));
            }
            if watch.is_over(converged) {
                return Some(second);
            }
            tokio::time::advance(LOOK_EVERY).await;
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_does_not_come_up_goes_back_whether_the_broker_is_there_or_not() {
        for there in [true, false] {
            assert_eq!(given_up_after(u64::MAX, |_| there).await, Some(181));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_only_cant_report_goes_back_if_the_broker_lets_the_old_one_in() {
        assert_eq!(given_up_after(40, |_| true).await, Some(370));
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_is_away_is_no_reason_to_go_back() {
        assert_eq!(given_up_after(40, |_| false).await, None);
        // After each outage the new agent gets the full time to connect.
        assert_eq!(given_up_after(40, |second| second % 300 < 200).await, None);
        assert_eq!(given_up_after(40, |second| second >= 3000).await, Some(3330));
    }
}
