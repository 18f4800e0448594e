//! Behaviour on a terminal, and when the output is closed early.

use std::fs::File;
use std::io::{Read, Write};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use tokio::time::timeout;

use crate::agent::{Agent, Script};
use crate::cli::Cli;
use crate::fleet::{Fleet, PATIENCE, until_seen};

/// Runs a command on a terminal with this number of columns, and types `input` when `prompt` is
/// shown. Returns what the terminal shows, and the exit code.
async fn on_a_terminal(
    cli: &Cli,
    columns: u16,
    arguments: &[&str],
    prompt: &str,
    input: &str,
) -> (String, i32) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let size = Winsize {
        ws_row: 24,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&master, size).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let open = || Stdio::from(File::options().read(true).write(true).open(&name).unwrap());
    let mut command = cli.command("setsid");
    command
        .args(["--ctty", "--wait", env!("CARGO_BIN_EXE_bbctl")])
        .args(arguments)
        .stdin(open())
        .stdout(open())
        .stderr(open());
    let mut child = command.spawn().unwrap();
    // Reading ends when the last process that has the other side open ends.
    drop(command);
    let mut terminal = File::from(master);
    let (prompt, input) = (prompt.to_owned(), input.to_owned());
    let reader = thread::spawn(move || {
        let mut shown = Vec::new();
        let mut typed = false;
        let mut piece = [0; 1024];
        while let Ok(read @ 1..) = terminal.read(&mut piece) {
            shown.extend_from_slice(&piece[..read]);
            if !typed && String::from_utf8_lossy(&shown).contains(&prompt) {
                // The prompt for a secret is shown a moment before the echo is off.
                let deadline = Instant::now() + PATIENCE;
                let is_secret = prompt.starts_with("Token");
                while is_secret && echoes(&terminal) && Instant::now() < deadline {
                    thread::sleep(Duration::from_millis(1));
                }
                terminal.write_all(input.as_bytes()).unwrap();
                typed = true;
            }
        }
        String::from_utf8_lossy(&shown).replace("\r\n", "\n")
    });
    let status = timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    let shown = tokio::task::spawn_blocking(|| reader.join().unwrap())
        .await
        .unwrap();
    (shown, status.code().unwrap_or(-1))
}

/// Whether the terminal shows what is typed.
fn echoes(terminal: &File) -> bool {
    tcgetattr(terminal)
        .unwrap()
        .local_modes
        .contains(LocalModes::ECHO)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_fits_the_terminal_and_has_colours_unless_they_are_not_wanted() {
    let (fleet, _master, cli) = Fleet::with_master().await;
    let _agent = Agent::start(&fleet.broker, "web-01", Script::Fails);
    until_seen(&cli, "web-01").await;
    let (shown, code) = on_a_terminal(&cli, 60, &["hosts"], "HOST", "").await;
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("\x1b[32mok\x1b[0m"), "{shown:?}");
    let cli = cli.with("NO_COLOR", "1");
    let (shown, _) = on_a_terminal(&cli, 60, &["hosts"], "HOST", "").await;
    assert!(!shown.contains('\x1b'), "{shown:?}");
    assert!(
        shown.contains('…') && shown.lines().all(|line| line.chars().count() <= 60),
        "{shown}"
    );
    assert!(
        cli.run(&["hosts", "--color", "always"])
            .await
            .ok()
            .contains("\x1b[32mok")
    );
    assert!(!cli.run(&["hosts"]).await.ok().contains('…'));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_terminal_what_destroys_is_asked_for() {
    let (_fleet, _master, cli) = Fleet::with_master().await;
    cli.run(&["label", "web-01", "a=b"]).await.ok();
    let (shown, code) = on_a_terminal(&cli, 200, &["forget", "web-01"], "[y/N]", "n\n").await;
    assert_eq!(code, 1, "{shown}");
    assert!(
        shown.contains("Continue? [y/N] ") && shown.contains("nothing was changed"),
        "{shown}"
    );
    cli.run(&["label", "web-01"]).await.ok();
    let (shown, code) = on_a_terminal(&cli, 200, &["forget", "web-01"], "[y/N]", "y\n").await;
    assert_eq!(code, 0, "{shown}");
    cli.run(&["label", "web-01"]).await.fails(1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_not_shown_while_it_is_typed() {
    let (_fleet, _master, cli) = Fleet::with_master().await;
    let made = cli.run(&["token", "create", "root", "--role", "admin"]).await;
    let secret = made.ok().trim();
    let (shown, code) = on_a_terminal(&cli, 80, &["login"], "Token: ", &format!("{secret}\n")).await;
    assert_eq!(code, 0, "{shown}");
    assert!(
        shown.contains("Logged in at ") && !shown.contains(secret),
        "{shown}"
    );
    cli.run(&["hosts"]).await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_read_enough_is_not_told_off() {
    let (_fleet, _master, cli) = Fleet::with_master().await;
    for n in 0..3 {
        cli.run(&["label", &format!("web-{n}"), "a=b"]).await.ok();
    }
    let bbctl = env!("CARGO_BIN_EXE_bbctl");
    // The sleep makes sure that `true` has ended before anything is written.
    let script = format!(
        "for command in 'hosts' 'events' 'completions bash' 'watch --after 0'; do \
         ({{ sleep 0.3; '{bbctl}' $command; echo \"$command $?\" >&2; }}) | true; done"
    );
    let child = cli.command("sh").args(["-c", &script]).spawn().unwrap();
    let run = crate::cli::finish(child).await;
    assert_eq!(
        run.stderr,
        "hosts 0\nevents 0\ncompletions bash 0\nwatch --after 0 0\n"
    );
}

#[tokio::test]
async fn there_are_completions_and_help_for_every_command() {
    let cli = Cli::new("");
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            cli.run(&["completions", shell]).await.ok().contains("bbctl"),
            "{shell}"
        );
    }
    for command in bbctl::commands::definition().get_subcommands() {
        cli.run(&[command.get_name(), "--help"]).await.ok();
    }
    bbctl::commands::definition().debug_assert();
}
