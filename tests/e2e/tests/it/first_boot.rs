//! A new host: from its first boot to a managed one, and over a reboot.

use e2e::app::{app_with_hook, app_with_manifest};
use e2e::repository;
use e2e::world::World;
use harness::machine;
use harness::packages::Package;
use serde_json::json;

#[tokio::test]
async fn a_new_host_reports_itself_installs_with_dependencies_and_keeps_it_over_a_reboot() {
    if machine::skip("a_new_host_reports_itself_installs_with_dependencies_and_keeps_it_over_a_reboot") {
        return;
    }
    let mut world = World::new().await.unwrap();
    let mut host = world.host("").await.unwrap();
    let library = Package::new("app-library", "1.0").file("/usr/share/app-library", 0o644, "here\n");
    repository::add(&host.machine, &[library]).unwrap();
    host.start_agent().unwrap();
    let id = host.mac().unwrap();
    let first = world
        .status(&host, &id, "the first status", |status| status.state() == "ok")
        .await
        .unwrap();
    assert_eq!(first.data("info")["os_family"], "Linux", "{}", first.message);
    assert!(
        first.data("info")["os_info"]
            .as_str()
            .unwrap()
            .starts_with("debian 12")
    );

    // From a URL; apt fetches what it depends on from the repository.
    let url = world
        .serve(&app_with_hook("app", "1.0").depends("app-library"), &host)
        .unwrap();
    let other = world.serve(&app_with_manifest("other", "1.0"), &host).unwrap();
    let apps = |greeting: &str, port: u16, running: bool| {
        json!({
            "app": {"version": "1.0", "url": url, "running": running, "config": {"app": {"greeting": greeting}}},
            "other": {"version": "1.0", "url": other, "config": {"server": {"port": port}}},
        })
    };
    let answer = world.converge(&host, &id, &apps("hi", 80, true)).await.unwrap();
    assert_eq!(answer.state(), "ok", "{}\n{}", answer.message, host.log());
    assert_eq!(host.package("app-library"), "1.0-1 ii");
    for service in ["app", "other"] {
        assert_eq!(host.show(service, "ActiveState"), "active");
        assert_eq!(host.show(service, "UnitFileState"), "enabled");
    }
    host.until("grep -q '\"hi\"' /run/app.loaded && grep -q 'port *= *80$' /run/other.loaded")
        .await
        .unwrap();

    // Another config: by the hook with a restart, by the manifest with a reload.
    let reloaded = host.show("other", "MainPID");
    let answer = world
        .converge(&host, &id, &apps("hello again", 81, true))
        .await
        .unwrap();
    assert_eq!(answer.state(), "ok", "{}", answer.message);
    host.until("grep -q 'hello again' /run/app.loaded && grep -q 'port *= *81$' /run/other.loaded")
        .await
        .unwrap();
    assert_eq!(host.show("other", "MainPID"), reloaded, "restarted, not reloaded");

    // Behind its back: a service killed, a package removed.
    host.machine.sh("systemctl kill -s KILL other").unwrap();
    host.until(&format!(
        "systemctl is-active -q other && [ $(systemctl show -P MainPID other) != {reloaded} ]"
    ))
    .await
    .unwrap();
    host.machine.sh("dpkg --purge app 2>&1").unwrap();
    host.until("systemctl is-active -q app && grep -q 'hello again' /run/app.loaded")
        .await
        .unwrap();
    let repaired = |status: &harness::driver::Received| {
        status.state() == "ok" && status.data("apps")["app"]["running"] == true
    };
    world
        .status(&host, &id, "the repair is reported", repaired)
        .await
        .unwrap();

    host.reboot().unwrap();
    let back = world
        .status(&host, &id, "the host is back", repaired)
        .await
        .unwrap();
    assert_eq!(back.data("apps")["other"]["running"], true, "{}", back.message);
    assert_eq!(host.show("app", "ActiveState"), "active");

    // Stopped is stopped at the next boot, too.
    let answer = world
        .converge(&host, &id, &apps("hello again", 81, false))
        .await
        .unwrap();
    assert_eq!(answer.state(), "ok", "{}", answer.message);
    assert_eq!(host.show("app", "ActiveState"), "inactive");
    assert_eq!(host.show("app", "UnitFileState"), "disabled");

    let answer = world.converge(&host, &id, &json!({})).await.unwrap();
    assert_eq!(answer.state(), "ok", "{}", answer.message);
    assert!(!host.package("app").ends_with("ii") && !host.package("other").ends_with("ii"));
    assert_eq!(host.package("hostagent"), "1.0-1 ii");
}
