//! The agent is killed between every two steps of one install, by two means. Traps in the package's own
//! scripts kill it while it waits for a step's child process. strace kills it at each of its own system
//! calls that makes something durable or starts a child, which are what separates its steps.

use std::collections::BTreeMap;

use harness::driver::Received;
use harness::packages::{Family, Moment, Package, example_app};
use serde_json::{Value, json};

use crate::scenarios::agent::Agent;
use crate::scenarios::world::{PATIENCE, World, spec};

/// Kills the agent once, if this is where it is to be killed. The lock names its process; whoever runs this
/// goes on as an orphan.
const TRAP: &str = r#"
trap_at() {
    # The second time that it comes here counts as another moment.
    [ "$(cat "$ROOT/run/kill-at" 2>/dev/null)" = "second $1" ] && echo "$1" > "$ROOT/run/kill-at" && return 0
    [ "$(cat "$ROOT/run/kill-at" 2>/dev/null)" = "$1" ] || return 0
    mv "$ROOT/run/kill-at" "$ROOT/run/killed-at"
    kill -9 "$(sed -n 's/process //p' "$ROOT/var/lib/hostagent/lock")"
}
"#;

/// What runs something of the package's, in the order of an install.
const MOMENTS: [&str; 11] = [
    "preinst",
    "postinst",
    "--get-services",
    "status",
    "--get-config",
    "--set-config",
    "after --set-config",
    "start",
    "after start",
    "second status",
    "second --get-config",
];

const HOOK: &str = r#"#!/bin/sh
ROOT=$BACKBONE_ROOT
CONFIG=$ROOT/etc/pf9/alpha/config.json
@TRAP@
trap_at "$1"
case "$1" in
    --get-config) cat "$CONFIG" ;;
    --set-config) printf '%s\n' "$2" > "$CONFIG.new" && mv "$CONFIG.new" "$CONFIG" &&
        "$ROOT/etc/init.d/alpha" try-restart ;;
    --get-services) echo trapped ;;
esac || exit
trap_at "after $1"
"#;

/// The service that the hook names: the example's own, with traps around it.
const SERVICE: &str = r#"#!/bin/sh
# chkconfig: 2345 90 10
### BEGIN INIT INFO
# Provides:          trapped
# Default-Start:     2 3 4 5
# Default-Stop:      0 1 6
### END INIT INFO
ROOT=$BACKBONE_ROOT
@TRAP@
trap_at "$1"
"$ROOT/etc/init.d/alpha" "$@"
code=$?
trap_at "after $1"
exit $code
"#;

/// The example application, with traps.
fn trapped_app() -> Package {
    let with_trap = |script: &str| script.replace("@TRAP@", TRAP);
    example_app("alpha", "1.0")
        .file("/opt/pf9/alpha/config", 0o755, with_trap(HOOK))
        .file("/etc/init.d/trapped", 0o755, with_trap(SERVICE))
        .script(Moment::BeforeInstall, &with_trap("@TRAP@\ntrap_at preinst"))
        .script(Moment::AfterInstall, &with_trap("@TRAP@\ntrap_at postinst"))
}

fn desired(version: &str, url: &str) -> Value {
    let mut app = spec(version, url);
    app["config"] = json!({"alpha": {"greeting": "after all"}});
    json!({"alpha": app})
}

/// A world whose host has a queue, and no agent.
async fn world_without_an_agent(family: Family) -> World {
    let mut world = World::new(family).await;
    let mut agent = world.start_agent().await;
    agent.terminate();
    agent.ends_within(PATIENCE).await.unwrap();
    world
}

/// Starts the agent as after a crash; all must come to a good end, and be told.
async fn ends_well(world: &mut World, what: &str, id: &str, desired: &Value) {
    let _agent = world.spawn_agent();
    let ended = |status: &Received| status.reply_to() == Some(id) && status.state() != "converging";
    let answer = world.heard(&format!("the end after: {what}"), ended).await;
    assert_eq!(
        answer.state(),
        "ok",
        "{what}: {}\n{}",
        answer.message,
        world.host.log()
    );
    world.host.assert_is(desired, &answer);
    // Taken, and not left to be delivered again.
    let answer = world.answer_to_ping("host-1").await;
    assert_eq!(answer.state(), "ok", "{what}: {}", answer.message);
    assert!(
        !world.host.log().contains("set aside"),
        "{what}: a state file was damaged: {}",
        world.host.log()
    );
}

