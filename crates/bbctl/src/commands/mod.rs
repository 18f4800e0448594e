//! The command line: parses it, runs one command, and returns the exit code.

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
use crate::settings::{Settings, SettingsError, SettingsFile, SettingsFlags};

const EXAMPLES: &str = "\
Examples:
  bbctl hosts --status errors                        list hosts with errors
  bbctl host 02:FC:00:00:00:01                       show one host
  bbctl set web-01 -f apps.yaml --dry-run            show what the host would do
  bbctl set web-01 -f apps.yaml --wait               set it, and wait until it is done
  bbctl edit web-01                                  change it in your editor
  bbctl watch                                        show events as they happen
  bbctl login https://backbone.example.net           store the master's URL and your token

Settings come from the command line, else from BBCTL_URL, BBCTL_TOKEN, BBCTL_CA and BBCTL_ALLOW_PLAIN_HTTP, else from
bbctl.toml in $XDG_CONFIG_HOME or ~/.config.
Exit codes: 0 ok, 1 failed, 2 usage or settings, 3 not converged (diff: 0 same, 1 different, 2 failed)";

/// Shows and sets what the hosts of a Backbone master run.
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
    /// File with the token, instead of the token stored by `login`.
    #[arg(
        long,
        value_name = "FILE",
        global = true,
        help_heading = "Options for all commands"
    )]
    token_file: Option<PathBuf>,
    /// PEM file of the certificate authorities that are trusted for the master, instead of the
    /// system's.
    #[arg(
        long,
        value_name = "FILE",
        global = true,
        help_heading = "Options for all commands"
    )]
    ca: Option<PathBuf>,
    /// Allow unencrypted http to another machine.
    #[arg(long, global = true, help_heading = "Options for all commands")]
    allow_plain_http: bool,
    /// Settings file, instead of ~/.config/bbctl.toml.
    #[arg(
        long,
        value_name = "FILE",
        global = true,
        help_heading = "Options for all commands"
    )]
    config: Option<PathBuf>,
    /// When to use colours.
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
    Hosts(hosts::HostsCommand),
    /// Shows one host: facts, installed and desired applications, errors.
    Host(host::HostCommand),
    /// Prints the desired applications of a host, in the format that `set` reads.
    Get(get::GetCommand),
    /// Sets the desired applications of one host or of many. Applications that are not named are
    /// removed.
    Set(set::SetCommand),
    /// Opens the desired applications of a host in your editor, and sets the result.
    Edit(edit::EditCommand),
    /// Shows how a file differs from the desired applications of a host. Exit code as diff(1): 0
    /// same, 1 different, 2 failed.
    Diff(diff::DiffCommand),
    /// Asks a host (or all) for its status, and shows how long the answer takes.
    Ping(ping::PingCommand),
    /// Retries failed applications that are held, without a change of the desired state.
    Retry(retry::RetryCommand),
    /// Shows events as they happen, until interrupted.
    Watch(watch::WatchCommand),
    /// Shows past events.
    Events(events::EventsCommand),
    /// Shows or changes a host's labels.
    Label(label::LabelCommand),
    /// Lists the applications of the fleet, with the number of hosts.
    Apps(apps::AppsCommand),
    /// Deletes a host and its desired state from the master. If the host reports again, it is
    /// listed again.
    Forget(forget::ForgetCommand),
    /// Creates, lists and revokes API tokens. Needs the role admin.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Creates, lists and revokes the tokens with which new hosts enrol (`hostagent enroll`). Needs
    /// the role operator.
    #[command(subcommand)]
    EnrollToken(enroll_token::EnrollTokenCommand),
    /// Stores the master's URL and your token.
    Login(login::LoginCommand),
    /// Deletes the stored token.
    Logout,
    /// Prints a completion script for a shell.
    Completions(completions::CompletionsCommand),
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Ok,
    Failed,
    /// The command line or the settings are not valid.
    Usage,
    /// The command worked, but the host does not satisfy its desired state.
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

/// A wrong command line that clap cannot detect.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UsageError(String);

/// What every command needs.
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
    let failed = match cli.command {
        // As diff(1): 1 means "different".
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
                false => failed,
            }
        }
    }
    .into()
}

/// Whether the reader of our output has closed it early (`| head`). This is not an error.
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
    let flags = SettingsFlags {
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

/// The value of a variable. A value that is not Unicode is ignored.
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn settings(
    flags: &SettingsFlags,
    file: Result<SettingsFile, SettingsError>,
) -> Result<Settings, SettingsError> {
    let (stored, path) = match file {
        Ok(file) => {
            let stored = file.read()?;
            if stored.token.is_some() && file.is_open_to_others() {
                note(&format!(
                    "bbctl: other users can read the token in {}; run: chmod 600 {0}",
                    file.path().display()
                ));
            }
            (stored, file.path().to_owned())
        }
        // Without HOME there is no file. This is not an error: the environment may have all
        // settings.
        Err(_) => Default::default(),
    };
    Settings::resolve(flags, environment, &stored, &path)
}

/// A host id on the command line.
fn host_id(text: &str) -> Result<HostId, String> {
    // In the path of a URL these have a special meaning.
    if matches!(text, "." | "..") {
        return Err("is not a host id".to_owned());
    }
    HostId::new(text).map_err(|error| format!("is not a host id: it {error}"))
}

/// A time on the command line: seconds, or a time with units, as in the settings.
fn time(text: &str) -> Result<Duration, String> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let parsed = match is_number {
        true => text
            .parse()
            .ok()
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        false => humantime::parse_duration(text).ok(),
    };
    parsed.ok_or_else(|| "is not a time: use seconds or a time with units (90, 90s, 10m, 7d)".to_owned())
}

/// Warns if the master cannot reach its hosts: then what it shows may be old, and changes reach
/// hosts later.
fn note_problems(client: &Client) {
    for problem in client.problems() {
        note(&format!(
            "bbctl: the master has a problem: {}. Its data about hosts may be old; changes are sent when \
             the problem is solved",
            clean(&problem)
        ));
    }
}

/// The error for an unknown host.
fn no_such_host(id: &HostId) -> anyhow::Error {
    anyhow!(
        "host {id} is unknown: it has never reported, and has no desired state. `bbctl hosts` lists all hosts"
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
