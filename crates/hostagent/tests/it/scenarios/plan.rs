//! `hostagent plan FILE` on a host with drift: prints it, and touches nothing.

use harness::packages::{Family, example_app};
use serde_json::{Value, json};

use super::agent::run_command;
use super::world::{World, spec};

#[tokio::test]
async fn plan_prints_drift_on_a_deb_host_and_touches_nothing() {
    plan_prints_drift_and_touches_nothing(Family::Deb).await;
}

#[tokio::test]
async fn plan_prints_drift_on_an_rpm_host_and_touches_nothing() {
    plan_prints_drift_and_touches_nothing(Family::Rpm).await;
}

async fn plan_prints_drift_and_touches_nothing(family: Family) {
    let mut world = World::new(family).await;
    let apps = ["alpha", "beta", "gamma"].map(|name| {
        let url = world.serve(&example_app(name, "1.0"));
        (name, spec("1.0", &url))
    });
    let mut desired: Value = apps.into_iter().collect();
    let mut agent = world.start_agent().await;
    let (_, answer) = world.converge(&desired).await;
    world.host.assert_is(&desired, &answer);
    agent.terminate();
    agent.ends_within(super::world::PATIENCE).await.unwrap();
    let (text, exit) = plan(&world, &desired, &[]).await;
    assert_eq!((text.contains("Nothing to do"), exit), (true, 0), "{text}");

    // Behind the agent's back: one stopped, the config of one changed. And more is desired, some less.
    world.host.sandbox.service("alpha", "stop").unwrap();
    let changed = r#"{"beta": {"greeting": "someone else's"}}"#;
    std::fs::write(world.host.sandbox.join("/etc/pf9/beta/config.json"), changed).unwrap();
    desired["beta"]["config"] = json!({"beta": {"greeting": "hello"}});
    desired.as_object_mut().unwrap().remove("gamma");
    desired["delta"] = spec("3.0", "http://127.0.0.1:9/never-asked-for.rpm");
    let before = world.host.snapshot();

    let (text, exit) = plan(&world, &desired, &[]).await;
    assert_eq!(exit, 3, "{text}");
    for line in [
        "~ alpha: start alpha",
        "~ beta: configure",
        r#"beta.greeting: "someone else's" -> "hello""#,
        "- gamma: remove package gamma 1.0-1",
        "+ delta: install version 3.0",
    ] {
        assert!(text.contains(line), "{line} is missing:\n{text}");
    }
    let (text, exit) = plan(&world, &desired, &["--json"]).await;
    assert_eq!(exit, 3, "{text}");
    let plan: Value = serde_json::from_str(&text).unwrap();
    let actions: Vec<(&str, &str)> = plan["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| (step["app"].as_str().unwrap(), step["action"].as_str().unwrap()))
        .collect();
    assert_eq!(
        actions,
        [
            ("gamma", "stop_for_removal"),
            ("gamma", "remove"),
            ("delta", "install"),
            ("alpha", "start"),
            ("beta", "configure"),
            ("delta", "run_services"),
        ]
    );
    assert_eq!(world.host.snapshot(), before);
    assert!(!world.host.runs("alpha") && world.host.runs("gamma"));
}

/// What `hostagent plan` prints, and its exit code.
async fn plan(world: &World, desired: &Value, options: &[&str]) -> (String, i32) {
    let file = world.host.beside.path().join("desired.json");
    std::fs::write(&file, desired.to_string()).unwrap();
    let mut command = vec!["plan", file.to_str().unwrap()];
    command.extend(options);
    let output = run_command(&world.host.arguments(), &command).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.stdout.is_empty(), "it says only: {said}");
    (
        String::from_utf8(output.stdout).unwrap(),
        output.status.code().unwrap(),
    )
}
