//! `make demo`: runs a master and three hosts on this machine, without privileges.
//!
//! ```text
//! story --REST (operator)--> bbmaster --bus--> three agents --dpkg, rpm, scripts--> three
//! sandboxes
//!   |                           |<--status--bus--|                                      |
//!   |                               listener: receives every message                     |
//!   |  compares: desired state (state), statuses (listener), the master's data (operator), the host (hosts)
//! ```
//!
//! A run passes through these modules, in this order:
//!
//! | module | job |
//! |---|---|
//! | [`cli`] | the command line |
//! | [`leftovers`] | the temporary folder, and clean-up |
//! | [`fleet`] | starts and stops everything |
//! | [`catalogue`] | packages, built and served |
//! | [`hosts`] | sandboxes, and what is in them |
//! | [`broker`] | RabbitMQ, with `--broker` |
//! | [`listener`] | receives all messages |
//! | [`agents`] | the agents |
//! | [`operator`] | the client of the master's API |
//! | [`story`] | the parts of the demo |
//! | [`state`] | desired and observed applications, in one type |
//! | [`screen`] | prints everything |

mod cli;
mod leftovers;
mod fleet;
mod catalogue;
mod hosts;
mod broker;
mod listener;
mod agents;
mod operator;
mod story;
mod state;
mod screen;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};

use cli::{Cli, beside_this};
use fleet::Fleet;
use leftovers::TemporaryFolder;
use screen::Screen;
use story::Verdict;

/// The exit code of a program that was ended by SIGINT.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let screen = Arc::new(Screen::of_stdout());
    match run(&cli, &screen) {
        Ok(RunEnd::Completed(Verdict::AsDesired)) => ExitCode::SUCCESS,
        Ok(RunEnd::Completed(Verdict::NotAsDesired)) => ExitCode::FAILURE,
        Ok(RunEnd::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            screen.failure(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

enum RunEnd {
    Completed(Verdict),
    Interrupted,
}

fn run(cli: &Cli, screen: &Arc<Screen>) -> Result<RunEnd> {
    // Declared first, so that it is dropped last: when the runtime is dropped, it waits for threads
    // that use the folder.
    let folder;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut interrupts = runtime.block_on(async { Interrupts::listen() })?;
    folder = TemporaryFolder::open()?;
    let end = runtime.block_on(run_until_signal(cli, screen, &folder, &mut interrupts));
    drop(runtime);
    folder.close()?;
    end
}

/// The signals that end the demo.
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

async fn run_until_signal(
    cli: &Cli,
    screen: &Arc<Screen>,
    folder: &TemporaryFolder,
    interrupts: &mut Interrupts,
) -> Result<RunEnd> {
    // Outside of the future that a signal drops, so that everything is always stopped in order.
    let mut fleet = Fleet::default();
    let end = tokio::select! {
        verdict = run_parts(cli, screen, folder, &mut fleet) => verdict.map(RunEnd::Completed),
        () = interrupts.come() => Ok(RunEnd::Interrupted),
    };
    if let Ok(RunEnd::Completed(_)) = &end
        && cli.keep
    {
        interrupts.come().await;
    }
    if let Ok(RunEnd::Interrupted) = &end {
        screen.note("Interrupted. Stopping the agents and cleaning up.");
    }
    fleet.tear_down().await;
    end
}

async fn run_parts(
    cli: &Cli,
    screen: &Arc<Screen>,
    folder: &TemporaryFolder,
    fleet: &mut Fleet,
) -> Result<Verdict> {
    let setup = fleet.set_up(cli, screen, folder.path()).await?;
    let url = setup.operator.url().to_owned();
    let package = setup.catalogue.url("shop", "2.0");
    let verdict = story::run(setup, screen).await?;
    if cli.keep {
        screen.invite(&url, beside_this("bbctl").is_ok(), &package);
    }
    Ok(verdict)
}
