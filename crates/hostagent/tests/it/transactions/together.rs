//! Several applications in one message.

use super::*;

for_both_families![
    the_good_one_stays_when_the_bad_one_falls_back,
    those_that_require_each_other_fall_back_together,
    each_that_hangs_costs_its_deadline_and_no_more,
];

/// `app` and `other`, both at 1.0 and running.
async fn with_two_at_1(family: Family) -> World {
    let mut world = World::with(
        family,
        Run {
            bake: Duration::from_secs(2),
            ..Run::default()
        },
    )
    .await;
    let apps = json!({
        "app": world.desired(&example_app("app", "1.0"), "old"),
        "other": world.desired(&example_app("other", "1.0"), "old"),
    });
    world.reach(apps).await;
    world
}

// FAULTS 35: the others go on.
async fn the_good_one_stays_when_the_bad_one_falls_back(family: Family) {
    let mut world = with_two_at_1(family).await;
    let apps = json!({
        "app": world.desired(&unconfigurable("app", "2.0"), "new"),
        "other": world.desired(&example_app("other", "2.0"), "new"),
    });
    let status = world.fail_at(apps).await;
    let error = only_error(&status);
    let found = (
        error.app.as_ref().map(|app| app.as_str()),
        error.phase,
        error.rolled_back,
    );
    assert_eq!(found, (Some("app"), Phase::Install, true), "{error:?}");
    let versions =
        ["app", "other"].map(|name| (&*app(&status, name).package_version, app(&status, name).running));
    assert_eq!(versions, [("1.0-1", true), ("2.0-1", true)]);
    assert_eq!(world.database(), ["app 1.0-1", "other 2.0-1"]);
    world.loaded("app", &format!("1.0\n{OLD_CONFIG}")).await;
    world
        .loaded("other", "2.0\n{\"other\":{\"greeting\":\"new\"}}")
        .await;
    assert!(!world.has_journal());
    world.assert_held().await;
}

async fn those_that_require_each_other_fall_back_together(family: Family) {
    let mut world = with_two_at_1(family).await;
    let mut other = world.desired(&example_app("other", "2.0"), "new");
    other["requires"] = json!(["app"]);
    let apps = json!({"app": world.desired(&dying("app", "2.0", 1), "new"), "other": other});
    let status = world.fail_at(apps).await;
    let errors: Vec<(Phase, bool)> = status
        .errors
        .iter()
        .map(|error| (error.phase, error.rolled_back))
        .collect();
    assert_eq!(errors, [(Phase::Health, true); 2], "{:#?}", status.errors);
    assert!(
        status.errors[1]
            .message
            .contains("other is changed together with app"),
        "{:?}",
        status.errors[1]
    );
    assert_eq!(world.database(), ["app 1.0-1", "other 1.0-1"]);
    world.loaded("app", &format!("1.0\n{OLD_CONFIG}")).await;
    world
        .loaded("other", "1.0\n{\"other\":{\"greeting\":\"old\"}}")
        .await;
    assert!(!world.has_journal());
    world.assert_held().await;
}

// FAULTS 35.
async fn each_that_hangs_costs_its_deadline_and_no_more(family: Family) {
    let mut world = with_two_at_1(family).await;
    let third = json!({"third": world.desired(&example_app("third", "1.0"), "old")});
    world
        .restart_agent(Run {
            deadline: Duration::from_secs(4),
            ..Run::default()
        })
        .await;
    let hanging = |name: &str| {
        let script = format!("echo {name} >> \"$ROOT/tmp/hung\"; sleep 600");
        example_app(name, "2.0").script(Moment::AfterInstall, &script)
    };
    let mut apps = json!({
        "app": world.desired(&hanging("app"), "new"),
        "other": world.desired(&hanging("other"), "new"),
    });
    apps["third"] = third["third"].clone();
    let status = world.fail_at(apps).await;
    let errors: Vec<_> = status
        .errors
        .iter()
        .map(|error| {
            let app = error.app.as_ref().map(|app| app.as_str());
            (app, error.phase, error.category, error.rolled_back)
        })
        .collect();
    let expected = ["app", "other"].map(|app| (Some(app), Phase::Install, Category::Timeout, true));
    assert_eq!(errors, expected, "{:#?}", status.errors);
    assert_eq!(world.database(), ["app 1.0-1", "other 1.0-1", "third 1.0-1"]);
    assert!(app(&status, "third").running);
    let hung = world.read("/tmp/hung");
    let mut hung: Vec<&str> = hung.lines().collect();
    hung.sort_unstable();
    match family {
        Family::Deb => assert_eq!(hung, ["app", "other"]),
        // rpm's database does not tell which of them hung: once together, then each by itself.
        Family::Rpm => assert_eq!(hung.len(), 3, "{hung:?}"),
    }
    world.assert_held().await;
}
