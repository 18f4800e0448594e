//! `hostagent retry`, where going back has failed as well.

use std::process::Stdio;

use super::commands::{NOT_CONVERGED, file, program, run, said};
use super::*;

for_both_families![what_could_not_be_brought_back_goes_forward_when_the_operator_says_so];

/// Somebody else installed 1.0, so there is no way back to it; 2.0 can't be configured as long as a gate is shut.
async fn what_could_not_be_brought_back_goes_forward_when_the_operator_says_so(family: Family) {
    let world = World::without_agent(family).await;
    let foreign = world.build(&example_app("app", "1.0"));
    let install = Transaction {
        install: vec![Source::File(world.packages.inspect(&foreign).await.unwrap())],
        remove: Vec::new(),
    };
    world.packages.apply(&install).await.unwrap();
    let needs_gate = example_app("app", "2.0").script(
        Moment::AfterInstall,
        "echo try >> \"$ROOT/tmp/tries\"; [ -e \"$ROOT/tmp/gate\" ] || { echo 'no gate' >&2; exit 1; }",
    );
    let apps = json!({"app": world.desired(&needs_gate, "new")});
    let output = run(&world, &["apply", &file(&world, "two.json", &apps)]).await;
    assert_eq!(output.status.code(), Some(NOT_CONVERGED), "{}", said(&output));
    let words = said(&output);
    assert!(
        words.contains("no gate") && words.contains("rollback failed"),
        "{words}"
    );
    assert!(world.has_journal());
    let tries = || world.read("/tmp/tries").lines().count();

    let mut agent = program(&world, 1, &["run"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let id = agent.id().unwrap().to_string();
    until("the agent's lock", || {
        let holder = std::fs::read_to_string(world.state_dir().join("lock"));
        holder.unwrap_or_default().contains(&id)
    })
    .await;

    // Nothing is mended yet: it is tried, fails as before, and is held again, with what undo needs.
    let before = tries();
    let retried = run(&world, &["retry"]).await;
    assert_eq!(retried.status.code(), Some(0), "{}", said(&retried));
    until("another try", || tries() > before).await;
    until("an end of it", || is_held(&world)).await;
    assert!(world.has_journal());

    std::fs::write(world.sandbox.join("/tmp/gate"), "").unwrap();
    let retried = run(&world, &["retry"]).await;
    assert_eq!(retried.status.code(), Some(0), "{}", said(&retried));
    until("the new version", || {
        world.database() == ["app 2.0-1"] && !world.has_journal()
    })
    .await;
    world.loaded("app", "2.0\n{\"app\":{\"greeting\":\"new\"}}").await;
    agent.kill().await.unwrap();
}

/// Whether what failed is durably held, and in no transaction any more.
fn is_held(world: &World) -> bool {
    let stored = ProgressBook::peek(&world.state_dir(), &Default::default()).unwrap();
    stored
        .apps
        .values()
        .any(|progress| matches!(progress, Progress::Stuck { .. }))
}
