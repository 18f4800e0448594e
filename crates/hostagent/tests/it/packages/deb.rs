//! dpkg's own ways to break.

use std::os::unix::process::CommandExt;

use super::*;

/// FAULTS 32: `kill -9` of dpkg in the middle of a maintainer script, as when the agent's unit is
/// ended.
#[tokio::test]
async fn what_a_killed_dpkg_leaves_is_healed() {
    let world = World::new(Family::Deb);
    world.apply(&[&plain("kept", "1")], &[]).await.unwrap();
    let gated = plain("app", "1").script(
        Moment::AfterInstall,
        "[ -e \"$ROOT/tmp/gate\" ] && exit 0; touch \"$ROOT/tmp/begun\"; exec sleep 600",
    );
    let root = world.sandbox.root().display().to_string();
    let mut dpkg = std::process::Command::new("dpkg")
        .args([format!("--root={root}"), format!("--log={root}/var/log/dpkg.log")])
        .args(["--force-not-root", "--force-script-chrootless", "--install"])
        .args([
            world.build(&plain("needs", "1").depends("app")),
            world.build(&gated),
        ])
        .env("BACKBONE_ROOT", world.sandbox.root())
        .stdout(std::process::Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    until("the script", || world.exists("/tmp/begun")).await;
    let group = rustix::process::Pid::from_child(&dpkg);
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
    dpkg.wait().unwrap();

    let broken = |installed: &InstalledPackages| {
        installed
            .iter()
            .filter(|(_, package)| package.broken)
            .map(|(name, _)| name.to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(broken(&*world.installed().await), ["app", "needs"]);
    std::fs::write(world.sandbox.join("/tmp/gate"), "").unwrap();
    world.packages.heal().await.unwrap();
    assert_eq!(broken(&*world.installed().await), [""; 0]);
    assert_eq!(world.versions().await, ["app 1-1", "kept 1-1", "needs 1-1"]);
}

#[tokio::test]
async fn a_package_killed_while_unpacking_can_be_installed_anew_or_removed() {
    let world = World::new(Family::Deb);
    world
        .apply(&[&plain("app", "1"), &plain("web", "1")], &[])
        .await
        .unwrap();
    let status = world.sandbox.join("/var/lib/dpkg/status");
    let killed = std::fs::read_to_string(&status).unwrap();
    let killed = killed.replace(
        "Status: install ok installed",
        "Status: install reinstreq half-installed",
    );
    std::fs::write(&status, killed).unwrap();
    assert!(world.installed().await.get("app").unwrap().broken);
    // Nothing that dpkg could do alone, and no reason to fail.
    world.packages.heal().await.unwrap();
    assert!(world.installed().await.get("app").unwrap().broken);

    world.apply(&[&plain("app", "2")], &["web"]).await.unwrap();
    assert_eq!(world.versions().await, ["app 2-1"]);
    assert!(!world.installed().await.get("app").unwrap().broken);
}

#[tokio::test]
async fn a_script_that_still_hangs_does_not_hold_back_the_healing_of_others() {
    let world = World::with_deadline(Family::Deb, Duration::from_secs(2));
    let hanging = plain("app", "1").script(Moment::AfterInstall, "sleep 600");
    world
        .apply(&[&hanging, &plain("other", "1")], &[])
        .await
        .unwrap_err();
    assert!(world.installed().await.get("other").unwrap().broken);
    world.packages.heal().await.unwrap();
    assert!(!world.installed().await.get("other").unwrap().broken);
    assert!(world.installed().await.get("app").unwrap().broken);
    world.apply(&[], &["app"]).await.unwrap();
}

#[tokio::test]
async fn reading_the_database_starts_no_process_and_is_quick() {
    let world = World::new(Family::Deb);
    let mut status = String::new();
    for i in 0..1500 {
        status += &format!(
            "Package: package-{i}\nStatus: install ok installed\nPriority: optional\nSection: libs\nInstalled-Size: 100\n\
             Maintainer: Nobody <nobody@example.com>\nArchitecture: amd64\nVersion: 1.{i}-1\nDepends: libc6 (>= 2.36)\n\
             Description: short\n{}\n",
            " a long line of a description that goes on and on for quite a while, as they do\n".repeat(8)
        );
    }
    std::fs::write(world.sandbox.join("/var/lib/dpkg/status"), status).unwrap();
    // Page faults of children that were waited for (proc(5)): every child has some.
    let children = || {
        let usage = std::fs::read_to_string("/proc/self/stat").unwrap();
        usage
            .rsplit(") ")
            .next()
            .unwrap()
            .split(' ')
            .nth(8)
            .unwrap()
            .to_owned()
    };
    let before = children();
    let started = Instant::now();
    assert_eq!(world.installed().await.len(), 1500);
    let first = started.elapsed();
    let started = Instant::now();
    for _ in 0..1000 {
        world.installed().await;
    }
    let cached = started.elapsed() / 1000;
    println!("1500 packages: {first:?}; unchanged: {cached:?}");
    // Loose: a debug build on a busy machine.
    assert!(first < Duration::from_millis(500), "{first:?}");
    assert!(cached < Duration::from_millis(1), "{cached:?}");
    assert_eq!(children(), before);
    world
        .packages
        .inspect(&world.build(&plain("app", "1")))
        .await
        .unwrap();
    assert_ne!(children(), before, "a child does not show in the count");
}

/// FAULTS 23: what cannot be read is not what is not there.
#[tokio::test]
async fn a_missing_database_is_an_error_and_never_an_empty_one() {
    let world = World::new(Family::Deb);
    world.apply(&[&plain("app", "1")], &[]).await.unwrap();
    std::fs::remove_file(world.sandbox.join("/var/lib/dpkg/status")).unwrap();
    let error = world.packages.installed().await.unwrap_err();
    assert_eq!(error.category, Category::Host);
    assert!(
        error.message.starts_with("cannot read the dpkg database in /"),
        "{error}"
    );
}

#[tokio::test]
async fn a_package_says_the_same_however_it_is_compressed() {
    let world = World::new(Family::Deb);
    let plain = world.build(&plain("app", "1.5").conffile("/etc/app.conf", "x"));
    let tree = tempfile::tempdir().unwrap();
    let dpkg_deb = |arguments: &[&std::ffi::OsStr]| {
        let output = std::process::Command::new("dpkg-deb")
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    dpkg_deb(&["--raw-extract".as_ref(), plain.as_ref(), tree.path().as_ref()]);
    let mut expected = world.packages.inspect(&plain).await.unwrap();
    for compression in ["-Znone", "-Zgzip", "-Zxz"] {
        let other = world.built.path().join(format!("app{compression}.deb"));
        dpkg_deb(&[
            "--root-owner-group".as_ref(),
            compression.as_ref(),
            "--build".as_ref(),
            tree.path().as_ref(),
            other.as_ref(),
        ]);
        let said = world.packages.inspect(&other).await.unwrap();
        expected.path = other;
        assert_eq!(said, expected, "{compression}");
        let source = Source::File(said);
        assert!(world.packages.is_new_here(&source).await.unwrap());
        std::fs::write(world.sandbox.join("/etc/app.conf"), "mine").unwrap();
        assert!(
            !world.packages.is_new_here(&source).await.unwrap(),
            "{compression}"
        );
        std::fs::remove_file(world.sandbox.join("/etc/app.conf")).unwrap();
    }
}

/// FIELD REPORT R03: a package that nobody asked for fails in its trigger.
#[tokio::test]
async fn a_trigger_of_another_package_that_fails_is_a_warning() {
    let world = World::new(Family::Deb);
    let control = "Package: trig\nVersion: 1-1\nArchitecture: all\nMaintainer: Nobody <n@example.com>\nDescription: x\n";
    let trig = build_by_hand(
        world.built.path(),
        "trig",
        &[
            ("control", control),
            ("triggers", "interest-noawait /opt/web\n"),
            (
                "postinst",
                "#!/bin/sh\n[ \"$1\" != triggered ] || { echo no room in /boot >&2; exit 1; }\n",
            ),
        ],
    );
    let install = vec![Source::File(world.packages.inspect(&trig).await.unwrap())];
    let remove = Vec::new();
    world
        .packages
        .apply(&Transaction { install, remove })
        .await
        .unwrap();
    let applied = world.try_apply(&[&plain("web", "1.0")], &[]).await.unwrap();
    let [warning] = &*applied.warnings else {
        panic!("{applied:?}")
    };
    assert!(
        warning.contains("trig") && warning.contains("no room in /boot"),
        "{warning}"
    );
    assert!(world.installed().await.get("trig").unwrap().broken);
    // Nor does it stand in the way of an upgrade, or of the removal.
    world.try_apply(&[&plain("web", "1.1")], &[]).await.unwrap();
    assert_eq!(world.versions().await, ["trig 1-1", "web 1.1-1"]);
    world.try_apply(&[], &["web"]).await.unwrap();
    assert_eq!(world.versions().await, ["trig 1-1"]);
}

/// FIELD REPORT R18: the configuration file of a removed package that somebody has deleted.
#[tokio::test]
async fn a_deleted_conffile_comes_back_with_its_package_and_not_with_an_upgrade() {
    let world = World::new(Family::Deb);
    let app =
        |name: &str, version: &str| plain(name, version).conffile(&format!("/etc/{name}.conf"), "default\n");
    world
        .apply(&[&app("app", "1"), &app("web", "1")], &[])
        .await
        .unwrap();
    let delete = |name: &str| std::fs::remove_file(world.sandbox.join(&format!("/etc/{name}.conf"))).unwrap();
    world.apply(&[], &["app"]).await.unwrap();
    delete("app");
    world.apply(&[&app("app", "1")], &[]).await.unwrap();
    assert_eq!(world.read("/etc/app.conf"), "default\n");

    // Deleted while the package is installed, it was somebody's decision; also beside one that
    // comes back.
    delete("web");
    world.apply(&[&app("web", "2")], &[]).await.unwrap();
    assert!(!world.exists("/etc/web.conf"));
    world.apply(&[], &["app"]).await.unwrap();
    delete("app");
    world
        .apply(&[&app("web", "1"), &app("app", "1")], &[])
        .await
        .unwrap();
    assert!(!world.exists("/etc/web.conf"));
}
