//! rpm's own ways to break.

use std::os::unix::process::CommandExt;

use host::packages::fuzzing::rpm_header;

use super::*;

/// FAULTS 38: rpm killed in an upgrade, when the new version is in the database and the old one still is.
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

/// Nobody would notice if rpm were asked for each of them again, but by the time it takes.
#[tokio::test]
async fn a_usual_package_is_read_without_rpm() {
    let world = World::new(Family::Rpm);
    let file = world.build(&plain("app", "1.5"));
    let whole = std::fs::read(&file).unwrap();
    let said = rpm_header(&whole).unwrap();
    assert_eq!(said, Some(("app".to_owned(), "1.5-1".to_owned())));
    // What was changed on its way is for rpm to refuse.
    let name = whole.windows(4).position(|bytes| bytes == b"app\0").unwrap();
    let mut changed = whole;
    changed[name] = b'b';
    if let Some((name, _)) = rpm_header(&changed).unwrap() {
        assert_eq!(name, "app", "the lead's name says nothing");
    }
    let last = changed.windows(4).rposition(|bytes| bytes == b"1.5\0").unwrap();
    changed[last] = b'2';
    assert_eq!(rpm_header(&changed).unwrap(), None);
}

/// rpm goes without digests that are known to fit; not if the file has changed since.
#[tokio::test]
async fn a_package_that_does_not_fit_its_digests_is_refused_before_anything_is_changed() {
    let world = World::new(Family::Rpm);
    let (good, bad) = (world.build(&plain("good", "1")), world.build(&plain("app", "1")));
    let whole = world.packages.inspect(&bad).await.unwrap();
    assert!(whole.verified.is_some());
    let mut bytes = std::fs::read(&bad).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&bad, bytes).unwrap();
    let damaged = world.packages.inspect(&bad).await.unwrap();
    assert!(damaged.verified.is_none());
    let good = world.packages.inspect(&good).await.unwrap();
    let both = |other| Transaction {
        install: vec![Source::File(good.clone()), Source::File(other)],
        remove: Vec::new(),
    };
    world.packages.simulate(&both(damaged)).await.unwrap_err();
    // Damaged after it was read.
    for error in [
        world.packages.simulate(&both(whole.clone())).await.unwrap_err(),
        world.packages.apply(&both(whole)).await.unwrap_err().into(),
    ] {
        assert!(error.message.contains("digest"), "{error}");
    }
    assert_eq!(world.versions().await, [""; 0]);
}

/// As by a disk, without a sign of it. The digest of each file is looked at as it is unpacked.
#[tokio::test]
async fn a_package_that_was_damaged_unseen_is_not_installed() {
    let world = World::new(Family::Rpm);
    // Not to be compressed.
    let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(50_000).collect();
    let file = world.build(&plain("app", "1").file("/opt/app/data", 0o644, noise));
    let package = world.packages.inspect(&file).await.unwrap();
    let modified = std::fs::metadata(&file).unwrap().modified().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let amid = bytes.len() - 25_000;
    bytes[amid] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let written = std::fs::File::options().append(true).open(&file).unwrap();
    written.set_modified(modified).unwrap();
    let transaction = Transaction {
        install: vec![Source::File(package)],
        remove: Vec::new(),
    };
    let error = world.packages.apply(&transaction).await.unwrap_err();
    assert!(error.to_string().contains("Digest mismatch"), "{error}");
    assert_eq!(world.versions().await, [""; 0]);
}
