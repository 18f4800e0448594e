//! The same by the operator's commands: `apply`, `plan`, `journal`, `retry`.

use std::process::{Output, Stdio};

use super::*;

for_both_families![
    a_plan_is_applied_only_if_it_is_still_the_same,
    the_journal_is_there_while_a_change_is_on_trial,
    what_is_held_is_tried_again_when_the_operator_says_so,
];

/// Exit code of a command that did its work and did not bring the host there.
pub(super) const NOT_CONVERGED: i32 = 3;

/// The program on the world's host, with these arguments; talks to no broker.
pub(super) fn program(world: &World, bake: u32, arguments: &[&str]) -> tokio::process::Command {
    let root = world.sandbox.root();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_hostagent"));
    let settings = [
        format!("hostagent.root={}", root.display()),
        format!("hostagent.package_family={}", world.family().extension()),
        format!("hostagent.host_id={HOST}"),
        format!("hostagent.bake_period={bake}"),
        "hostagent.heartbeat_period=1".to_owned(),
        "amqp.host=127.0.0.1".to_owned(),
        "amqp.port=1".to_owned(),
        "ssl.disable=true".to_owned(),
    ];
    // Named, so that the machine's own settings are not read.
    let no_settings = world.built.path().join("none.conf");
    std::fs::write(&no_settings, "").unwrap();
    command
        .arg("--config")
        .arg(no_settings)
        .args(settings.iter().flat_map(|setting| ["--set", setting.as_str()]))
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

pub(super) async fn run(world: &World, arguments: &[&str]) -> Output {
    program(world, 1, arguments).output().await.unwrap()
}

pub(super) fn file(world: &World, name: &str, apps: &Value) -> String {
    let path = world.built.path().join(name);
    std::fs::write(&path, apps.to_string()).unwrap();
    path.display().to_string()
}

pub(super) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

async fn with_app_at_1(family: Family) -> World {
    let world = World::without_agent(family).await;
    let apps = json!({"app": world.desired(&example_app("app", "1.0"), "old")});
    let output = run(&world, &["apply", &file(&world, "one.json", &apps)]).await;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    world.assert_at_1().await;
    world
}

async fn a_plan_is_applied_only_if_it_is_still_the_same(family: Family) {
    let world = with_app_at_1(family).await;
    let apps = json!({"app": world.desired(&example_app("app", "2.0"), "new")});
    let two = file(&world, "two.json", &apps);
    let plan = async || {
        let output = run(&world, &["plan", "--json", &two]).await;
        assert_ne!(output.status.code(), Some(0), "{}", said(&output));
        let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
        plan
    };
    let first = plan().await;
    let hash = first["hash"].as_str().unwrap();
    for step in first["steps"].as_array().unwrap() {
        assert_eq!(step["undo"]["possible"], true, "{step}");
    }
    // The host changes meanwhile.
    assert_eq!(world.sandbox.service("app", "stop").unwrap(), 0);
    let second = plan().await;
    assert_ne!(second["hash"], first["hash"]);
    let refused = run(&world, &["apply", "--only-if", hash, &two]).await;
    assert_ne!(refused.status.code(), Some(0));
    assert!(said(&refused).contains("Nothing was done"), "{}", said(&refused));
    assert_eq!(world.database(), ["app 1.0-1"]);

    let hash = second["hash"].as_str().unwrap();
    let applied = run(&world, &["apply", "--only-if", hash, &two]).await;
    assert_eq!(applied.status.code(), Some(0), "{}", said(&applied));
    assert_eq!(world.database(), ["app 2.0-1"]);
}

async fn the_journal_is_there_while_a_change_is_on_trial(family: Family) {
    let world = with_app_at_1(family).await;
    let journal = async || said(&run(&world, &["journal"]).await);
    assert!(journal().await.contains("No change is in progress"));
    let apps = json!({"app": world.desired(&dying("app", "2.0", 3), "s3cret")});
    let applying = program(&world, 8, &["apply", &file(&world, "two.json", &apps)])
        .spawn()
        .unwrap();
    until("the journal", || world.has_journal()).await;
    let shown = journal().await;
    for part in [
        "app: was app 1.0-1, changes to 2.0-1",
        "the previous package is kept",
    ] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    assert!(!shown.contains("s3cret"), "{shown}");
    let output = applying.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(NOT_CONVERGED), "{}", said(&output));
    assert!(
        said(&output).contains("! app: service app of app ended"),
        "{}",
        said(&output)
    );
    assert!(journal().await.contains("No change is in progress"));
    world.assert_at_1().await;
}

async fn what_is_held_is_tried_again_when_the_operator_says_so(family: Family) {
    let world = with_app_at_1(family).await;
    let nobody = run(&world, &["retry"]).await;
    assert_ne!(nobody.status.code(), Some(0));
    assert!(
        said(&nobody).contains("no agent runs on this host"),
        "{}",
        said(&nobody)
    );

    let needs_gate = example_app("app", "2.0").script(
        Moment::AfterInstall,
        "echo try >> \"$ROOT/tmp/tries\"; [ -e \"$ROOT/tmp/gate\" ] || { echo 'no gate' >&2; exit 1; }",
    );
    let apps = json!({"app": world.desired(&needs_gate, "new")});
    let output = run(&world, &["apply", &file(&world, "two.json", &apps)]).await;
    assert_eq!(output.status.code(), Some(NOT_CONVERGED), "{}", said(&output));
    world.assert_at_1().await;
    let tries = || world.read("/tmp/tries").lines().count();
    let before = tries();

    // It finds that what the one-shot command could not do is held.
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
    std::fs::write(world.sandbox.join("/tmp/gate"), "").unwrap();
    let output = run(&world, &["retry"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    until("the new version", || {
        world.database() == ["app 2.0-1"] && !world.has_journal()
    })
    .await;
    world.loaded("app", "2.0\n{\"app\":{\"greeting\":\"new\"}}").await;
    assert_eq!(tries(), before + 1, "it tried before it was told to");
    agent.kill().await.unwrap();
}
