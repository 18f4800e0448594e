//! The command line: which command, for which master, with which exit code.

mod apps;
mod completions;
mod confirm;
mod diff;
mod edit;
mod enroll_token;
mod events;
mod forget;
mod get;
mod host;
mod hosts;
mod label;
mod login;
mod ping;
mod put;
mod retry;
mod set;
mod set_many;
mod token;
mod wait;
mod wait_many;
mod watch;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;
use clap::{Args, CommandFactory, Parser, Subcommand};
use protocol::HostId;

use crate::client::Client;
use crate::output::{Color, Terminal, clean, note};
use crate::settings::{Flags, Settings, SettingsError, SettingsFile};

const EXAMPLES: &str = "\
Examples:
  bbctl hosts --status errors                        whom to look after
  bbctl host 02:FC:00:00:00:01                       all that is known of one
  bbctl set web-01 -f apps.yaml --dry-run            what would it do?
  bbctl set web-01 -f apps.yaml --wait               do it, and see it done
  bbctl edit web-01                                  change it in your editor
  bbctl watch                                        what happens, as it happens
  bbctl login https://backbone.example.net           where the master is, and who you are

Settings: the command line, else BBCTL_URL, BBCTL_TOKEN, BBCTL_CA and BBCTL_ALLOW_PLAIN_HTTP, else bbctl.toml in
$XDG_CONFIG_HOME or ~/.config.
Exit codes: 0 ok, 1 failed, 2 usage or settings, 3 not converged (diff: 0 same, 1 different, 2 trouble)";

/// Sees and says what the hosts of a backbone master run.
#[derive(Debug, Parser)]
#[command(name = "bbctl", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct GlobalArgs {
    /// The master's URL [default: http://127.0.0.1:8082].
    #[arg(
        long,
        value_name = "URL",
        global = true,
        help_heading = "Options for all commands"
    )]
    url: Option<String>,
    /// File that holds the token, instead of the one that `login` has stored.
    #[arg(
        long,
        value_name = "FILE",
        global = true,
        help_heading = "Options for all commands"
    )]
    token_file: Option<PathBuf>,
    /// PEM file of the authorities that may vouch for the master, instead of the system's.
    #[arg(
        long,
        value_name = "FILE",
        global = true,
        help_heading = "Options for all commands"
    )]
    ca: Option<PathBuf>,
    /// Speak plain http with another machine.
    #[arg(long, global = true, help_heading = "Options for all commands")]
    allow_plain_http: bool,
    /// Settings file in the place of ~/.config/bbctl.toml.
    #[arg(
        long,
        value_name = "FILE",
        global = true,
        help_heading = "Options for all commands"
    )]
    config: Option<PathBuf>,
    /// When to colour.
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        default_value = "auto",
        global = true,
        help_heading = "Options for all commands"
    )]
    color: Color,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists hosts.
    Hosts(hosts::Hosts),
    /// Shows one host: what it is, what it runs, what it should run, and what is wrong.
    Host(host::Host),
    /// Prints what a host should run, as `set` takes it.
    Get(get::Get),
    /// Sets what a host should run, or many hosts. Applications that are not named are removed.
    Set(set::Set),
    /// Opens what a host should run in your editor, and sets what you make of it.
    Edit(edit::Edit),
    /// Shows how a file differs from what a host should run. Exit code as diff(1): 0 same, 1 different, 2 trouble.
    Diff(diff::Diff),
    /// Asks a host (or all) for its status, and says how long it took.
    Ping(ping::Ping),
    /// Has hosts try again what failed and is held, though nothing else is desired of them.
    Retry(retry::Retry),
    /// Shows what happens, as it happens, until interrupted.
    Watch(watch::Watch),
    /// Shows what happened.
    Events(events::Events),
    /// Shows or changes a host's labels.
    Label(label::Label),
    /// Lists the applications of the fleet, with the number of hosts.
    Apps(apps::Apps),
    /// Forgets a host and what is desired of it. It comes back if it reports.
    Forget(forget::Forget),
    /// Makes, lists and revokes API tokens. Needs the role admin.
    #[command(subcommand)]
    Token(token::Token),
    /// Makes, lists and revokes the tokens by which new hosts come in (`hostagent enroll`). Needs the role operator.
    #[command(subcommand)]
    EnrollToken(enroll_token::EnrollToken),
    /// Stores the master's URL and your token.
    Login(login::Login),
    /// Deletes the stored token.
    Logout,
    /// Prints a completion script for a shell.
    Completions(completions::Completions),
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Ok,
    Failed,
    /// Wrong use, or settings that are not valid.
    Usage,
    /// All went as it should, but the host is not what is desired.
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

/// Wrong use that the parser of the command line cannot see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UsageError(String);

/// What commands work with.
struct Context {
    client: Client,
    terminal: Terminal,
}

