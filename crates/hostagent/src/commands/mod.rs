//! The command line: which command, with which settings, and with which exit code.

pub mod apply;
pub mod check_config;
mod context;
mod desired_file;
pub mod enroll;
pub mod guard;
pub mod id;
pub mod journal;
pub mod plan;
pub mod redact;
pub mod retry;
pub mod run;
mod run_hooks;
pub mod status;
pub mod support_bundle;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bus::slack;
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::logging;
use crate::settings::{Loaded, PROGRAM, Settings, Sources};

/// How long threads that still download may take to end after a command.
const THREADS_END: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  hostagent                                          run the agent
  hostagent check-config                             what is set, and where
  hostagent id -v                                    this host's id, and where it comes from
  hostagent plan desired.json                        what would be done, without doing it
  hostagent apply desired.json                       do it now, without a broker
  hostagent apply desired.json --only-if 1f2e3d4c5b6a  only if that is still the plan
  hostagent status --json                            the status message, as the master gets it
  hostagent enroll --master https://m.example.net:8082  get this host's broker login from a master
  hostagent retry                                    retry what failed and is held
  hostagent --set hostagent.log_level_name=DEBUG run

Exit codes: 0 ok, 1 failed, 2 usage or settings, 3 not converged";

/// Keeps this host at its desired set of applications.
#[derive(Debug, Parser)]
#[command(name = "hostagent", version, after_help = EXAMPLES, subcommand_required = false)]
pub struct Cli {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Args)]
struct SettingsArgs {
    /// Settings file instead of /etc/pf9/hostagent.conf; its drop-ins are FILE.d/*.conf.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// A setting with precedence over all others.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE", global = true)]
    overrides: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the agent until it is told to stop (this is also what happens without a command).
    Run,
    /// Prints this host's id.
    Id {
        /// Also where it comes from.
        #[arg(short, long)]
        verbose: bool,
    },
    /// Prints the state of this host: what is installed, and what is desired.
    Status {
        /// The status message as the master gets it.
        #[arg(long)]
        json: bool,
    },
    /// Prints what applying a desired state would do. Changes nothing.
    Plan {
        /// Desired state: a set_config message, or only its data.
        file: PathBuf,
        #[arg(long)]
        json: bool,
    },
    /// Converges this host to a desired state, once, without a broker.
    Apply {
        /// Desired state: a set_config message, or only its data.
        file: PathBuf,
        /// Only if the plan is still the one with this hash, as `plan` printed it.
        #[arg(long, value_name = "HASH")]
        only_if: Option<String>,
    },
    /// Gets this host its login at the broker from a master, by an enrolment token; writes the
    /// settings, and enables and starts the agent. Can be run again, with a token that names this
    /// host.
    Enroll(enroll::EnrollArgs),
    /// Makes the running agent retry what failed and is held.
    Retry,
    /// Prints the changes in progress, and how they would be undone.
    Journal,
    /// Watches an upgrade of the agent; the agent itself starts this.
    #[command(hide = true)]
    Guard,
    /// Starts hooks and health checks outside the agent's sandbox; the agent itself starts this.
    #[command(hide = true)]
    RunHooks,
    /// Checks the settings, and prints each with where it comes from. Secrets are not shown.
    CheckConfig,
    /// Writes information for the analysis of a problem into one file, without secrets.
    SupportBundle {
        /// The file to write. Not given: hostagent-support.tar in this folder.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Ok,
    Failed,
    /// Wrong use, or settings that are not valid.
    Usage,
    /// The command worked, but the host is not as desired.
    NotConverged,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Ok => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::NotConverged => 3,
        })
    }
}

/// The definition of the command line, for man pages and completions.
pub fn definition() -> clap::Command {
    Cli::command()
}

/// The whole program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    execute(cli)
        .unwrap_or_else(|error| print_error(&format!("{error:#}"), Exit::Failed))
        .into()
}

fn execute(cli: Cli) -> anyhow::Result<Exit> {
    let sources = Sources::of_process(&PROGRAM, cli.settings.config, cli.settings.overrides);
    let loaded = Settings::load(&sources);
    let command = cli.command.unwrap_or(Command::Run);
    // These work with invalid settings, or need none.
    match &command {
        Command::RunHooks => return block_on(run_hooks::run_hooks()),
        Command::CheckConfig => return check_config::check_config(&loaded),
        Command::SupportBundle { output } => {
            return block_on(support_bundle::support_bundle(&loaded, output.as_deref()));
        }
        Command::Run
        | Command::Id { .. }
        | Command::Status { .. }
        | Command::Plan { .. }
        | Command::Apply { .. }
        | Command::Enroll(_)
        | Command::Retry
        | Command::Journal
        | Command::Guard => {}
    }
    let Loaded {
        settings, warnings, ..
    } = match loaded {
        Ok(loaded) => loaded,
        Err(error) => return Ok(print_error(&error.to_string(), Exit::Usage)),
    };
    logging::init(settings.hostagent.log_level_name);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    match command {
        Command::Run => block_on(run::run(settings)),
        Command::Id { verbose } => id::id(&settings, verbose),
        Command::Status { json } => block_on(status::status(settings, json)),
        Command::Plan { file, json } => block_on(plan::plan(settings, &file, json)),
        Command::Apply { file, only_if } => block_on(apply::apply(settings, &file, only_if.as_deref())),
        Command::Enroll(request) => block_on(async { enroll::enroll(&sources, &settings, request).await }),
        Command::Retry => retry::retry(&settings),
        Command::Journal => journal::journal(&settings),
        Command::Guard => block_on(guard::guard(settings)),
        Command::CheckConfig | Command::RunHooks | Command::SupportBundle { .. } => Ok(Exit::Ok),
    }
}

/// One thread for all tasks. Blocking work has its own threads; at the end they are waited for at
/// most [`THREADS_END`].
fn block_on(future: impl Future<Output = anyhow::Result<Exit>>) -> anyhow::Result<Exit> {
    let runtime = slack::for_runtime(|| tokio::runtime::Builder::new_current_thread().enable_all().build())?;
    let exit = runtime.block_on(future);
    runtime.shutdown_timeout(THREADS_END);
    exit
}

fn print_error(message: &str, exit: Exit) -> Exit {
    let _ = writeln!(io::stderr(), "hostagent: {message}");
    exit
}

/// Prints to standard output. A reader that closes it early (`| head`) is not an error.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}
