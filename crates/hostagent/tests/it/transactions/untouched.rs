//! What fails before the first change leaves the host as it was, byte for byte.

use super::*;

for_both_families![
    a_package_that_is_not_what_was_asked_changes_nothing,
    a_failed_dry_run_leaves_the_package_database_as_it_was,
    a_lock_that_someone_holds_is_waited_for_and_said,
];

// FAULTS 26.
async fn a_package_that_is_not_what_was_asked_changes_nothing(family: Family) {
    let mut world = World::new(family).await;
    world.with_app_at_1().await;
    let runs = world.packages.runs();
    let before = world.database_bytes();

    let good = world.desired(&example_app("app", "2.0"), "new");
    let whole = std::fs::read(world.build(&example_app("app", "2.0"))).unwrap();
    let serve = |name: &str, bytes: &[u8]| {
        let path = format!("/{name}.{}", family.extension());
        world.server.put_file(&path, bytes)
    };
    let truncated = serve("truncated", &whole[..whole.len() / 2]);
    let web_page = serve("page", b"<html>Sorry, not here</html>");
    let other = world.offer(&example_app("impostor", "2.0"));
    let old = world.offer(&example_app("app", "1.5"));
    let foreign = world.offer_at("/foreign", &example_app("app", "2.0").arch("s390x"));
    let with = |key: &str, value: Value| {
        let mut desired = good.clone();
        desired[key] = value;
        desired
    };
    let cases = [
        ("digest", with("sha256", json!("0".repeat(64))), "sha256"),
        ("truncated", with("url", json!(truncated)), "package"),
        ("web page", with("url", json!(web_page)), "package"),
        (
            "name",
            with("url", json!(other)),
            "holds package impostor, expected app",
        ),
        (
            "version",
            with("url", json!(old)),
            "holds version 1.5-1, expected 2.0-1",
        ),
        ("architecture", with("url", json!(foreign)), "architecture s390x"),
    ];
    for (what, desired, said) in cases {
        let status = world.fail_at(json!({"app": desired})).await;
        let error = only_error(&status);
        let found = (error.phase, error.category, &error.next_retry);
        assert_eq!(
            found,
            (Phase::Verify, Category::Verification, &None),
            "{what}: {error:?}"
        );
        assert!(error.message.to_lowercase().contains(said), "{what}: {error:?}");
        let there = app(&status, "app");
        assert_eq!(
            (&*there.package_version, there.running),
            ("1.0-1", true),
            "{what}"
        );
        assert!(!world.has_journal(), "{what}");
    }
    world.assert_held().await;
    assert_eq!(world.packages.runs(), runs);
    assert!(world.database_bytes() == before);
    world.assert_at_1().await;
    assert_eq!(world.cached(&["1.0-1"]), Vec::<String>::new());
    world.reach(json!({"app": good})).await;
}

async fn a_failed_dry_run_leaves_the_package_database_as_it_was(family: Family) {
    let mut world = World::new(family).await;
    world.with_app_at_1().await;
    let runs = world.packages.runs();
    let before = world.database_bytes();
    // In a sandbox, dpkg's dry run sees conflicts; an unmet dependency it only sees when it configures.
    let other = match family {
        Family::Deb => example_app("other", "1.0").conflicts("app"),
        Family::Rpm => example_app("other", "1.0").depends("not-there"),
    };
    let apps = json!({
        "app": world.desired(&example_app("app", "1.0"), "old"),
        "other": world.desired(&other, "new"),
    });
    let status = world.fail_at(apps).await;
    let error = only_error(&status);
    let found = (error.phase, error.category, error.rolled_back);
    assert_eq!(found, (Phase::Check, Category::Dependency, false), "{error:?}");
    world.assert_held().await;
    assert_eq!(world.packages.runs(), runs);
    assert!(world.database_bytes() == before);
    world.assert_at_1().await;
    assert!(!world.has_journal());
}

impl World {
    /// Packages in the download cache, but for those whose file holds one of these versions.
    fn cached(&self, but_for: &[&str]) -> Vec<String> {
        let mut files = Vec::new();
        read_tree(&self.sandbox.join("/var/cache/pf9apps"), &mut files);
        let known: Vec<Vec<u8>> = but_for
            .iter()
            .map(|version| {
                std::fs::read(
                    self.built
                        .path()
                        .join(format!("app_{version}.{}", self.family().extension())),
                )
                .unwrap()
            })
            .collect();
        let packages = files
            .into_iter()
            .filter(|(_, bytes)| bytes.len() > 1000 && !known.contains(bytes));
        packages.map(|(name, _)| name).collect()
    }
}

// FAULTS 31.
async fn a_lock_that_someone_holds_is_waited_for_and_said(family: Family) {
    let mut world = World::new(family).await;
    world.with_app_at_1().await;
    let lock = match family {
        Family::Deb => "/var/lib/dpkg/lock-frontend",
        Family::Rpm => "/var/lib/rpm/.rpm.lock",
    };
    let held = crate::packages::hold_lock(&world.sandbox.join(lock));
    let apps = json!({"app": world.desired(&example_app("app", "2.0"), "new")});
    let id = world.ask(apps).await;
    let waits = |status: &Status| {
        let detail = status.detail.as_deref().unwrap_or_default();
        status.status == State::Converging && detail.starts_with("waiting for the package lock")
    };
    let waiting = world
        .master
        .wait("word of the lock", |all| {
            all.iter().find(|status| waits(status)).cloned()
        })
        .await;
    assert!(waiting.errors.is_empty(), "{waiting:?}");
    world.assert_at_1().await;
    drop(held);
    // No status in between says that anything failed.
    let status = world.outcome(&id).await;
    assert_eq!(status.status, State::Ok, "{status:#?}");
    assert_eq!(app(&status, "app").package_version, "2.0-1");
}
