//! Real children that misbehave.

use std::time::Instant;

use rustix::process::{Pid, Signal};

use super::outcome::EXCERPT_BYTES;
use super::*;

pub(super) fn shell(script: &str) -> Command {
    Command::new("/bin/sh").arg("-c").arg(script)
}

/// Waits until `process` is gone (or a zombie, which only its new parent can reap).
pub(super) async fn assert_ends(process: &str) {
    let deadline = Instant::now() + Duration::from_secs(5);
    let alive = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.trim())).unwrap_or_default();
        stat.rsplit(") ")
            .next()
            .is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
    };
    while alive() {
        assert!(Instant::now() < deadline, "process {process} still runs");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until a child has written its process id.
pub(super) async fn read_when_there(path: &std::path::Path) -> String {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match std::fs::read_to_string(path) {
            Ok(text) if text.ends_with('\n') => return text,
            _ => assert!(Instant::now() < deadline, "{} was not written", path.display()),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn arguments_and_stdin_arrive_byte_for_byte() {
    let nasty = "'; rm -rf $HOME \"`id`\"\n\\ \t*";
    let output = Command::new("printf").arg("%s").arg(nasty).run().await.unwrap();
    assert_eq!(output.stdout, nasty.as_bytes());
    let big = vec![b'x'; 300_000];
    let output = Command::new("cat").stdin(big.clone()).run().await.unwrap();
    assert_eq!(output.stdout, big);
}

#[tokio::test]
async fn a_child_gets_only_its_own_environment_folder_and_an_empty_stdin() {
    let output = shell("env | sed 's/=.*//' | sort | tr '\\n' ' '; pwd; cat; echo $X").env("X", "given");
    let output = output.run().await.unwrap().stdout_text();
    assert_eq!(output, "HOME LANG PATH PWD X /\ngiven\n");
}

#[tokio::test]
async fn an_exit_code_is_an_error_that_says_what_and_why() {
    let error = shell("echo fine; echo first >&2; echo second >&2; exit 7")
        .run()
        .await
        .unwrap_err();
    let said = error.to_string();
    assert!(said.starts_with("`/bin/sh -c"), "{said}");
    assert!(
        said.ends_with("failed with exit code 7: first | second"),
        "{said}"
    );
    let output = shell("exit 3").run_any_exit().await.unwrap();
    assert_eq!(output.exit, Exit::Code(3));
    let output = shell("kill -9 $$").run_any_exit().await.unwrap();
    assert_eq!(output.exit, Exit::Signal(9));
}

#[tokio::test]
async fn at_its_deadline_it_is_dead_with_all_it_started_before_anything_else_is_done() {
    // One whose parent is gone, one whose parent is not, and one in a session of its own.
    let one = "sh -c 'echo $$; exec sleep 600'";
    let script = format!("({one} &); {one} & setsid {one} & sleep 600");
    let command = shell(&script).deadline(Duration::from_secs(2));
    let Err(CommandError::TimedOut { output, .. }) = command.run().await else {
        panic!("it ended in time");
    };
    let processes: Vec<&str> = output.split(" | ").collect();
    assert_eq!(processes.len(), 3, "{output}");
    for process in processes {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
    }
}

#[tokio::test]
async fn a_missing_program_is_named() {
    let error = Command::new("/no/such/hook").run().await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("cannot start `/no/such/hook`: no such program"),
        "{error}"
    );
}

#[tokio::test]
async fn at_the_deadline_the_child_and_what_it_started_are_killed() {
    let dir = tempfile::tempdir().unwrap();
    let ids = dir.path().join("ids");
    let script = format!(
        "sleep 600 & echo $! > {0}.new; mv {0}.new {0}; echo waiting >&2; wait",
        ids.display()
    );
    let error = shell(&script)
        .deadline(Duration::from_millis(300))
        .run()
        .await
        .unwrap_err();
    assert!(matches!(error, CommandError::TimedOut { .. }), "{error}");
    assert!(error.to_string().ends_with("was killed: waiting"), "{error}");
    assert_ends(&read_when_there(&ids).await).await;
}

#[tokio::test]
async fn a_descendant_in_another_session_is_killed_too() {
    let dir = tempfile::tempdir().unwrap();
    let ids = dir.path().join("ids");
    let script = format!("setsid -w sh -c 'echo $$ > {}; exec sleep 600'", ids.display());
    let error = shell(&script)
        .deadline(Duration::from_millis(300))
        .run()
        .await
        .unwrap_err();
    assert!(matches!(error, CommandError::TimedOut { .. }), "{error}");
    assert_ends(&read_when_there(&ids).await).await;
}

#[tokio::test]
async fn endless_output_is_cut_off() {
    let error = Command::new("yes")
        .output_cap(10_000, Overflow::Kill)
        .run()
        .await
        .unwrap_err();
    assert!(
        matches!(error, CommandError::TooMuchOutput { cap: 10_000, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn of_a_long_log_the_tail_is_kept() {
    let output = shell("yes | head -c 5000000; echo end").output_cap(1000, Overflow::KeepTail);
    let output = output.run().await.unwrap();
    assert_eq!(output.stdout.len(), 1000);
    assert!(output.stdout.ends_with(b"y\nend\n"));
}

#[tokio::test]
async fn a_child_that_forks_away_holding_the_pipes_does_not_hang_us() {
    let output = shell("sleep 600 & echo $!").run().await.unwrap();
    assert!(output.elapsed < Duration::from_secs(5), "{:?}", output.elapsed);
    let process = output.stdout_text();
    let id: i32 = process.trim().parse().unwrap();
    // Left alone: it may be a service.
    let id = Pid::from_raw(id).unwrap();
    rustix::process::test_kill_process(id).unwrap();
    rustix::process::kill_process(id, Signal::KILL).unwrap();
}

#[tokio::test]
async fn leftovers_are_killed_where_asked() {
    let output = shell("sleep 600 & echo $!")
        .leftovers(Leftovers::Kill)
        .run()
        .await
        .unwrap();
    assert_ends(&output.stdout_text()).await;
}

#[tokio::test]
async fn a_dropped_run_leaves_no_orphan_but_run_to_end_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (ids, done) = (dir.path().join("ids"), dir.path().join("done"));
    let command = shell(&format!("echo $$ > {}; exec sleep 600", ids.display()));
    tokio::select! {
        _ = command.run() => panic!("it sleeps"),
        id = read_when_there(&ids) => { drop(command); std::fs::write(&ids, id).unwrap() }
    }
    assert_ends(&std::fs::read_to_string(&ids).unwrap()).await;

    std::fs::remove_file(&ids).unwrap();
    let script = format!(
        "echo $$ > {}; sleep 0.2; echo yes > {}",
        ids.display(),
        done.display()
    );
    tokio::select! {
        _ = shell(&script).run_to_end() => panic!("it sleeps longer than its start takes"),
        _ = read_when_there(&ids) => {}
    }
    assert_eq!(read_when_there(&done).await, "yes\n");
}

#[tokio::test]
async fn secrets_are_neither_shown_nor_quoted() {
    let secret = r#"{"db":{"password":"hunter2"}}"#;
    let command = shell("echo \"cannot apply $1: hunter2\" >&2; exit 1")
        .arg("hook")
        .secret_arg(secret)
        .redact("hunter2");
    let said = command.run().await.unwrap_err().to_string();
    assert!(!said.contains("hunter2"), "{said}");
    assert!(said.ends_with("cannot apply <secret>: <secret>"), "{said}");
    assert!(!command.to_string().contains("hunter2"));
}

#[test]
fn an_excerpt_is_the_end_and_short() {
    assert_eq!(last_lines("\n\n"), "");
    assert_eq!(last_lines("1\n2\n3\n4\n5\n\n6\n"), "2 | 3 | 4 | 5 | 6");
    let long = "é".repeat(5000);
    assert!(last_lines(&long).len() <= EXCERPT_BYTES);
}
