//! `bbctl edit`, with editors that are scripts.

use crate::agent::{Agent, ERROR, Script};
use crate::cli::{Cli, timeless};
use crate::fleet::{Fleet, until_seen};

/// An editor that runs this shell script with the file as `$1`. The file `opened` counts its runs.
fn editor(cli: &mut Cli, script: &str) {
    let path = cli.file("editor.sh", &format!("echo >> \"$HOME/opened\"\n{script}\n"));
    // With an argument, as `code --wait` has.
    cli.set("EDITOR", &format!("sh '{path}'"));
    let _ = std::fs::remove_file(cli.home.path().join("opened"));
}

fn opened(cli: &Cli) -> usize {
    std::fs::read(cli.home.path().join("opened"))
        .unwrap_or_default()
        .len()
}

/// Drafts that were kept.
fn drafts(cli: &Cli) -> Vec<String> {
    let files = std::fs::read_dir(cli.home.path()).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("bbctl-web-01-")).collect()
}

async fn with_web() -> (Fleet, bbmaster::Master, Cli) {
    let (fleet, master, cli) = Fleet::with_master().await;
    let one = cli.file("one.json", r#"{"web": {"version": "1.0"}}"#);
    cli.run(&["set", "web-01", "-f", &one]).await.ok();
    (fleet, master, cli)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_editor_leaves_is_set() {
    let (_fleet, _master, mut cli) = with_web().await;
    editor(
        &mut cli,
        "cp \"$1\" \"$HOME/shown\"; stat -c %a \"$1\" > \"$HOME/mode\"; sed -i 's/1\\.0/1.1/' \"$1\"",
    );
    let run = cli.run(&["edit", "web-01"]).await;
    assert_eq!(
        run.ok(),
        "web-01: desired state set, generation 2\n  ~ web 1.0 -> 1.1\n"
    );
    let shown = std::fs::read_to_string(cli.home.path().join("shown")).unwrap();
    assert_eq!(
        timeless(&shown),
        "# The desired applications of host web-01, generation 1, set by anonymous at <time>.\n\
         # An application that you delete here is removed from the host. Comment lines like this one are not kept.\n\
         # If you change nothing or delete everything, nothing is set; {} removes every application.\n\
         # docs/protocol.md describes all fields.\n\
         web:\n  config: {}\n  running: true\n  version: \"1.0\"\n"
    );
    assert_eq!(
        std::fs::read_to_string(cli.home.path().join("mode")).unwrap(),
        "600\n"
    );
    assert_eq!(drafts(&cli), [""; 0]);
    // VISUAL takes precedence over EDITOR.
    cli.set("VISUAL", "false");
    let run = cli.run(&["edit", "web-01"]).await;
    assert!(
        run.fails(1)
            .contains("the editor \"false\" (VISUAL) failed: exit status: 1; nothing was changed"),
        "{run:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_is_no_change() {
    let (_fleet, _master, mut cli) = with_web().await;
    for script in [
        "true",
        ": > \"$1\"",
        "sed -i 's/^#.*/# mine/' \"$1\"",
        // The same state in another notation.
        "echo '{\"web\": {\"version\": \"1.0\"}}' > \"$1\"",
    ] {
        editor(&mut cli, script);
        assert_eq!(
            cli.run(&["edit", "web-01"]).await.ok(),
            "Nothing was changed.\n",
            "{script}"
        );
        assert_eq!((opened(&cli), drafts(&cli).len()), (1, 0), "{script}");
    }
    assert!(
        cli.run(&["get", "web-01"])
            .await
            .ok()
            .starts_with("# web-01, generation 1,")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_valid_is_opened_again_with_the_complaint() {
    let (_fleet, _master, mut cli) = with_web().await;
    editor(
        &mut cli,
        "if grep -q '^#!' \"$1\"; then cp \"$1\" \"$HOME/shown\"; sed -i 's/1\\.1/\"1.1\"/' \"$1\"\n\
         else sed -i 's/\"1\\.0\"/1.1/' \"$1\"; fi",
    );
    let run = cli.run(&["edit", "web-01"]).await;
    assert_eq!(
        run.ok(),
        "web-01: desired state set, generation 2\n  ~ web 1.0 -> 1.1\n"
    );
    assert_eq!(opened(&cli), 2);
    let shown = std::fs::read_to_string(cli.home.path().join("shown")).unwrap();
    let (complaint, rest) = shown.split_once('\n').unwrap();
    assert!(complaint.starts_with("#! /"), "{complaint}");
    assert!(
        complaint.contains(".yaml:9:12: $.web.version: is a number; a string is needed"),
        "{complaint}"
    );
    assert_eq!(shown.lines().nth(8), Some("  version: 1.1"));
    assert!(rest.starts_with("# The desired applications of host "), "{rest}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn giving_up_on_what_is_not_valid_keeps_the_text() {
    let (_fleet, _master, mut cli) = with_web().await;
    editor(&mut cli, "grep -q '^#!' \"$1\" || echo 'mine: 1' >> \"$1\"");
    let run = cli.run(&["edit", "web-01"]).await;
    assert!(
        run.fails(1).contains("\nNothing was changed; your edit is in "),
        "{run:?}"
    );
    assert_eq!(opened(&cli), 2);
    let kept = drafts(&cli);
    let text = std::fs::read_to_string(cli.home.path().join(&kept[0])).unwrap();
    assert!(text.contains("\nmine: 1\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_by_someone_else_meanwhile_is_noticed_and_the_edit_kept() {
    let (_fleet, _master, mut cli) = with_web().await;
    cli.file("theirs.json", r#"{"web": {"version": "9"}}"#);
    let bbctl = env!("CARGO_BIN_EXE_bbctl");
    editor(
        &mut cli,
        &format!("'{bbctl}' set web-01 -f \"$HOME/theirs.json\" && sed -i 's/1\\.0/1.1/' \"$1\""),
    );
    let run = cli.run(&["edit", "web-01"]).await;
    assert!(
        run.fails(1)
            .starts_with("bbctl: the desired state of web-01 was changed externally while you edited it.")
    );
    assert!(
        run.stderr.contains("\nNothing was changed; your edit is in "),
        "{run:?}"
    );
    let kept = cli.home.path().join(&drafts(&cli)[0]);
    let diff = cli.run(&["diff", "web-01", "-f", kept.to_str().unwrap()]).await;
    assert!(
        diff.stdout.contains("-  version: \"9\"\n+  version: \"1.1\"\n"),
        "{diff:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn emptying_a_host_by_an_edit_has_to_be_said_twice() {
    let (_fleet, _master, mut cli) = with_web().await;
    editor(&mut cli, "echo '{}' > \"$1\"");
    let run = cli.run(&["edit", "web-01"]).await;
    assert!(
        run.fails(1)
            .contains("{} removes every managed application from web-01: web."),
        "{run:?}"
    );
    assert_eq!(drafts(&cli).len(), 1);
    assert_eq!(
        cli.run(&["edit", "web-01", "--yes"]).await.ok(),
        "web-01: desired state set, generation 2\n  - web\n"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_can_be_waited_for() {
    let (fleet, _master, mut cli) = with_web().await;
    let _agent = Agent::start(&fleet.broker, "web-01", Script::Fails);
    until_seen(&cli, "web-01").await;
    editor(&mut cli, "sed -i 's/1\\.0/1.1/' \"$1\"");
    let run = cli.run(&["edit", "web-01", "--wait"]).await;
    assert!(run.fails(3).contains(ERROR), "{run:?}");
}
