//! A host with rpm and dnf under a systemd of its own. What it does not show: [`e2e::rpm_host`].

use std::time::Duration;

use e2e::agent_package::{agent_package, agent_package_with};
use e2e::app::{app_that_runs, app_with_hook};
use e2e::host::Host;
use e2e::rpm_host::add_repository;
use e2e::world::World;
use harness::driver::Received;
use harness::machine;
use harness::packages::Package;
use serde_json::json;

#[tokio::test]
async fn a_host_with_rpm_installs_upgrades_rolls_back_and_removes() {
    if machine::skip("a_host_with_rpm_installs_upgrades_rolls_back_and_removes") {
        return;
    }
    let mut world = World::new().await.unwrap();
    let host = world.rpm_host("own_upgrade_deadline = 10").await.unwrap();
    let id = world.start(&host).await.unwrap();
    let spec = |version: &str, url: &str, greeting: &str| json!({"app": {"version": version, "url": url, "config": {"app": {"greeting": greeting}}}});

    // From a URL: unit started and enabled, config written.
    let first = world.serve(&app_with_hook("app", "1.0"), &host).unwrap();
    assert!(first.ends_with(".rpm"), "{first}");
    let answer = world
        .converge(&host, &id, &spec("1.0", &first, "hi"))
        .await
        .unwrap();
    assert_eq!(answer.state(), "ok", "{}\n{}", answer.message, host.log());
    assert_eq!(answer.data("apps")["app"]["package_version"], "1.0-1");
    runs(&host, "1.0", "hi").await;

    // Upgraded in place; the config stays.
    let second = world.serve(&app_with_hook("app", "2.0"), &host).unwrap();
    let answer = world
        .converge(&host, &id, &spec("2.0", &second, "hi"))
        .await
        .unwrap();
    assert_eq!(answer.state(), "ok", "{}\n{}", answer.message, host.log());
    runs(&host, "2.0", "hi").await;

    // One that dies is rolled back. FAULTS.md row 39.
    let dying = app_that_runs("app", "3.0", "sleep 1; exit 1");
    let dying = world.serve(&dying, &host).unwrap();
    let bad = json!({"app": {"version": "3.0", "url": dying}});
    let answer = world.converge(&host, &id, &bad).await.unwrap();
    assert_eq!(answer.state(), "errors", "{}", answer.message);
    let error = &answer.data("errors")[0];
    assert_eq!(
        (&error["phase"], &error["rolled_back"]),
        (&json!("health"), &json!(true)),
        "{error}"
    );
    runs(&host, "2.0", "hi").await;

    // The agent itself. FAULTS.md row 37.
    let before = host.show("hostagent", "MainPID");
    let agent = world.serve(&agent_package("2.0").unwrap(), &host).unwrap();
    let both =
        json!({"app": spec("2.0", &second, "hi")["app"], "hostagent": {"version": "2.0", "url": agent}});
    let answer = world.converge(&host, &id, &both).await.unwrap();
    assert_eq!(answer.state(), "ok", "{}\n{}", answer.message, host.log());
    assert_eq!(host.package("hostagent"), "2.0-1");
    assert_ne!(host.show("hostagent", "MainPID"), before);

    // One that says nothing is brought back.
    let drop_in = "[Service]\nTimeoutStartSec=8\n";
    let path = "/etc/systemd/system/hostagent.service.d/test.conf";
    host.machine.write(path, drop_in, 0o644).unwrap();
    let bad = agent_package_with("3.0", "#!/bin/sh\nexec sleep 100000\n");
    let bad = world.serve(&bad, &host).unwrap();
    let bad = json!({"app": both["app"], "hostagent": {"version": "3.0", "url": bad}});
    let message = world.set_config(&id, &bad).await.unwrap();
    let brought_back = |status: &Received| {
        status.reply_to() == Some(&message) && status.data("errors")[0]["rolled_back"] == true
    };
    let limit = Duration::from_secs(120);
    world
        .status_within(&host, &id, "the previous agent reports", limit, brought_back)
        .await
        .unwrap();
    assert_eq!(host.package("hostagent"), "2.0-1");
    let agent = host.show("hostagent", "MainPID");
    let answer = world.converge(&host, &id, &both).await.unwrap();
    assert_eq!(answer.state(), "ok", "{}\n{}", answer.message, host.log());
    assert_eq!(host.show("hostagent", "MainPID"), agent, "installed again");

    // Behind its back, and then for good.
    host.machine.sh("rpm -e app 2>&1").unwrap();
    // The agent may have looked in the midst of it, when files were gone and the database still had the package.
    host.until("rpm -q app && systemctl is-active -q app")
        .await
        .unwrap();
    let answer = world.converge(&host, &id, &json!({})).await.unwrap();
    assert_eq!(answer.state(), "ok", "{}", answer.message);
    assert_eq!(host.show("app", "LoadState"), "not-found");
    host.machine.sh("! rpm -q app && rpm -q hostagent").unwrap();
}

#[tokio::test]
async fn dnf_installs_by_name_with_dependencies_from_a_repository() {
    if machine::skip("dnf_installs_by_name_with_dependencies_from_a_repository") {
        return;
    }
    let mut world = World::new().await.unwrap();
    let host = world.rpm_host("").await.unwrap();
    let library = Package::new("app-library", "1.0").file("/usr/share/app-library", 0o644, "here\n");
    let app = |version: &str| app_with_hook("app", version).depends("app-library");
    add_repository(&host, &[library, app("1.0"), app("2.0")]).unwrap();
    let id = world.start(&host).await.unwrap();

    // By name; dnf resolves what it depends on. Newer, then older again.
    for version in ["1.0", "2.0", "1.0"] {
        let apps = json!({"app": {"version": version}});
        let answer = world.converge(&host, &id, &apps).await.unwrap();
        assert_eq!(answer.state(), "ok", "{}\n{}", answer.message, host.log());
        assert_eq!(host.package("app"), format!("{version}-1"));
        assert_eq!(host.package("app-library"), "1.0-1");
        host.until(&format!("grep -qx {version} /run/app.loaded"))
            .await
            .unwrap();
    }
    let answer = world
        .converge(&host, &id, &json!({"app": {"version": "9.9"}}))
        .await
        .unwrap();
    assert_eq!(answer.state(), "errors", "{}", answer.message);
    assert_eq!(
        answer.data("errors")[0]["category"],
        "not_found",
        "{}",
        answer.message
    );
    assert_eq!(host.package("app"), "1.0-1");

    // From a URL, with what it depends on from the repository.
    let other = app_with_hook("other", "1.0").depends("app-library");
    let url = world.serve(&other, &host).unwrap();
    host.machine.sh("rpm -e app app-library 2>&1").unwrap();
    let apps = json!({"other": {"version": "1.0", "url": url}});
    let answer = world.converge(&host, &id, &apps).await.unwrap();
    assert_eq!(answer.state(), "ok", "{}\n{}", answer.message, host.log());
    assert_eq!(host.package("app-library"), "1.0-1");
    assert_eq!(host.show("other", "ActiveState"), "active");
}

async fn runs(host: &Host, version: &str, greeting: &str) {
    assert_eq!(host.package("app"), format!("{version}-1"));
    assert_eq!(host.show("app", "ActiveState"), "active");
    assert_eq!(host.show("app", "UnitFileState"), "enabled");
    host.until(&format!(
        "grep -qx {version} /run/app.loaded && grep -q '\"{greeting}\"' /run/app.loaded"
    ))
    .await
    .unwrap();
}
