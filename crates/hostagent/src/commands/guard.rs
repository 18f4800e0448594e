//! `hostagent guard`: watches over an upgrade of the agent, started by the agent itself ([`crate::guard`]).

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
/// Between two logins that find out whether the broker is there. Only an agent that has done its work and does not report
/// is the reason for any.
const ASK_BROKER_EVERY: Duration = Duration::from_secs(5);
/// How long the broker has been there before a silent agent is at fault: one that looks for it as rarely as it ever does has
/// tried by then.
const BROKER_IS_FOUND: Duration = backoff::CAP.saturating_add(Duration::from_secs(30));
/// For the upgraded agent to let go of its lock, once it was stopped.
const LOCK_FREE: Duration = Duration::from_secs(10);
const TRIES: u32 = 5;
const BETWEEN_TRIES: Duration = Duration::from_secs(30);

/// Until an agent has reported the outcome; else brings the previous one back.
pub async fn guard(settings: Settings) -> anyhow::Result<Exit> {
    let context = Context::open(&settings)?;
    let file = guard::file(&context.state_dir);
    // An agent that watches itself has not reported yet.
    let deadline = settings.hostagent.own_upgrade_deadline + settings.hostagent.bake_period;
    let mut watch = Watch::new(deadline);
    loop {
        let Some(watched) = file.peek()? else {
            tracing::info!("the agent's upgrade was reported; the guard ends");
            forget_unit(&context).await;
            return Ok(Exit::Ok);
        };
        if is_under_way(&context, &watched).await {
            watch = Watch::new(deadline);
        }
        let converged = has_converged(&context.state_dir, &watched);
        if converged && watch.asks_broker() {
            let login = amqp::log_in(&amqp_settings(&settings, &context)).await;
            if let Err(error) = &login
                && watch.is_broker_there != Some(false)
            {
                tracing::warn!(%error, "the new agent has converged, and nobody reaches the broker to report it: waiting");
            }
            watch.note_broker(login.is_ok());
        }
        if watch.is_over(converged) {
            return bring_back(&context, &watched, watch.since.elapsed()).await;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// While the old agent or the package manager is at work, the new one's time has not begun.
async fn is_under_way(context: &Context, watched: &WatchedUpgrade) -> bool {
    let before = Instant::now();
    if let Err(error) = context.host.packages.earlier_runs_end().await {
        tracing::warn!(%error, "cannot tell whether a package transaction is still running; asking again");
        return true;
    }
    before.elapsed() > LOOK_EVERY || watched.is_agent_there()
}

/// What has been seen since the new agent has been on its own.
struct Watch {
    deadline: Duration,
    since: Instant,
    /// As found by the last login.
    is_broker_there: Option<bool>,
    asked_at: Option<Instant>,
    /// Without a gap.
    broker_there_since: Option<Instant>,
}

impl Watch {
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

    /// Whether the new agent has had its time. One that has done its work and only can't report it is no worse than the old
    /// one, unless the broker lets the guard, which is the old one, in.
    fn is_over(&self, converged: bool) -> bool {
        let found_in = self.deadline.max(BROKER_IS_FOUND);
        let silent = self
            .broker_there_since
            .is_some_and(|since| since.elapsed() >= found_in);
        self.since.elapsed() > self.deadline && (!converged || silent)
    }
}

/// Whether the new agent has done all that it had to but report it.
fn has_converged(state_dir: &Path, watched: &WatchedUpgrade) -> bool {
    let stored = ProgressBook::peek(state_dir, &Apps::new());
    stored.is_ok_and(|stored| {
        let progress = stored.apps.get(&watched.app);
        !progress.is_some_and(Progress::is_in_progress)
    })
}

async fn bring_back(context: &Context, watched: &WatchedUpgrade, waited: Duration) -> anyhow::Result<Exit> {
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
        tracing::warn!(%error, "cannot stop the upgraded agent");
    }
    let engine = context.looking_engine()?;
    {
        let _lock = take_lock(&context.state_dir).await?;
        let failure = Failure {
            phase: Phase::Health,
            category: Category::Unhealthy,
            message,
        };
        // The previous agent takes this up, and reports it.
        let mut book = ProgressBook::open(&context.state_dir, &engine.ledger)?;
        book.roll_back(&watched.app, watched.change.clone(), failure)?;
        book.note_stop()?;
    }
    let mut tries = 0;
    let result = loop {
        tries += 1;
        match undo_package(&engine, &watched.app, &watched.change).await {
            Err(error) if tries < TRIES => {
                tracing::error!(%error, "cannot restore the previous agent yet");
                tokio::time::sleep(BETWEEN_TRIES).await;
            }
            result => break result,
        }
    };
    // Only now: until it is done, a guard that starts at boot has to do it.
    let called_off = match &result {
        Ok(()) => guard::call_off(&context.state_dir, &*context.host.services),
        Err(_) => Ok(()),
    };
    // Whichever agent is there now: one that may work is better than none.
    context.host.services.start(SELF_APP).await?;
    called_off?;
    if result.is_ok() {
        forget_unit(context).await;
    }
    result.context("cannot restore the previous agent")?;
    tracing::info!(version = %before.version, "the previous agent was restored");
    Ok(Exit::Ok)
}

/// An agent that was gone back to makes a unit of the same name in its own way, which systemd refuses as long as it
/// knows this one.
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

    /// Seconds until a guard gives up on the new agent, over two hours. `broker`: whether it is there at a time.
    async fn given_up_after(converged_after: u64, broker: impl Fn(u64) -> bool) -> Option<u64> {
        let mut watch = Watch::new(DEADLINE);
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
        // Each time it is back the new agent gets the time to find it.
        assert_eq!(given_up_after(40, |second| second % 300 < 200).await, None);
        assert_eq!(given_up_after(40, |second| second >= 3000).await, Some(3330));
    }
}
