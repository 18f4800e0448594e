//! rpm's own ways to break.

use std::os::unix::process::CommandExt;

use super::*;

/// FAULTS 38: rpm killed in an upgrade, when the new version is in the database and the old one
/// still is.
#[tokio::test]
async fn both_versions_in_the_database_after_a_kill_are_detected_and_healed() {
    let world = World::new(Family::Rpm);
    let version = |version: &str| {
        plain("app", version)
            .provides("pf9app")
            .file(&format!("/opt/app/only-in-{version}"), 0o644, "")
            .script(Moment::BeforeRemove, "touch \"$ROOT/tmp/removal-script-ran\"")
    };
    world.apply(&[&version("1")], &[]).await.unwrap();
    let hanging = version("2").script(Moment::AfterInstall, "touch \"$ROOT/tmp/begun\"; exec sleep 600");
    let root = world.sandbox.root().display().to_string();
    let mut rpm = std::process::Command::new("rpm")
        .args([
            format!("--dbpath={root}/var/lib/rpm"),
            format!("--relocate=/={root}"),
        ])
        .args(["--badreloc", "--upgrade"])
        .arg(world.build(&hanging))
        .env("BACKBONE_ROOT", world.sandbox.root())
        .process_group(0)
        .spawn()
        .unwrap();
    until("the script", || world.exists("/tmp/begun")).await;
    let group = rustix::process::Pid::from_child(&rpm);
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
    rpm.wait().unwrap();

    let installed = world.installed().await;
    assert!(installed.get("app").unwrap().broken);
    assert_eq!(installed.get("app").unwrap().version, "2-1");
    world.packages.heal().await.unwrap();
    assert!(!world.installed().await.get("app").unwrap().broken);
    assert_eq!(world.versions().await, ["app 2-1"]);
    assert!(!world.exists("/opt/app/only-in-1") && world.exists("/opt/app/only-in-2"));
    assert_eq!(world.read("/opt/app/version"), "2");
    assert!(!world.exists("/tmp/removal-script-ran"));
}

/// FIELD REPORT R01: a script of the version that leaves cannot be repaired by going back to it.
#[tokio::test]
async fn a_script_of_the_version_that_leaves_fails_and_it_leaves_all_the_same() {
    let world = World::new(Family::Rpm);
    let app = |version| plain("app", version).script(Moment::AfterRemove, "echo cannot clean up >&2; exit 1");
    world.apply(&[&app("1")], &[]).await.unwrap();
    let applied = world.try_apply(&[&app("2")], &[]).await.unwrap();
    let [warning] = &*applied.warnings else {
        panic!("{applied:?}")
    };
    assert!(
        warning.contains("%postun(app-1-1.noarch)") && warning.contains("cannot clean up"),
        "{warning}"
    );
    assert_eq!(world.versions().await, ["app 2-1"]);

    let applied = world.try_apply(&[], &["app"]).await.unwrap();
    assert!(
        applied.warnings[0].contains("%postun(app-2-1.noarch)"),
        "{applied:?}"
    );
    assert_eq!(world.versions().await, [""; 0]);
}

/// Of the version that comes it counts, although rpm has entered it in its database.
#[tokio::test]
async fn a_script_of_the_version_that_comes_fails_beside_one_of_the_version_that_leaves() {
    let world = World::new(Family::Rpm);
    let old = plain("app", "1").script(Moment::AfterRemove, "exit 1");
    world.apply(&[&old], &[]).await.unwrap();
    let new = plain("app", "2").script(Moment::AfterInstall, "exit 1");
    let failed = world.try_apply(&[&new], &[]).await.unwrap_err();
    assert!(
        matches!(&failed, ApplyError::Failed(error) if error.category == Category::Script),
        "{failed}"
    );
}

/// FAULTS 23: what cannot be read is not what is not there.
#[tokio::test]
async fn a_damaged_database_is_an_error_and_never_an_empty_one() {
    let world = World::new(Family::Rpm);
    world.apply(&[&plain("app", "1")], &[]).await.unwrap();
    let database = world.sandbox.join("/var/lib/rpm/rpmdb.sqlite");
    std::fs::write(&database, [0x55; 100_000]).unwrap();
    for error in [
        world.packages.installed().await.unwrap_err(),
        world.packages.heal().await.unwrap_err(),
    ] {
        assert_eq!(error.category, Category::Host, "{error}");
        assert!(error.message.contains("file is not a database"), "{error}");
    }
}

/// rpm looks at all digests before it changes anything.
#[tokio::test]
async fn a_package_that_does_not_fit_its_digests_is_refused_before_anything_is_changed() {
    let world = World::new(Family::Rpm);
    let (good, bad) = (world.build(&plain("good", "1")), world.build(&plain("app", "1")));
    let whole = world.packages.inspect(&bad).await.unwrap();
    let mut bytes = std::fs::read(&bad).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&bad, bytes).unwrap();
    let good = world.packages.inspect(&good).await.unwrap();
    let both = Transaction {
        install: vec![Source::File(good), Source::File(whole)],
        remove: Vec::new(),
    };
    let refused = world.packages.simulate(&both).await.unwrap_err();
    assert!(refused.message.contains("digest"), "{refused}");
    let refused = world.packages.apply(&both).await.unwrap_err();
    assert!(
        matches!(&refused, ApplyError::Refused(error) if error.message.contains("digest")),
        "{refused:?}"
    );
    assert_eq!(world.versions().await, [""; 0]);
}
