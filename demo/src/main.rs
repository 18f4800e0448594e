//! `make demo`: a day in the life of three hosts, on this machine, without privileges.
//!
//! ```text
//! story --set_config, ping--> master --bus--> three agents --dpkg, rpm, scripts--> three sandboxes
//!   |                           |<--status--bus--|                                      |
//!   |  compares: what is wanted (state), what the statuses tell (master), what is there (hosts)
//! ```
//!
//! The modules, in the order in which a run passes through them: [`cli`] (what is asked for),
//! [`leftovers`] (the one folder of all that the run makes, and its end), [`catalogue`] (packages, built
//! and served), [`hosts`] (sandboxes, and what is found in them), [`broker`] (RabbitMQ, where it is asked
//! for), [`agents`] (tasks of this process, or processes), [`stage`] (all of that together), [`master`],
//! [`story`] (the acts), [`state`] (wanted and found, in one type), [`screen`] (what is printed).

mod agents;
mod broker;
mod catalogue;
mod cli;
mod hosts;
mod leftovers;
mod master;
mod screen;
mod stage;
mod state;
mod story;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use cli::Cli;
use leftovers::Workshop;
use screen::Screen;
use stage::Stage;
use story::Verdict;

/// What a shell says of a program that SIGINT ended.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let screen = Arc::new(Screen::of_stdout());
    match run(&cli, &screen) {
        Ok(End::Played(Verdict::AsWanted)) => ExitCode::SUCCESS,
        Ok(End::Played(Verdict::NotAsWanted)) => ExitCode::FAILURE,
        Ok(End::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            screen.failure(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

enum End {
    Played(Verdict),
    Interrupted,
}

fn run(cli: &Cli, screen: &Arc<Screen>) -> Result<End> {
    // Outlives the runtime, whose end waits for threads that still work in the folder.
    let workshop = Workshop::open()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let end = runtime.block_on(play(cli, screen, &workshop));
    drop(runtime);
    workshop.close()?;
    end
}

async fn play(cli: &Cli, screen: &Arc<Screen>, workshop: &Workshop) -> Result<End> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    // Outside of the future that a signal drops, so that all of it is ended in order, whatever happens.
    let mut stage = Stage::default();
    let end = tokio::select! {
        verdict = perform(cli, screen, workshop, &mut stage) => verdict.map(End::Played),
        _ = interrupt.recv() => Ok(End::Interrupted),
        _ = terminate.recv() => Ok(End::Interrupted),
        _ = hangup.recv() => Ok(End::Interrupted),
    };
    if let Ok(End::Interrupted) = &end {
        screen.note("Interrupted: stopping the agents and tidying up.");
    }
    stage.strike().await;
    end
}

async fn perform(cli: &Cli, screen: &Arc<Screen>, workshop: &Workshop, stage: &mut Stage) -> Result<Verdict> {
    let set = stage.set_up(cli, screen, workshop.folder()).await?;
    story::play(set, screen).await
}
