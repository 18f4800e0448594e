//! `make demo`: a day in the life of three hosts, on this machine, without privileges.
//!
//! ```text
//! story --REST (operator)--> bbmaster --bus--> three agents --dpkg, rpm, scripts--> three sandboxes
//!   |                           |<--status--bus--|                                      |
//!   |                               witness: hears all of the bus                       |
//!   |  compares: what is wanted (state), what the statuses tell (witness), what the master knows of it
//!   |  (operator), what is there (hosts)
//! ```
//!
//! The modules, in the order in which a run passes through them: [`cli`] (what is asked for),
//! [`leftovers`] (the one folder of all that the run makes, and its end), [`catalogue`] (packages, built
//! and served), [`hosts`] (sandboxes, and what is found in them), [`broker`] (RabbitMQ, where it is asked
//! for), [`witness`] (what goes over the bus), [`agents`] (tasks of this process, or processes), [`operator`]
//! (the master's API), [`stage`] (all of that together), [`story`] (the acts), [`state`] (wanted and found, in one type), [`screen`] (what is printed).

mod agents;
mod broker;
mod catalogue;
mod cli;
mod hosts;
mod leftovers;
mod operator;
mod screen;
mod stage;
mod state;
mod story;
mod witness;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};

use cli::{Cli, beside_this};
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
    // Declared first, so that it is dropped last: the runtime's end waits for threads that work in its folder.
    let workshop;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut interrupts = runtime.block_on(async { Interrupts::listen() })?;
    workshop = Workshop::open()?;
    let end = runtime.block_on(play(cli, screen, &workshop, &mut interrupts));
    drop(runtime);
    workshop.close()?;
    end
}

/// The signals that ask a program to end.
struct Interrupts([Signal; 3]);

impl Interrupts {
    fn listen() -> Result<Self> {
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    async fn come(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

async fn play(
    cli: &Cli,
    screen: &Arc<Screen>,
    workshop: &Workshop,
    interrupts: &mut Interrupts,
) -> Result<End> {
    // Outside of the future that a signal drops, so that all of it is ended in order, whatever happens.
    let mut stage = Stage::default();
    let end = tokio::select! {
        verdict = perform(cli, screen, workshop, &mut stage) => verdict.map(End::Played),
        () = interrupts.come() => Ok(End::Interrupted),
    };
    if let Ok(End::Played(_)) = &end
        && cli.keep
    {
        interrupts.come().await;
    }
    if let Ok(End::Interrupted) = &end {
        screen.note("Interrupted: stopping the agents and tidying up.");
    }
    stage.strike().await;
    end
}

async fn perform(cli: &Cli, screen: &Arc<Screen>, workshop: &Workshop, stage: &mut Stage) -> Result<Verdict> {
    let set = stage.set_up(cli, screen, workshop.folder()).await?;
    let url = set.operator.url().to_owned();
    let package = set.catalogue.url("shop", "2.0");
    let verdict = story::play(set, screen).await?;
    if cli.keep {
        screen.invite(&url, beside_this("bbctl").is_ok(), &package);
    }
    Ok(verdict)
}
