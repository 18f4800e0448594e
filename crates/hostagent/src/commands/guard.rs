//! `hostagent guard`: watches over an upgrade of the agent, started by the agent itself ([`crate::guard`]).

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use protocol::{Category, Phase};
use tokio::net::TcpStream;

use super::Exit;
use super::context::Context;
use crate::failure::Failure;
use crate::guard::{self, Watched};
use crate::host::{HostError, Source, Transaction};
use crate::journal::{Before, JournalFile, Snapshot, WayBack};
use crate::lock::Lock;
use crate::observe::SELF_APP;
use crate::settings::Settings;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// For the broker to take a connection.
const BROKER_ANSWERS: Duration = Duration::from_secs(5);
/// For the upgraded agent to let go of its lock, once it was stopped.
const LOCK_FREE: Duration = Duration::from_secs(10);
const TRIES: u32 = 5;
const BETWEEN_TRIES: Duration = Duration::from_secs(30);

/// Until an agent has reported the outcome; else brings the previous one back.
pub async fn guard(settings: Settings) -> anyhow::Result<Exit> {
    let context = Context::open(&settings)?;
    let file = guard::file(&context.state_dir);
    let deadline = settings.hostagent.own_upgrade_deadline;
    let mut since = Instant::now();
    let mut patient = false;
    loop {
        let Some(watched) = file.peek()? else {
            tracing::info!("the agent's upgrade was reported; the guard ends");
            return Ok(Exit::Ok);
        };
        // While the old agent or the package manager is at work, the new one's time has not begun.
        let before = Instant::now();
        context.host.packages.earlier_runs_end().await?;
        if before.elapsed() > LOOK_EVERY || is_agent(watched.agent) {
            since = Instant::now();
        }
        if since.elapsed() > deadline {
            if !has_converged(&context.state_dir, &watched) || broker_answers(&settings).await {
                return bring_back(&context, &watched, deadline).await;
            }
            if !patient {
                tracing::warn!(
                    "the new agent has not reported, and the broker does not answer: waiting for that"
                );
                patient = true;
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Whether the process that began the upgrade is still there.
fn is_agent(process: u32) -> bool {
    let program = std::fs::read_to_string(format!("/proc/{process}/comm"));
    program.is_ok_and(|program| program.trim() == "hostagent")
}

/// Whether the new agent has done all that it had to but report it.
fn has_converged(state_dir: &Path, watched: &Watched) -> bool {
    let journal = JournalFile::peek(state_dir);
    journal.is_ok_and(|journal| journal.is_none_or(|journal| !journal.entries.contains_key(&watched.app)))
}

async fn broker_answers(settings: &Settings) -> bool {
    let address = (settings.amqp.host.as_str(), settings.amqp_port());
    let connected = tokio::time::timeout(BROKER_ANSWERS, TcpStream::connect(address)).await;
    matches!(connected, Ok(Ok(_)))
}

async fn bring_back(context: &Context, watched: &Watched, deadline: Duration) -> anyhow::Result<Exit> {
    let Before::Installed(before) = &watched.entry.before else {
        bail!("the agent was not there before: there is nothing to bring back");
    };
    let message = format!(
        "the upgraded agent did not come up and report within {} s; {} {} was brought back. See `journalctl -u \
         {SELF_APP}` of that time",
        deadline.as_secs(),
        before.package,
        before.version
    );
    tracing::error!("{message}");
    if let Err(error) = context.host.services.stop(SELF_APP).await {
        tracing::warn!(%error, "the upgraded agent could not be stopped");
    }
    {
        let _lock = take_lock(&context.state_dir).await?;
        let failure = Failure {
            phase: Phase::Health,
            category: Category::Unhealthy,
            message,
            rolled_back: false,
        };
        // The previous agent takes this up, and reports it.
        let mut journal = JournalFile::open(&context.state_dir)?;
        journal.add(
            &watched.desired,
            vec![(watched.app.clone(), watched.entry.clone())],
        )?;
        journal.doom(&[(watched.app.clone(), failure)].into())?;
        journal.note_stop()?;
        guard::file(&context.state_dir).remove()?;
    }
    let mut tries = 0;
    let result = loop {
        tries += 1;
        match reinstall(context, before).await {
            Err(error) if tries < TRIES => {
                tracing::error!(%error, "the previous agent could not be brought back yet");
                tokio::time::sleep(BETWEEN_TRIES).await;
            }
            result => break result,
        }
    };
    // Whichever agent is there now: one that may work is better than none.
    context.host.services.start(SELF_APP).await?;
    result.context("the previous agent could not be brought back")?;
    tracing::info!(version = %before.version, "the previous agent was brought back");
    Ok(Exit::Ok)
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

async fn reinstall(context: &Context, before: &Snapshot) -> Result<(), HostError> {
    let packages = &context.host.packages;
    let source = match &before.way_back {
        WayBack::File { path } => Source::File(packages.inspect(path).await?),
        WayBack::Repository => Source::Repository {
            name: before.package.clone(),
            version: before.version.clone(),
        },
        WayBack::NotNeeded | WayBack::Url { .. } | WayBack::Nowhere { .. } => {
            let message = format!("{} {} is not to be had", before.package, before.version);
            return Err(HostError::new(Category::NotFound, message));
        }
    };
    packages.heal().await?;
    let transaction = Transaction {
        install: vec![source],
        remove: Vec::new(),
    };
    packages.apply(&transaction).await
}
