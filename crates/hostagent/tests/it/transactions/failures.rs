//! An upgrade that goes wrong, in every way there is: the previous version runs again, with its config,
//! and stays until a better one is asked for.

use super::*;

for_both_families![
    a_service_that_dies_after_a_second,
    a_service_that_dies_late_in_its_trial,
    a_script_that_fails,
    a_script_that_hangs,
    a_hook_that_refuses_the_config,
    a_hook_that_garbles_the_config,
    a_reconfiguration_that_the_service_does_not_survive,
];

/// Asks for `app` at `bad`, with another config; and, when it is back at 1.0, for a good one.
async fn falls_back_then_goes_on(world: &mut World, bad: &Package, phase: Phase, category: Category) {
    world.with_app_at_1().await;
    let mut desired = world.desired(bad, "new");
    desired["config"]["app"]["more"] = json!("key");
    let status = world.fail_at(json!({"app": desired})).await;
    world.assert_back_at_1(&status, phase, category).await;
    let desired = status.desired_apps.as_ref().unwrap().values().next().unwrap();
    assert_eq!(desired.version, bad.full_version());

    let apps = json!({"app": world.desired(&example_app("app", "3.0"), "newest")});
    let status = world.reach(apps).await;
    assert_eq!(app(&status, "app").package_version, "3.0-1");
    assert_eq!(world.database(), ["app 3.0-1"]);
    world
        .loaded("app", "3.0\n{\"app\":{\"greeting\":\"newest\"}}")
        .await;
}

// FAULTS 39.
async fn a_service_that_dies_after_a_second(family: Family) {
    let mut world = World::with(
        family,
        Run {
            bake: Duration::from_secs(2),
            ..Run::default()
        },
    )
    .await;
    falls_back_then_goes_on(
        &mut world,
        &dying("app", "2.0", 1),
        Phase::Health,
        Category::Unhealthy,
    )
    .await;
}

// FAULTS 39.
async fn a_service_that_dies_late_in_its_trial(family: Family) {
    let mut world = World::new(family).await;
    world.with_app_at_1().await;
    world
        .restart_agent(Run {
            bake: Duration::from_secs(5),
            ..Run::default()
        })
        .await;
    let apps = json!({"app": world.desired(&dying("app", "2.0", 3), "new")});
    let status = world.fail_at(apps).await;
    world
        .assert_back_at_1(&status, Phase::Health, Category::Unhealthy)
        .await;
    let message = &only_error(&status).message;
    assert!(message.contains("service app of app ended within"), "{message}");
}

// FAULTS 39, with the bake period that agents have unless told otherwise.
#[tokio::test]
async fn a_service_that_dies_after_twenty_seconds() {
    let mut world = World::new(Family::Deb).await;
    world.with_app_at_1().await;
    world
        .restart_agent(Run {
            bake: Duration::from_secs(30),
            ..Run::default()
        })
        .await;
    let apps = json!({"app": world.desired(&dying("app", "2.0", 20), "new")});
    let status = world.fail_at(apps).await;
    world
        .assert_back_at_1(&status, Phase::Health, Category::Unhealthy)
        .await;
}

// FAULTS 34.
async fn a_script_that_fails(family: Family) {
    let mut world = World::new(family).await;
    let bad = unconfigurable("app", "2.0");
    falls_back_then_goes_on(&mut world, &bad, Phase::Install, Category::Script).await;
}

// FAULTS 35.
async fn a_script_that_hangs(family: Family) {
    let deadline = Duration::from_secs(3);
    let mut world = World::with(
        family,
        Run {
            deadline,
            ..Run::default()
        },
    )
    .await;
    let bad = example_app("app", "2.0").script(
        Moment::AfterInstall,
        "echo $$ >> \"$ROOT/tmp/hanging\"; sleep 600",
    );
    falls_back_then_goes_on(&mut world, &bad, Phase::Install, Category::Timeout).await;
    let hung = world.read("/tmp/hanging");
    for process in hung.lines() {
        // One that was killed is a zombie until init takes it up.
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let is_dead = stat.is_empty() || stat.contains(") Z ");
        assert!(is_dead, "{process} lives: {stat}");
    }
    // On the way back it is not run again, to hang for another deadline.
    assert_eq!(hung.lines().count(), 1, "{hung}");
}

async fn a_hook_that_refuses_the_config(family: Family) {
    let mut world = World::new(family).await;
    let hook = "#!/bin/sh\ncase \"$1\" in\n--get-config) cat \"$BACKBONE_ROOT/etc/pf9/app/config.json\";;\n\
                --set-config) echo 'error: greeting is out of fashion' >&2; exit 1;;\n--get-services) echo app;;\nesac\n";
    let bad = example_app("app", "2.0").file("/opt/pf9/app/config", 0o755, hook);
    falls_back_then_goes_on(&mut world, &bad, Phase::Configure, Category::Script).await;
}

/// What it leaves can't even be read by the hook of the previous version.
async fn a_hook_that_garbles_the_config(family: Family) {
    let mut world = World::new(family).await;
    let hook = "#!/bin/sh\nCONFIG=$BACKBONE_ROOT/etc/pf9/app/config.json\ncase \"$1\" in\n--get-config) cat \"$CONFIG\";;\n\
                --set-config) echo '{\"app\": torn' > \"$CONFIG\"; exit 1;;\n--get-services) echo app;;\nesac\n";
    let bad = example_app("app", "2.0").file("/opt/pf9/app/config", 0o755, hook);
    falls_back_then_goes_on(&mut world, &bad, Phase::Configure, Category::Script).await;
}

/// The package stays; only the config goes forth and back.
async fn a_reconfiguration_that_the_service_does_not_survive(family: Family) {
    let mut world = World::with(
        family,
        Run {
            bake: Duration::from_secs(2),
            ..Run::default()
        },
    )
    .await;
    let daemon = "#!/bin/sh\ncase \"$(cat \"$BACKBONE_ROOT/etc/pf9/app/config.json\")\" in *poison*) sleep 1; exit 1;; esac\n\
                  { echo 1.0; cat \"$BACKBONE_ROOT/etc/pf9/app/config.json\"; } > \"$BACKBONE_ROOT/run/app.loaded\"\n\
                  sleep 3600 & trap 'kill $!; exit 0' TERM; wait\n";
    let picky = example_app("app", "1.0").file("/opt/pf9/app/bin/app", 0o755, daemon);
    let good = world.desired(&picky, "old");
    world.reach(json!({"app": good})).await;
    world.assert_at_1().await;
    let runs = world.packages.runs();
    let mut poisoned = good.clone();
    poisoned["config"]["app"]["greeting"] = json!("poison");
    let status = world.fail_at(json!({"app": poisoned})).await;
    world
        .assert_back_at_1(&status, Phase::Health, Category::Unhealthy)
        .await;
    assert_eq!(world.packages.runs(), runs);
    let mut other = good;
    other["config"]["app"]["greeting"] = json!("other");
    world.reach(json!({"app": other})).await;
}
