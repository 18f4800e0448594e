//! What happens while the package manager is at work: pings, newer messages, the end of the agent, a second
//! agent. FAULTS.md rows 16, 24 and 25.

use std::time::Duration;

use harness::driver::Received;
use harness::packages::{Family, Moment, Package, example_app};
use serde_json::json;

use super::agent::{Agent, exists, run_command};
use super::world::{TestHost, World, spec};

/// An example application whose installation takes until the test lets it go on.
fn slow_app(name: &str) -> Package {
    let script = format!(
        "touch \"$ROOT/run/{name}.installing\"\n\
         tries=600\n\
         until [ -e \"$ROOT/run/{name}.may-go-on\" ] || [ $tries = 0 ]; do sleep 0.05; tries=$((tries - 1)); done"
    );
    example_app(name, "1.0").script(Moment::AfterInstall, &script)
}

async fn is_being_installed(host: &TestHost, name: &str) {
    exists(&host.sandbox.join(&format!("/run/{name}.installing"))).await;
}

fn let_go_on(host: &TestHost, name: &str) {
    std::fs::write(host.sandbox.join(&format!("/run/{name}.may-go-on")), "").unwrap();
}

#[tokio::test]
async fn a_deb_install_in_progress_starves_nobody() {
    an_install_in_progress_starves_nobody(Family::Deb).await;
}

#[tokio::test]
async fn an_rpm_install_in_progress_starves_nobody() {
    an_install_in_progress_starves_nobody(Family::Rpm).await;
}

async fn an_install_in_progress_starves_nobody(family: Family) {
    let mut world = World::new(family).await;
    let slow = spec("1.0", &world.serve(&slow_app("slow")));
    let quick = spec("1.0", &world.serve(&example_app("quick", "1.0")));
    let mut agent = world.start_agent().await;

    let first = world.set_config(&json!({"slow": slow})).await;
    is_being_installed(&world.host, "slow").await;
    for topic in ["slaves", "host-1", "host-1"] {
        a_ping_is_answered_at_once(&mut world, topic).await;
    }
    let newer = a_newer_message_takes_over(&mut world, &quick).await;
    let answers: Vec<&str> = world
        .master
        .statuses()
        .iter()
        .filter(|status| status.reply_to() == Some(&first))
        .map(Received::state)
        .collect();
    assert_eq!(answers, ["converging"], "{newer} took over from {first}");

    a_second_agent_is_turned_away(&world, &mut agent).await;
    is_stopped_in_the_midst_and_goes_on(&mut world, agent).await;
}

async fn a_ping_is_answered_at_once(world: &mut World, topic: &str) {
    let (id, sent_at) = world.ping(topic).await;
    let answer = world
        .heard("the answer to a ping", |status| status.reply_to() == Some(&id))
        .await;
    let took = answer.at - sent_at;
    assert_eq!(answer.state(), "converging");
    assert!(answer.data("desired_apps")["slow"].is_object());
    assert!(took < 0.5, "{took} s");
}

/// At the safe point after the package manager's run: what it installed is never configured or started.
async fn a_newer_message_takes_over(world: &mut World, quick: &serde_json::Value) -> String {
    let desired = json!({"quick": quick});
    let newer = world.set_config(&desired).await;
    let answers = |status: &Received| status.reply_to() == Some(&newer);
    let at_once = world.heard("that the newer message was accepted", answers).await;
    assert_eq!(at_once.state(), "converging");
    assert_eq!(at_once.data("desired_apps"), &desired);
    assert!(!world.host.sandbox.join("/etc/init.d/quick").exists());

    let_go_on(&world.host, "slow");
    let done = |status: &Received| status.reply_to() == Some(&newer) && status.state() != "converging";
    let answer = world.heard("the newer state is reached", done).await;
    assert_eq!(answer.state(), "ok");
    world.host.assert_is(&desired, &answer);
    assert!(
        !world.host.sandbox.join("/run/slow.loaded").exists(),
        "it was started"
    );
    newer
}

/// Row 24.
async fn a_second_agent_is_turned_away(world: &World, agent: &mut Agent) {
    let output = run_command(&world.agent_arguments(), &["run"]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    let holder = format!("another hostagent (process {})", agent.id());
    assert!(
        said.contains(&holder) && said.contains("a host can have only one"),
        "{said}"
    );
    assert!(!agent.has_ended());
}

/// Row 25.
async fn is_stopped_in_the_midst_and_goes_on(world: &mut World, mut agent: Agent) {
    let long = spec("1.0", &world.serve(&slow_app("long")));
    let desired = json!({"long": long});
    let id = world.set_config(&desired).await;
    is_being_installed(&world.host, "long").await;
    agent.terminate();
    let ended = agent.ends_within(Duration::from_millis(500)).await;
    assert_eq!(ended, None, "the package manager is at work");
    let_go_on(&world.host, "long");
    let ended = agent.ends_within(Duration::from_secs(10)).await;
    assert_eq!(
        ended.and_then(|status| status.code()),
        Some(0),
        "{}",
        world.host.log()
    );
    // The step has ended, whole: no more and no less.
    assert_eq!(world.host.installed()["long"], "1.0-1");
    assert!(!world.host.runs("long"));

    let _agent = world.spawn_agent();
    let done = |status: &Received| status.reply_to() == Some(&id) && status.state() == "ok";
    let answer = world.heard("the new start has gone on", done).await;
    world.host.assert_is(&desired, &answer);
}

/// Row 16: fifty changes of mind in a row.
#[tokio::test]
async fn a_flapping_master_gets_what_it_said_last() {
    let mut world = World::new(Family::Deb).await;
    let one = json!({"alpha": spec("1.0", &world.serve(&example_app("alpha", "1.0")))});
    let other = json!({"alpha": spec("2.0", &world.serve(&example_app("alpha", "2.0")))});
    let _agent = world.start_agent().await;
    let mut last = String::new();
    for _ in 0..25 {
        world.set_config(&one).await;
        last = world.set_config(&other).await;
    }
    let done = |status: &Received| status.reply_to() == Some(&last) && status.state() != "converging";
    let answer = world.heard("the last state is reached", done).await;
    assert_eq!(answer.state(), "ok");
    world.host.assert_is(&other, &answer);

    // What came in between was skipped, not queued up; and then there is peace.
    let runs = world.host.log().matches("installing alpha").count();
    assert!(runs < 25, "{runs} runs of the package manager");
    let came = world.master.listen(Duration::from_millis(500)).await.unwrap();
    assert!(came.is_empty(), "{came:?}");
    world.host.assert_is(&other, &answer);
}