/// The definition of the command line, for man pages and completions.
pub fn definition() -> clap::Command {
    Cli::command()
}

/// The whole program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let trouble = match cli.command {
        // As diff(1): 1 is taken for "different".
        Command::Diff(_) => Exit::Usage,
        _ => Exit::Failed,
    };
    match execute(cli) {
        Ok(exit) => exit,
        Err(error) if is_broken_pipe(&error) => Exit::Ok,
        Err(error) => {
            note(&format!("bbctl: {error:#}"));
            match error.is::<UsageError>() || error.is::<SettingsError>() {
                true => Exit::Usage,
                false => trouble,
            }
        }
    }
    .into()
}

/// Whoever closes our output early (`| head`) has read enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io: Option<&io::Error> = error.downcast_ref();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn execute(cli: Cli) -> anyhow::Result<Exit> {
    let GlobalArgs {
        url,
        token_file,
        ca,
        allow_plain_http,
        config,
        color,
    } = cli.global;
    let flags = Flags {
        url,
        token_file,
        ca,
        allow_plain_http,
    };
    let terminal = Terminal::of_process(color);
    let file = || SettingsFile::find(config.as_deref(), environment).map_err(SettingsError::from);
    match &cli.command {
        Command::Completions(command) => return command.execute(),
        Command::Login(command) => return command.execute(&flags, &file()?, terminal),
        Command::Logout => return login::log_out(&file()?),
        _ => {}
    }
    let settings = settings(&flags, file())?;
    let context = Context {
        client: Client::new(&settings)?,
        terminal,
    };
    match cli.command {
        Command::Hosts(command) => command.execute(&context),
        Command::Host(command) => command.execute(&context),
        Command::Get(command) => command.execute(&context),
        Command::Set(command) => command.execute(&context),
        Command::Edit(command) => command.execute(&context),
        Command::Diff(command) => command.execute(&context),
        Command::Ping(command) => command.execute(&context),
        Command::Retry(command) => command.execute(&context),
        Command::Watch(command) => command.execute(&context),
        Command::Events(command) => command.execute(&context),
        Command::Label(command) => command.execute(&context),
        Command::Apps(command) => command.execute(&context),
        Command::Forget(command) => command.execute(&context),
        Command::Token(command) => command.execute(&context),
        Command::EnrollToken(command) => command.execute(&context),
        Command::Login(_) | Command::Logout | Command::Completions(_) => Ok(Exit::Ok),
    }
}

/// A variable; one that is not Unicode is as good as none.
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn settings(flags: &Flags, file: Result<SettingsFile, SettingsError>) -> Result<Settings, SettingsError> {
    let (stored, path) = match file {
        Ok(file) => {
            let stored = file.read()?;
            if stored.token.is_some() && file.is_open_to_others() {
                note(&format!(
                    "bbctl: others may read the token in {}: chmod 600 {0}",
                    file.path().display()
                ));
            }
            (stored, file.path().to_owned())
        }
        // Without a home there is no file, which is no fault where the environment says all.
        Err(_) => Default::default(),
    };
    Settings::resolve(flags, environment, &stored, &path)
}

/// A host id on the command line.
fn host_id(text: &str) -> Result<HostId, String> {
    // As parts of a URL these have a meaning of their own.
    if matches!(text, "." | "..") {
        return Err("is no host id".to_owned());
    }
    HostId::new(text).map_err(|error| format!("is no host id: it {error}"))
}

/// A time on the command line: seconds, or with units, as the settings take both.
fn time(text: &str) -> Result<Duration, String> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let parsed = match is_number {
        true => text
            .parse()
            .ok()
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        false => humantime::parse_duration(text).ok(),
    };
    parsed.ok_or_else(|| "is no time: seconds are needed, or a time with units (90, 90s, 10m, 7d)".to_owned())
}

/// Where the master is cut off from its hosts, what it says of them is of before, and what it is told reaches them later.
fn note_problems(client: &Client) {
    for problem in client.problems() {
        note(&format!(
            "bbctl: the master is not well: {}. What it knows of hosts may be old; what is set is sent when it is well again",
            clean(&problem)
        ));
    }
}

/// All there is to say of something that is not there.
fn no_such_host(id: &HostId) -> anyhow::Error {
    anyhow!(
        "there is no host {id}: none has reported under this id, and nothing is desired of it. `bbctl hosts` lists all"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_seconds_or_has_units() {
        for (text, seconds) in [
            ("30", 30.0),
            ("30s", 30.0),
            ("1.5", 1.5),
            ("2m 1s", 121.0),
            ("500ms", 0.5),
        ] {
            assert_eq!(time(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
        for text in ["", ".", "1.2.3", "-1", "soon", "inf", "9999999999999999999999"] {
            assert!(time(text).is_err(), "{text}");
        }
    }
}
