//! Health checks of each kind: a version whose check fails goes back, and has come back only when the previous one's
//! check passes.

use super::*;

for_both_families![
    a_program_that_says_no,
    a_server_that_does_not_answer,
    a_port_that_nobody_listens_on,
    the_previous_version_has_to_pass_its_checks_too,
];

/// Of a version: its `[[health]]`.
type CheckOf = Box<dyn Fn(&World, &str) -> String>;

/// How the checks of `app` are written, version by version, and how they are broken.
struct Checks {
    manifest: CheckOf,
    /// What the error says of a check that fails.
    complaint: &'static str,
}

const BAKE: Run = Run {
    bake: Duration::from_secs(2),
    deadline: Duration::from_secs(60),
};

/// `app` with a check of its own in its manifest.
fn with_check(world: &World, checks: &Checks, version: &str) -> Package {
    let check = (checks.manifest)(world, version);
    let manifest = format!(
        "services = [\"app\"]\n[config.app]\nfile = \"/etc/pf9/app/config.json\"\nformat = \"json\"\n\
         [[health]]\n{check}\ninterval = 1\nretries = 2\n"
    );
    example_app("app", version)
        .without_file("/opt/pf9/app/config")
        .file("/usr/share/hostagent/apps/app.toml", 0o644, manifest)
}

/// Its service runs, and does not do its work: 1.0 and 3.0 are well, 2.0 is not.
async fn goes_back_and_then_on(world: &mut World, checks: Checks) {
    let one = with_check(world, &checks, "1.0");
    let apps = json!({"app": world.desired(&one, "old")});
    world.reach(apps).await;
    let config = world.read("/etc/pf9/app/config.json");

    let two = with_check(world, &checks, "2.0");
    let apps = json!({"app": world.desired(&two, "new")});
    let status = world.fail_at(apps).await;
    let error = only_error(&status);
    let found = (error.phase, error.category, error.rolled_back, &error.next_retry);
    assert_eq!(
        found,
        (Phase::Health, Category::Unhealthy, true, &None),
        "{error:?}"
    );
    assert!(error.message.contains(checks.complaint), "{error:?}");
    assert!(error.message.contains("failed 2 times in a row"), "{error:?}");
    assert_eq!(world.database(), ["app 1.0-1"]);
    assert_eq!(world.read("/etc/pf9/app/config.json"), config);
    world.loaded("app", &format!("1.0\n{}", config.trim_end())).await;
    assert!(!world.has_journal());
    world.assert_held().await;

    let three = with_check(world, &checks, "3.0");
    let apps = json!({"app": world.desired(&three, "newest")});
    world.reach(apps).await;
}

async fn a_server_that_does_not_answer(family: Family) {
    let mut world = World::with(family, BAKE).await;
    world.server.put_file("/health/1.0", "fine");
    world.server.put_file("/health/3.0", "fine");
    let manifest = |world: &World, version: &str| {
        format!(
            "type = \"http\"\nurl = \"{}\"",
            world.server.url(&format!("/health/{version}"))
        )
    };
    let checks = Checks {
        manifest: Box::new(manifest),
        complaint: "the http health check of app",
    };
    goes_back_and_then_on(&mut world, checks).await;
    assert!(world.server.count("/health/2.0") >= 2);
}

async fn a_program_that_says_no(family: Family) {
    let mut world = World::with(family, BAKE).await;
    ill(&world, "2.0");
    goes_back_and_then_on(&mut world, by_program()).await;
    // The previous version was asked again when it was back.
    let asked = world.read("/tmp/asked");
    let after = asked.rsplit("2.0\n").next().unwrap();
    assert!(after.starts_with("1.0\n"), "{asked}");
}

async fn a_port_that_nobody_listens_on(family: Family) {
    let mut world = World::with(family, BAKE).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let open = listener.local_addr().unwrap();
    // Bound, and not listening.
    let closed = tokio::net::TcpSocket::new_v4().unwrap();
    closed.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let shut = closed.local_addr().unwrap();
    let manifest = move |_: &World, version: &str| {
        let address = if version == "2.0" { shut } else { open };
        format!("type = \"tcp\"\naddress = \"{address}\"")
    };
    let checks = Checks {
        manifest: Box::new(manifest),
        complaint: "the tcp health check of app",
    };
    goes_back_and_then_on(&mut world, checks).await;
}

/// A check that runs a program, which fails as long as its version is ill.
fn by_program() -> Checks {
    let manifest = |world: &World, version: &str| {
        let script = "#!/bin/sh\necho \"$1\" >> \"$BACKBONE_ROOT/tmp/asked\"\n[ ! -e \"$BACKBONE_ROOT/tmp/ill-$1\" ]\n";
        let path = world.sandbox.join("/usr/local/bin/check");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        format!("type = \"exec\"\ncommand = [\"/usr/local/bin/check\", \"{version}\"]")
    };
    Checks {
        manifest: Box::new(manifest),
        complaint: "the exec health check of app",
    }
}

fn ill(world: &World, version: &str) {
    std::fs::write(world.sandbox.join(&format!("/tmp/ill-{version}")), "").unwrap();
}

/// The failed version has left something behind that the previous one can't work with either.
async fn the_previous_version_has_to_pass_its_checks_too(family: Family) {
    let mut world = World::with(family, BAKE).await;
    let checks = by_program();
    let one = with_check(&world, &checks, "1.0");
    let apps = json!({"app": world.desired(&one, "old")});
    world.reach(apps).await;
    ill(&world, "1.0");
    ill(&world, "2.0");
    let two = with_check(&world, &checks, "2.0");
    let apps = json!({"app": world.desired(&two, "new")});
    let status = world.fail_at(apps).await;
    let error = only_error(&status);
    let found = (error.phase, error.category, error.rolled_back, &error.next_retry);
    assert_eq!(
        found,
        (Phase::Rollback, Category::Unhealthy, false, &None),
        "{error:?}"
    );
    assert!(error.message.contains("rollback failed"), "{error:?}");
    assert_eq!(world.database(), ["app 1.0-1"]);
    assert!(world.has_journal());
    world.assert_held().await;

    // The operator has mended what was wrong, and says so.
    for version in ["1.0", "2.0"] {
        std::fs::remove_file(world.sandbox.join(&format!("/tmp/ill-{version}"))).unwrap();
    }
    let before = world.master.count();
    world.agent.as_ref().unwrap().retry_failed();
    let ok = |all: &[Status]| {
        all[before..]
            .iter()
            .find(|status| status.status == State::Ok)
            .cloned()
    };
    let status = world.master.wait("all is well", ok).await;
    assert_eq!(app(&status, "app").package_version, "2.0-1");
    assert_eq!(world.database(), ["app 2.0-1"]);
    assert!(!world.has_journal());
}
