//! The command line.

mod broker_setup;
mod run;
mod token;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::logging;
use crate::settings::{PROGRAM, Settings, Sources, show};
use crate::store::Store;

const EXAMPLES: &str = "\
Examples:
  bbmaster                                           run the master
  bbmaster check-config                              show all settings and their sources
  bbmaster token create alice --role operator        create an API token
  bbmaster broker-setup --dry-run                    show what is missing in RabbitMQ
  bbmaster openapi                                   print the description of the REST API
  bbmaster --set amqp.host=rabbit.example.net run

Exit codes: 0 ok, 1 failed, 2 usage or settings";

/// The Backbone master: stores what the hosts of a fleet should run, and sends it to them.
#[derive(Debug, Parser)]
#[command(name = "bbmaster", version, after_help = EXAMPLES, subcommand_required = false)]
pub struct Cli {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Args)]
struct SettingsArgs {
    /// Settings file to use instead of /etc/pf9/bbmaster.conf. Its drop-ins are FILE.d/*.conf.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Set one setting. It overrides all files and the environment.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE", global = true)]
    overrides: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the master until it is stopped. This is the default command.
    Run,
    /// Creates, lists and revokes API tokens, directly in the database.
    #[command(subcommand)]
    Token(token::Token),
    /// Creates in RabbitMQ what masters and hosts need: virtual host, exchange, queues, users and
    /// their permissions. Can be repeated: what is right already is not changed.
    BrokerSetup(broker_setup::BrokerSetup),
    /// Checks the settings and prints each with its source. Secrets are not shown.
    CheckConfig,
    /// Prints the description of the REST API (OpenAPI 3.1).
    Openapi,
}

const FAILED: u8 = 1;
const USAGE: u8 = 2;

/// The definition of the command line, for man pages and completions.
pub fn definition() -> clap::Command {
    Cli::command()
}

/// The whole program. Returns its exit code.
pub fn main() -> ExitCode {
    match execute(Cli::parse()) {
        Ok(code) => code,
        Err(error) => print_error(&format!("{error:#}"), FAILED),
    }
}

fn print_error(text: &str, code: u8) -> ExitCode {
    // Standard error is closed: there is no other place for the message.
    let _ = writeln!(std::io::stderr(), "bbmaster: {text}");
    ExitCode::from(code)
}

fn execute(cli: Cli) -> anyhow::Result<ExitCode> {
    let sources = Sources::of_process(&PROGRAM, cli.settings.config, cli.settings.overrides);
    let command = cli.command.unwrap_or(Command::Run);
    if let Command::Openapi = command {
        let text = serde_json::to_string_pretty(&crate::api::document())?;
        return print(&format!("{text}\n"));
    }
    let loaded = match Settings::load(&sources) {
        Ok(loaded) => loaded,
        Err(error) => return Ok(print_error(&error.to_string(), USAGE)),
    };
    let settings = &loaded.settings;
    logging::init(settings.bbmaster.log_level_name);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    match command {
        Command::Run => runtime.block_on(run::run(settings)),
        Command::Token(command) => runtime.block_on(token::execute(command, settings)),
        Command::BrokerSetup(command) => broker_setup::execute(&command, settings),
        Command::CheckConfig => print(&show::effective(&PROGRAM, &loaded)),
        Command::Openapi => Ok(ExitCode::SUCCESS),
    }
}

fn print(text: &str) -> anyhow::Result<ExitCode> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}

/// Opens the database of the settings.
async fn open_store(settings: &Settings) -> anyhow::Result<Store> {
    if let Some(url) = &settings.store.url {
        let store = Store::open_postgres(url.expose(), settings.store.max_connections).await;
        return store.context("cannot use the database of [store] url");
    }
    let folder = &settings.bbmaster.state_dir;
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot create [bbmaster] state_dir {}", folder.display()))?;
    let file = folder.join("bbmaster.db");
    let store = Store::open_sqlite(&file)
        .await
        .with_context(|| format!("cannot use the database {}", file.display()))?;
    keep_private(&file)?;
    Ok(store)
}

/// The configs of applications may contain secrets.
fn keep_private(file: &std::path::Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("cannot make {} readable by its owner only", file.display()))
}
