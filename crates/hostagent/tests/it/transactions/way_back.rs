//! Where the previous version comes from; and what is said where it can't.

use super::*;

for_both_families![
    a_new_application_that_fails_is_removed_again,
    a_previous_package_is_kept_though_its_url_brings_another_by_now,
    without_a_way_back_the_plan_and_the_failure_say_so,
];

async fn a_new_application_that_fails_is_removed_again(family: Family) {
    let mut world = World::with(
        family,
        Run {
            bake: Duration::from_secs(2),
            ..Run::default()
        },
    )
    .await;
    for (bad, phase) in [
        (dying("app", "1.0", 1), Phase::Health),
        (unconfigurable("app", "1.1"), Phase::Install),
    ] {
        let apps = json!({"app": world.desired(&bad, "new")});
        let status = world.fail_at(apps).await;
        let error = only_error(&status);
        assert_eq!((error.phase, error.rolled_back), (phase, true), "{error:?}");
        assert!(status.apps.is_empty(), "{status:?}");
        assert_eq!(world.database(), [""; 0]);
        assert!(!world.sandbox.join("/opt/pf9/app/bin/app").exists());
        assert!(!world.has_journal());
        world.assert_held().await;
    }
    let apps = json!({"app": world.desired(&example_app("app", "1.2"), "new")});
    world.reach(apps).await;
    world.loaded("app", "1.2\n{\"app\":{\"greeting\":\"new\"}}").await;
}

async fn a_previous_package_is_kept_though_its_url_brings_another_by_now(family: Family) {
    let mut world = World::new(family).await;
    let url = world.offer_at("/latest", &example_app("app", "1.0"));
    let at = |version: &str, greeting: &str| json!({"app": {"version": version, "url": url, "config": {"app": {"greeting": greeting}}}});
    let (one, two, three) = (at("1.0", "old"), at("2.0", "new"), at("3.0", "newest"));
    world.reach(one).await;
    world.assert_at_1().await;
    world.offer_at("/latest", &unconfigurable("app", "2.0"));
    let status = world.fail_at(two).await;
    world
        .assert_back_at_1(&status, Phase::Install, Category::Script)
        .await;
    world.offer_at("/latest", &example_app("app", "3.0"));
    world.reach(three).await;
}

async fn without_a_way_back_the_plan_and_the_failure_say_so(family: Family) {
    let mut world = World::new(family).await;
    // Somebody else installed it.
    let foreign = world
        .packages
        .inspect(&world.build(&example_app("app", "1.0")))
        .await
        .unwrap();
    let install = Transaction {
        install: vec![Source::File(foreign)],
        remove: Vec::new(),
    };
    world.packages.apply(&install).await.unwrap();

    let bad = json!({"app": world.desired(&unconfigurable("app", "2.0"), "new")});
    let plan = world.plan(bad.clone()).await;
    let step = plan.steps.iter().find(|step| step.action == "install").unwrap();
    assert!(!step.undo.possible, "{step:?}");
    assert!(
        step.undo
            .how
            .contains("not reversible: app 1.0-1 was not installed by the agent"),
        "{step:?}"
    );

    let status = world.fail_at(bad).await;
    let error = only_error(&status);
    assert_eq!(
        (error.phase, error.rolled_back),
        (Phase::Rollback, false),
        "{error:?}"
    );
    for part in [
        "no database to migrate",
        "rollback failed",
        "not installed by the agent",
    ] {
        assert!(error.message.contains(part), "{part} is not in {error:?}");
    }
    assert_eq!(app(&status, "app").package_version, "2.0-1");
    // What undo needs is kept: the operator may bring the package.
    assert!(world.has_journal());
    world.assert_held().await;

    let good = json!({"app": world.desired(&example_app("app", "3.0"), "new")});
    world.reach(good).await;
    assert_eq!(world.database(), ["app 3.0-1"]);
}

/// What dpkg says of a package: what is wanted of it, and what it is.
fn selection(world: &World, package: &str) -> String {
    let output = Command::new("dpkg-query")
        .arg(format!(
            "--admindir={}/var/lib/dpkg",
            world.sandbox.root().display()
        ))
        .args(["--show", "--showformat=${Status}", package])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn with_conffile(package: Package) -> Package {
    package.conffile("/etc/app.conf", "shipped\n")
}

#[tokio::test]
async fn of_a_new_application_that_fails_dpkg_keeps_nothing() {
    let mut world = World::new(Family::Deb).await;
    let apps = json!({"app": world.desired(&with_conffile(unconfigurable("app", "1.0")), "new")});
    let status = world.fail_at(apps).await;
    assert!(only_error(&status).rolled_back);
    assert!(!world.sandbox.join("/etc/app.conf").exists());
    assert_eq!(selection(&world, "app"), "");
}

#[tokio::test]
async fn configuration_files_that_were_there_before_outlive_a_failed_installation() {
    // Kept by dpkg when the application was removed.
    let mut world = World::new(Family::Deb).await;
    let apps = json!({"app": world.desired(&with_conffile(example_app("app", "1.0")), "old")});
    world.reach(apps).await;
    std::fs::write(world.sandbox.join("/etc/app.conf"), "mine\n").unwrap();
    world.reach(json!({})).await;
    assert_eq!(selection(&world, "app"), "deinstall ok config-files");
    let bad = with_conffile(unconfigurable("app", "1.1"));
    let apps = json!({"app": world.desired(&bad, "new")});
    world.fail_at(apps).await;
    assert_eq!(world.read("/etc/app.conf"), "mine\n");
    assert_eq!(selection(&world, "app"), "deinstall ok config-files");

    // Written by the administrator before the first installation.
    let mut world = World::new(Family::Deb).await;
    std::fs::write(world.sandbox.join("/etc/app.conf"), "mine\n").unwrap();
    let apps = json!({"app": world.desired(&bad, "new")});
    world.fail_at(apps).await;
    assert_eq!(world.read("/etc/app.conf"), "mine\n");
}

#[tokio::test]
async fn after_a_removal_that_failed_dpkg_wants_the_package_again() {
    let mut world = World::new(Family::Deb).await;
    let stubborn = example_app("app", "1.0").script(Moment::BeforeRemove, "echo 'still in use' >&2; exit 1");
    let apps = json!({"app": world.desired(&stubborn, "old")});
    world.reach(apps).await;
    let status = world.fail_at(json!({})).await;
    let error = only_error(&status);
    assert_eq!(
        (error.phase, error.rolled_back),
        (Phase::Remove, true),
        "{error:?}"
    );
    assert_eq!(selection(&world, "app"), "install ok installed");
    world.assert_at_1().await;
}