#[tokio::test]
async fn a_deb_install_survives_a_kill_at_each_of_its_steps() {
    an_install_survives_a_kill_at_each_of_its_steps(Family::Deb).await;
}

#[tokio::test]
async fn an_rpm_install_survives_a_kill_at_each_of_its_steps() {
    an_install_survives_a_kill_at_each_of_its_steps(Family::Rpm).await;
}

async fn an_install_survives_a_kill_at_each_of_its_steps(family: Family) {
    let mut world = world_without_an_agent(family).await;
    let desired = desired("1.0", &world.serve(&trapped_app()));
    for moment in MOMENTS {
        world.renew_host();
        std::fs::write(world.host.sandbox.join("/run/kill-at"), moment).unwrap();
        let id = world.set_config(&desired).await;
        let mut agent = world.spawn_agent();
        let ended = agent.ends_within(PATIENCE).await;
        assert!(ended.is_some(), "{moment} never came: {}", world.host.log());
        assert!(world.host.sandbox.join("/run/killed-at").exists(), "{moment}");
        ends_well(&mut world, moment, &id, &desired).await;
    }
}

/// What makes something durable, or starts a child.
const CALLS: &str =
    "?rename,?renameat,renameat2,?vfork,?clone,clone3,?symlink,symlinkat,?unlink,unlinkat,fsync";

#[tokio::test]
async fn an_install_survives_a_kill_at_each_system_call() {
    let mut world = world_without_an_agent(Family::Deb).await;
    let desired = desired("1.0", &world.serve(&example_app("alpha", "1.0")));
    let calls = calls_of_an_install(&mut world, &desired).await;
    let total: usize = calls.values().sum();
    assert!(total > 10, "strace saw too little: {calls:?}");
    for (call, count) in calls {
        for nth in 1..=count {
            world.renew_host();
            let id = world.set_config(&desired).await;
            let inject = format!("inject={call}:signal=SIGKILL:when={nth}");
            let mut agent = traced(&world, &["-e", &inject]);
            let what = format!("{call} {nth} of {count}");
            // The number of calls is not quite the same each time: the last one may not come.
            let ended = |status: &Received| status.reply_to() == Some(&id) && status.state() != "converging";
            tokio::select! {
                ended = agent.ends_within(PATIENCE) => assert!(ended.is_some(), "{what}"),
                answer = world.heard("an answer", ended) => assert_eq!(answer.state(), "ok", "{what}"),
            }
            drop(agent);
            ends_well(&mut world, &what, &id, &desired).await;
        }
    }
}

/// How often the agent itself (not its children) makes each of [`CALLS`] in one install.
async fn calls_of_an_install(world: &mut World, desired: &Value) -> BTreeMap<String, usize> {
    let id = world.set_config(desired).await;
    let agent = traced(world, &[]);
    let ended = |status: &Received| status.reply_to() == Some(&id) && status.state() == "ok";
    world.heard("an install under strace", ended).await;
    drop(agent);
    let trace = std::fs::read_to_string(world.host.beside.path().join("trace")).unwrap();
    let mut calls = BTreeMap::new();
    for line in trace.lines() {
        if let Some((call, _)) = line.split_once('(') {
            *calls.entry(call.to_owned()).or_insert(0) += 1;
        }
    }
    calls
}

fn traced(world: &World, options: &[&str]) -> Agent {
    let trace = world.host.beside.path().join("trace");
    let calls = format!("trace={CALLS}");
    let mut words = vec!["strace", "-o", trace.to_str().unwrap(), "-e", &calls];
    words.extend(options);
    Agent::start_under(&words, &world.host, &world.agent_arguments())
}
