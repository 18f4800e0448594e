//! What holds for dpkg and rpm alike.

use super::*;

macro_rules! for_both_families {
    ($($test:ident),* $(,)?) => {
        mod on_deb { $( #[tokio::test] async fn $test() { super::$test(super::Family::Deb).await } )* }
        mod on_rpm { $( #[tokio::test] async fn $test() { super::$test(super::Family::Rpm).await } )* }
    };
}

for_both_families![
    packages_come_change_version_and_go,
    several_come_and_go_in_one_transaction,
    an_application_is_known_by_what_it_provides,
    a_package_file_says_what_it_is,
    what_is_no_package_is_refused,
    a_conffile_that_the_administrator_changed_stays,
    a_script_that_fails_after_the_installation_is_an_error,
    a_script_that_fails_before_the_installation_is_an_error,
    a_script_that_hangs_is_killed_with_all_it_started_and_healed_later,
    scripts_are_asked_nothing_and_restart_nothing,
    a_dropped_apply_goes_on_to_its_end,
    a_lock_held_by_another_process_is_waited_for,
    a_file_of_another_package_is_not_overwritten,
    missing_dependencies_are_named,
    a_package_that_another_needs_is_not_removed,
    names_and_paths_are_never_options,
    the_database_is_read_only_when_it_has_changed,
    removing_what_is_not_there_is_fine,
    a_dry_run_changes_nothing,
    shipped_files_are_those_of_the_host,
    a_sandbox_has_no_repositories,
    the_family_shows_in_the_database,
    a_package_needs_room_where_its_files_go,
];

async fn packages_come_change_version_and_go(family: Family) {
    let world = World::new(family);
    assert_eq!(world.versions().await, [""; 0]);
    for version in ["1.0", "2.0", "1.5"] {
        world.apply(&[&plain("app", version)], &[]).await.unwrap();
        assert_eq!(world.versions().await, [format!("app {version}-1")]);
        assert_eq!(world.read("/opt/app/version"), version);
    }
    // The same again: a package whose files were damaged is made whole.
    std::fs::write(world.sandbox.join("/opt/app/version"), "damaged").unwrap();
    world.apply(&[&plain("app", "1.5")], &[]).await.unwrap();
    assert_eq!(world.read("/opt/app/version"), "1.5");

    world.apply(&[], &["app"]).await.unwrap();
    assert_eq!(world.versions().await, [""; 0]);
    assert!(!world.exists("/opt/app/version"));
}

async fn several_come_and_go_in_one_transaction(family: Family) {
    let world = World::new(family);
    let old = plain("old", "1").file("/opt/shared", 0o644, "old");
    world
        .apply(&[&old, &plain("app", "1"), &plain("kept", "1")], &[])
        .await
        .unwrap();

    // `new` takes over a file of `old`; `needs` depends on what comes with it.
    let new = plain("new", "1")
        .file("/opt/shared", 0o644, "new")
        .conflicts("old");
    let needs = plain("needs", "1").depends("new");
    world
        .apply(&[&needs, &new, &plain("app", "2").epoch(3)], &["old"])
        .await
        .unwrap();
    assert_eq!(
        world.versions().await,
        ["app 3:2-1", "kept 1-1", "needs 1-1", "new 1-1"]
    );
    assert_eq!(world.read("/opt/shared"), "new");
}

async fn an_application_is_known_by_what_it_provides(family: Family) {
    let world = World::new(family);
    world
        .apply(&[&example_app("web", "1.0"), &plain("lib", "1")], &[])
        .await
        .unwrap();
    let installed = world.installed().await;
    assert!(installed.get("web").unwrap().is_application && !installed.get("web").unwrap().broken);
    assert!(!installed.get("lib").unwrap().is_application);
}

async fn a_package_file_says_what_it_is(family: Family) {
    let world = World::new(family);
    let path = world.build(
        &plain("app", "1.0~rc1")
            .epoch(2)
            .file("/opt/app/big", 0o644, [0; 50_000]),
    );
    let file = world.packages.inspect(&path).await.unwrap();
    assert_eq!((&*file.name, &*file.version), ("app", "2:1.0~rc1-1"));
    assert!(file.arch_fits);
    assert!(
        (50_000..60_000).contains(&file.installed_size),
        "{}",
        file.installed_size
    );
    assert_eq!(file.path, path);

    let foreign = "s390x";
    let file = world
        .packages
        .inspect(&world.build(&plain("foreign", "1").arch(foreign)))
        .await;
    let file = file.unwrap();
    assert!(!file.arch_fits);
    assert_eq!(file.arch, foreign);
}

async fn what_is_no_package_is_refused(family: Family) {
    let world = World::new(family);
    let whole = std::fs::read(world.build(&plain("app", "1"))).unwrap();
    let truncated = whole[..100].to_vec();
    // rpm would take text for a list of packages to fetch.
    for bytes in [
        b"".to_vec(),
        b"http://127.0.0.1:1/evil.rpm\n".to_vec(),
        vec![0; 5000],
        truncated,
    ] {
        let path = world.built.path().join(format!("junk.{}", family.extension()));
        std::fs::write(&path, bytes).unwrap();
        let refused = world.packages.inspect(&path).await.unwrap_err();
        assert_eq!(refused.category, Category::Verification, "{refused}");
        assert!(refused.message.contains("junk."), "{refused}");
    }
}

async fn a_conffile_that_the_administrator_changed_stays(family: Family) {
    let world = World::new(family);
    let with_conffile =
        |version: &str| plain("app", version).conffile("/etc/app.conf", format!("default {version}\n"));
    world.apply(&[&with_conffile("1")], &[]).await.unwrap();
    std::fs::write(world.sandbox.join("/etc/app.conf"), "mine\n").unwrap();
    world.apply(&[&with_conffile("2")], &[]).await.unwrap();
    assert_eq!(world.read("/etc/app.conf"), "mine\n");
    assert_eq!(world.versions().await, ["app 2-1"]);
    world.apply(&[], &["app"]).await.unwrap();
    let kept = match family {
        Family::Deb => "/etc/app.conf",
        Family::Rpm => "/etc/app.conf.rpmsave",
    };
    assert_eq!(world.read(kept), "mine\n");
}

async fn a_script_that_fails_after_the_installation_is_an_error(family: Family) {
    let world = World::new(family);
    world.apply(&[&plain("app", "1")], &[]).await.unwrap();
    let bad = plain("app", "2").script(Moment::AfterInstall, "echo 'no 100% database' >&2; exit 3");
    let error = world.apply(&[&bad, &plain("other", "1")], &[]).await.unwrap_err();
    assert_eq!(error.category, Category::Script, "{error}");
    for part in ["app 2-1", "no 100% database", "exit status 3"] {
        assert!(error.message.contains(part), "{error}");
    }
    // The others went on, and the way back is open.
    assert_eq!(world.installed().await.get("other").unwrap().version, "1-1");
    world.apply(&[&plain("app", "1")], &[]).await.unwrap();
    assert_eq!(world.versions().await, ["app 1-1", "other 1-1"]);
    assert!(!world.installed().await.get("app").unwrap().broken);
}

async fn a_script_that_fails_before_the_installation_is_an_error(family: Family) {
    let world = World::new(family);
    world.apply(&[&plain("app", "1")], &[]).await.unwrap();
    let bad = plain("app", "2").script(Moment::BeforeInstall, "echo not here; exit 1");
    let error = world.apply(&[&bad], &[]).await.unwrap_err();
    assert_eq!(error.category, Category::Script, "{error}");
    assert!(error.message.contains("not here"), "{error}");
    assert_eq!(world.versions().await, ["app 1-1"]);
    assert_eq!(world.read("/opt/app/version"), "1");
}

async fn a_script_that_hangs_is_killed_with_all_it_started_and_healed_later(family: Family) {
    let world = World::with_deadline(family, Duration::from_secs(2));
    let gate = world.sandbox.join("/tmp/gate");
    // The first run hangs, with children; once the gate is open it ends well.
    let hanging = plain("app", "2").provides("pf9app").script(
        Moment::AfterInstall,
        "[ -e \"$ROOT/tmp/gate\" ] && exit 0; sleep 600 & echo $! > \"$ROOT/tmp/child\"; echo $$ > \"$ROOT/tmp/script\"; wait",
    );
    world
        .apply(&[&plain("app", "1").provides("pf9app")], &[])
        .await
        .unwrap();
    let started = Instant::now();
    let error = world.apply(&[&hanging], &[]).await.unwrap_err();
    assert_eq!(error.category, Category::Timeout, "{error}");
    assert!(error.message.contains("app 2-1 did not end within 2s"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10));
    let (child, script) = (world.read("/tmp/child"), world.read("/tmp/script"));
    until("the end of the script and its child", || {
        !is_alive(&child) && !is_alive(&script)
    })
    .await;
    assert!(world.installed().await.get("app").unwrap().broken);

    // The others are not held back.
    world.apply(&[&plain("other", "1")], &[]).await.unwrap();

    std::fs::write(gate, "").unwrap();
    world.packages.heal().await.unwrap();
    assert!(!world.installed().await.get("app").unwrap().broken);
    assert_eq!(world.versions().await, ["app 2-1", "other 1-1"]);
    world.apply(&[&hanging], &[]).await.unwrap();
    world.apply(&[], &["app"]).await.unwrap();
}

/// FAULTS 33 and 36.
async fn scripts_are_asked_nothing_and_restart_nothing(family: Family) {
    let world = World::new(family);
    let curious = plain("app", "1").script(
        Moment::AfterInstall,
        "env > \"$ROOT/tmp/env\"; cat > \"$ROOT/tmp/stdin\"",
    );
    world.apply(&[&curious], &[]).await.unwrap();
    assert_eq!(world.read("/tmp/stdin"), "");
    let environment = world.read("/tmp/env");
    let root = format!("BACKBONE_ROOT={}", world.sandbox.root().display());
    let expected = [
        "NEEDRESTART_SUSPEND=1",
        "NEEDRESTART_MODE=l",
        "DEBIAN_FRONTEND=noninteractive",
        &root,
    ];
    for line in expected {
        assert!(
            environment.lines().any(|other| other == line),
            "{line} is not in {environment}"
        );
    }
}

async fn a_dropped_apply_goes_on_to_its_end(family: Family) {
    let world = World::new(family);
    let slow = plain("app", "1").script(
        Moment::AfterInstall,
        "touch \"$ROOT/tmp/begun\"; sleep 0.5; touch \"$ROOT/tmp/ended\"",
    );
    let transaction = world.transaction(&[&slow], &[]).await;
    tokio::select! {
        _ = world.packages.apply(&transaction) => panic!("it takes longer than its beginning"),
        () = until("the script", || world.exists("/tmp/begun")) => {}
    }
    assert!(!world.exists("/tmp/ended"));
    until("the end of the script", || world.exists("/tmp/ended")).await;
}

async fn a_lock_held_by_another_process_is_waited_for(family: Family) {
    let world = World::new(family);
    world.apply(&[&plain("app", "1")], &[]).await.unwrap();
    let locks: &[&str] = match family {
        Family::Deb => &["/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock"],
        Family::Rpm => &["/var/lib/rpm/.rpm.lock"],
    };
    for lock in locks {
        let held = hold_lock(&world.sandbox.join(lock));
        for (install, remove) in [(vec![&plain("app", "2")], vec![]), (vec![], vec!["app"])] {
            let error = world.apply(&install, &remove).await.unwrap_err();
            assert_eq!(error.category, Category::Locked, "{error}");
            let own = format!(
                "waiting for the package lock, which process {} (",
                std::process::id()
            );
            assert!(error.message.starts_with(&own), "{error}");
            assert_eq!(world.versions().await, ["app 1-1"]);
        }
        drop(held);
    }
    world.apply(&[&plain("app", "2")], &[]).await.unwrap();
}

async fn a_file_of_another_package_is_not_overwritten(family: Family) {
    let world = World::new(family);
    world.apply(&[&plain("app", "1")], &[]).await.unwrap();
    let thief = plain("thief", "1").file("/opt/app/version", 0o644, "stolen");
    let error = world.apply(&[&thief], &[]).await.unwrap_err();
    assert_eq!(error.category, Category::Dependency, "{error}");
    assert!(error.message.contains("/opt/app/version"), "{error}");
    assert_eq!(world.read("/opt/app/version"), "1");
    assert_eq!(world.versions().await, ["app 1-1"]);
}

async fn missing_dependencies_are_named(family: Family) {
    let world = World::new(family);
    let error = world
        .apply(&[&plain("app", "1").depends("libmissing")], &[])
        .await
        .unwrap_err();
    assert_eq!(error.category, Category::Dependency, "{error}");
    assert!(error.message.contains("libmissing"), "{error}");
}

async fn a_package_that_another_needs_is_not_removed(family: Family) {
    let world = World::new(family);
    world
        .apply(&[&plain("lib", "1"), &plain("app", "1").depends("lib")], &[])
        .await
        .unwrap();
    let error = world.apply(&[], &["lib"]).await.unwrap_err();
    assert_eq!(error.category, Category::Dependency, "{error}");
    // Unless what needed it is replaced in the same transaction.
    world.apply(&[&plain("app", "2")], &["lib"]).await.unwrap();
    assert_eq!(world.versions().await, ["app 2-1"]);
}

async fn names_and_paths_are_never_options(family: Family) {
    let world = World::new(family);
    world.apply(&[&plain("app", "1")], &[]).await.unwrap();
    let evidence = world.sandbox.join("/tmp/evidence");
    let eval = format!("--eval=%(touch {})", evidence.display());
    for name in ["-h", "--version", &eval, "", "../app", "a*"] {
        let removal = Transaction {
            install: Vec::new(),
            remove: vec![name.to_owned()],
        };
        let outcomes = [
            world
                .packages
                .apply(&removal)
                .await
                .map(drop)
                .map_err(HostError::from),
            world.packages.simulate(&removal).await.map(drop),
            world.packages.shipped_files(name).await.map(|_| ()),
            world.packages.find_in_repositories(name, "1").await.map(|_| ()),
        ];
        for outcome in outcomes {
            assert_eq!(outcome.unwrap_err().category, Category::Invalid, "{name}");
        }
        let refused = world
            .packages
            .inspect(std::path::Path::new(name))
            .await
            .unwrap_err();
        assert_eq!(refused.category, Category::Invalid, "{name}");
    }
    assert!(!evidence.exists());
    assert_eq!(world.versions().await, ["app 1-1"]);
}

async fn the_database_is_read_only_when_it_has_changed(family: Family) {
    let world = World::new(family);
    world.apply(&[&plain("app", "1")], &[]).await.unwrap();
    let first = world.installed().await;
    for _ in 0..3 {
        assert!(
            Arc::ptr_eq(&first, &world.installed().await),
            "read again without a change"
        );
    }
    // By someone else's hand, that is, through another instance.
    let root = Root::new(world.sandbox.root());
    let other = packages::detect(
        &root,
        Options {
            family: Some(hosts(family)),
            ..Options::default()
        },
    )
    .unwrap();
    other
        .apply(&world.transaction(&[&plain("app", "2")], &[]).await)
        .await
        .unwrap();
    assert_eq!(world.versions().await, ["app 2-1"]);
    assert!(!Arc::ptr_eq(&first, &world.installed().await));
}

async fn removing_what_is_not_there_is_fine(family: Family) {
    let world = World::new(family);
    world.apply(&[], &["nosuch"]).await.unwrap();
    world.simulate(&[], &["nosuch"]).await.unwrap();
    world.apply(&[], &[]).await.unwrap();
}

async fn a_dry_run_changes_nothing(family: Family) {
    let world = World::new(family);
    world.apply(&[&plain("app", "1")], &[]).await.unwrap();
    let before = world.installed().await;
    world
        .simulate(&[&plain("app", "2"), &plain("other", "1")], &[])
        .await
        .unwrap();
    world.simulate(&[], &["app"]).await.unwrap();
    let refused = world
        .simulate(&[&plain("foe", "1").conflicts("app")], &[])
        .await
        .unwrap_err();
    assert_eq!(refused.category, Category::Dependency, "{refused}");
    assert!(
        refused.message.starts_with("dry run of foe 1-1 failed"),
        "{refused}"
    );
    assert!(Arc::ptr_eq(&before, &world.installed().await));
}

async fn shipped_files_are_those_of_the_host(family: Family) {
    let world = World::new(family);
    world.apply(&[&example_app("app", "1")], &[]).await.unwrap();
    let files = world.packages.shipped_files("app").await.unwrap();
    for file in ["/etc/init.d/app", "/opt/pf9/app/config"] {
        assert!(files.contains(&PathBuf::from(file)), "{files:?}");
    }
    let missing = world.packages.shipped_files("nosuch").await.unwrap_err();
    assert_eq!(missing.category, Category::NotFound);
}

async fn a_sandbox_has_no_repositories(family: Family) {
    let world = World::new(family);
    let refused = world.packages.find_in_repositories("app", "1").await.unwrap_err();
    assert_eq!(refused.category, Category::NotFound);
    assert!(refused.message.contains("app needs a url"), "{refused}");
}

async fn the_family_shows_in_the_database(family: Family) {
    let world = World::new(family);
    world.apply(&[&plain("app", "1")], &[]).await.unwrap();
    let detected = packages::detect(&Root::new(world.sandbox.root()), Options::default()).unwrap();
    assert_eq!(detected.family(), hosts(family));
    assert_eq!(*detected.installed().await.unwrap(), *world.installed().await);
}

/// FIELD REPORT R05: not on the root's file system.
async fn a_package_needs_room_where_its_files_go(family: Family) {
    let folder = tempfile::tempdir().unwrap();
    let Some(_root) = Mounted::new(folder.path(), 16) else {
        return;
    };
    let sandbox = Sandbox::create(folder.path(), family).unwrap();
    let (large, small) = (sandbox.join("/opt"), sandbox.join("/srv"));
    std::fs::create_dir(&small).unwrap();
    let _large = Mounted::new(&large, 64).unwrap();
    let _small = Mounted::new(&small, 4).unwrap();
    let world = World::in_sandbox(sandbox, Duration::from_secs(60));
    // Not to be compressed.
    let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
        .take(24 << 20)
        .collect();
    let fits = Package::new("app", "1").file("/opt/app/data", 0o644, noise.clone());
    world.apply(&[&fits], &[]).await.unwrap();
    let fits = Package::new("app", "2").file("/opt/app/data", 0o644, noise);
    world.apply(&[&fits], &[]).await.unwrap();

    let too_large = Package::new("web", "1").file("/srv/web/data", 0o644, vec![7; 8 << 20]);
    let refused = world.try_apply(&[&too_large], &[]).await.unwrap_err();
    assert!(
        matches!(&refused, ApplyError::Refused(error) if error.category == Category::DiskSpace),
        "{refused:?}"
    );
    let named = match family {
        Family::Deb => format!("web takes up 8 MiB on {} but only ", small.display()),
        Family::Rpm => format!("on the {} filesystem", small.display()),
    };
    assert!(refused.to_string().contains(&named), "{refused}");
    assert_eq!(world.versions().await, ["app 2-1"]);
}

/// A file system in memory of so many MiB; unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(place: &std::path::Path, mib: u32) -> Option<Self> {
        let output = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(place)
            .output()
            .unwrap();
        if output.status.success() {
            return Some(Self(place.to_owned()));
        }
        let reason = String::from_utf8_lossy(&output.stderr);
        harness::skip::skipped("a_package_needs_room_where_its_files_go", reason.trim());
        None
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("--lazy")
            .arg(&self.0)
            .status();
    }
}
