//! The agent's side and the runner's, joined by real sockets in one process; the children are real.

use std::time::{Duration, Instant};

use super::super::tests::{assert_ends, read_when_there, shell};
use super::super::{Exit, Leftovers, Overflow};
use super::*;

fn runner() -> Arc<Runner> {
    Runner::new(Start::Task(std::sync::Mutex::default()))
}

/// As when somebody kills the process.
fn abort(runner: &Runner) {
    let Start::Task(task) = &runner.start else {
        panic!("no task")
    };
    task.lock().unwrap().as_ref().unwrap().abort();
}

async fn unit_of(runner: &Runner) -> Option<String> {
    let running = runner.running.lock().await;
    running.as_ref().map(|known| known.unit.clone())
}

#[tokio::test]
async fn what_goes_to_a_child_and_comes_from_it_arrives_byte_for_byte() {
    let runner = runner();
    let nasty = "'; rm -rf $HOME \"`id`\"\n\\ \t*";
    let echo = Command::new("printf")
        .arg("%s|%s")
        .secret_arg(nasty)
        .arg("é\u{1f}");
    let output = echo.by_runner(Some(&runner)).run().await.unwrap();
    assert_eq!(output.stdout, format!("{nasty}|é\u{1f}").as_bytes());
    let big: Vec<u8> = (0..700_000u32).map(|n| n as u8).collect();
    let cat = shell("cat; echo $X >&2; exit 3")
        .stdin(big.clone())
        .env("X", "given")
        .by_runner(Some(&runner));
    let output = cat.run_any_exit().await.unwrap();
    assert_eq!(output.exit, Exit::Code(3));
    assert!(output.stdout == big);
    assert_eq!(output.stderr, b"given\n");
}

#[tokio::test]
async fn errors_are_those_of_a_child_of_the_agent_itself() {
    let runner = runner();
    let soon = Duration::from_millis(300);
    let commands = [
        shell("echo fine; echo first >&2; echo the $0 >&2; exit 7").secret_arg("secret"),
        shell("kill -9 $$"),
        shell("echo began; sleep 60").deadline(soon),
        shell("while :; do echo 0123456789; done").output_cap(1000, Overflow::Kill),
        Command::new("/nowhere/hook"),
        Command::new("/etc/passwd"),
        Command::new("with\0nul"),
    ];
    for command in commands {
        let direct = command.run().await.unwrap_err().to_string();
        let by_runner = command.by_runner(Some(&runner)).run().await.unwrap_err();
        assert_eq!(by_runner.to_string(), direct);
    }
}

#[tokio::test]
async fn a_child_whose_future_is_dropped_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let runner = runner();
    let child = shell("echo $$ > \"$0\"; sleep 60")
        .arg(&file)
        .by_runner(Some(&runner));
    let running = tokio::spawn(async move { child.run().await });
    let process = read_when_there(&file).await;
    running.abort();
    assert_ends(&process).await;
}

#[tokio::test]
async fn what_a_child_leaves_behind_stays_or_goes_as_it_was_asked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lives-on");
    let runner = runner();
    let child = |leftovers| {
        // It has ended long before what it has started writes.
        shell("(sleep 0.3; echo yes > \"$0\") > /dev/null 2>&1 & echo $!")
            .arg(&file)
            .leftovers(leftovers)
            .by_runner(Some(&runner))
    };
    let killed = child(Leftovers::Kill).run().await.unwrap().stdout_text();
    assert_ends(&killed).await;
    assert!(!file.exists(), "it was not killed, but came to its end");
    child(Leftovers::Leave).run().await.unwrap();
    assert_eq!(read_when_there(&file).await, "yes\n");
}

#[tokio::test]
async fn children_run_side_by_side_in_one_runner() {
    let runner = runner();
    let started = Instant::now();
    let children = (0..20).map(|n| {
        let child = shell("sleep 0.5; echo $0")
            .arg(n.to_string())
            .by_runner(Some(&runner));
        async move { child.run().await.unwrap().stdout_text() }
    });
    let said = futures_util::future::join_all(children).await;
    assert!(said.iter().enumerate().all(|(n, said)| *said == format!("{n}\n")));
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn a_runner_that_has_ended_unnoticed_is_replaced_and_one_that_never_lives_is_an_error() {
    let runner = runner();
    shell("true").by_runner(Some(&runner)).run().await.unwrap();
    let first = unit_of(&runner).await;
    // Whether it is seen when a child is handed over or when nobody takes it.
    abort(&runner);
    shell("true").by_runner(Some(&runner)).run().await.unwrap();
    assert_ne!(unit_of(&runner).await, first);

    let stillborn = Runner::new(Start::Stillborn);
    let child = shell("true").by_runner(Some(&stillborn));
    let error = child.run().await.unwrap_err().to_string();
    assert!(
        error.contains("ended at once; see `journalctl -u hostagent-hooks-"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_runner_that_takes_nothing_is_an_error_in_time() {
    let runner = Runner::new(Start::Deaf);
    let error = shell("true")
        .by_runner(Some(&runner))
        .run()
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("no hook runner took it within 30s"), "{error}");
    assert_eq!(unit_of(&runner).await, None);
}

#[tokio::test]
async fn a_runner_that_ends_in_the_midst_takes_its_children_with_it_and_is_not_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let runner = runner();
    let child = shell("echo $$ >> \"$0\"; sleep 60")
        .arg(&file)
        .by_runner(Some(&runner));
    let running = tokio::spawn(async move { child.run().await });
    let process = read_when_there(&file).await;
    abort(&runner);
    let error = running.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("the hook runner hostagent-hooks-"), "{error}");
    assert_ends(&process).await;
    assert_eq!(
        std::fs::read_to_string(&file).unwrap(),
        process,
        "it was run once"
    );
}

#[tokio::test]
async fn a_forgotten_runner_ends_with_its_last_child() {
    let runner = runner();
    let child = shell("sleep 0.3; echo done").by_runner(Some(&runner));
    let running = tokio::spawn(async move { child.run().await });
    while unit_of(&runner).await.is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let unit = unit_of(&runner).await.unwrap();
    runner.forget(&unit).await;
    assert_eq!(running.await.unwrap().unwrap().stdout, b"done\n");
    let Start::Task(task) = &runner.start else {
        panic!("no task")
    };
    let task = task.lock().unwrap().take().unwrap();
    while !task.is_finished() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_runner_ends_when_nothing_was_asked_of_it_in_a_while_and_not_while_a_child_runs() {
    let runner = runner();
    let Ok(child) = runner.socket().await else {
        panic!("not started");
    };
    tokio::time::sleep(3 * IDLE).await;
    assert!(unit_of(&runner).await.is_some());
    drop(child);
    tokio::time::sleep(2 * IDLE).await;
    assert_eq!(unit_of(&runner).await, None);
}
