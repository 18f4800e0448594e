//! The power goes in the midst of an upgrade of the agent, in whose transaction an application is as well. FAULTS.md row 37.

use std::time::Duration;

use e2e::agent_package::{agent_package, agent_package_with, that_waits};
use e2e::app::app_with_hook;
use e2e::world::World;
use harness::machine;
use harness::packages::Moment;
use serde_json::json;

use crate::agent_upgrade::{NO_AGENT, assert_brought_back, publish_what_is_installed};

/// No change is in progress, no upgrade is watched, and dpkg has nothing to repair.
const NOTHING_IS_LEFT: &str = "hostagent journal | grep -q 'No change is in progress' && \
    ! [ -e /var/lib/hostagent/guard.json ] && [ -z \"$(dpkg --audit)\" ]";

/// Where the upgrade is when the power goes.
#[derive(Debug, Clone, Copy)]
enum Point {
    /// The old agent is there still; dpkg has begun with the package.
    BeforeUnpacking,
    /// The new program is in place, not configured; the old agent runs.
    Unpacked,
    /// The new agent watches itself.
    Baking,
}

#[tokio::test]
async fn a_power_cut_at_any_point_of_the_agents_upgrade_delays_it_and_nothing_else() {
    if machine::skip("a_power_cut_at_any_point_of_the_agents_upgrade_delays_it_and_nothing_else") {
        return;
    }
    let mut world = World::new().await.unwrap();
    let (mut host, id) = world.managed_host("").await.unwrap();
    let mut desired = json!({});
    let points = [Point::BeforeUnpacking, Point::Unpacked, Point::Baking];
    for (point, version) in points.into_iter().zip(["2.0", "3.0", "4.0"]) {
        let package = agent_package(version).unwrap();
        let (package, reached) = match point {
            Point::BeforeUnpacking => (
                that_waits(package, version, Moment::BeforeInstall),
                format!("[ -e /var/tmp/{version}.waits ]"),
            ),
            Point::Unpacked => (
                that_waits(package, version, Moment::AfterInstall),
                format!("[ -e /var/tmp/{version}.waits ]"),
            ),
            Point::Baking => (
                package,
                "systemctl show -P StatusText hostagent | grep -q watching".to_owned(),
            ),
        };
        let url = world.serve(&package, &host).unwrap();
        desired["hostagent"] = json!({"version": version, "url": url});
        // Not named in what was desired before: a host that falls back to that would be seen.
        let app = format!("app{}", &version[..1]);
        let url = world.serve(&app_with_hook(&app, "1.0"), &host).unwrap();
        desired[&app] = json!({"version": "1.0", "url": url, "config": {&app: {"greeting": version}}});
        let message = world.set_config(&id, &desired).await.unwrap();
        host.until(&reached).await.unwrap();
        host.power_cut().unwrap();

        let answer = world.answer(&host, &id, &message).await.unwrap();
        assert_eq!(
            answer.state(),
            "ok",
            "{point:?}: {}\n{}",
            answer.message,
            host.log()
        );
        let apps = desired.as_object().unwrap();
        for (app, spec) in apps {
            let wanted = format!("{}-1", spec["version"].as_str().unwrap());
            assert_eq!(
                answer.data("apps")[app]["package_version"],
                wanted,
                "{point:?}: {app}"
            );
            assert_eq!(host.package(app), format!("{wanted} ii"), "{point:?}: {app}");
        }
        let loaded = host.machine.sh(&format!("cat /run/{app}.loaded")).unwrap();
        assert!(loaded.contains(version), "{point:?}: {loaded}");
        // Nothing is left that says an upgrade is under way, and nobody who would undo it.
        host.until(NOTHING_IS_LEFT).await.unwrap();
        host.until(
            "! systemctl is-active -q hostagent-guard && ! [ -e /etc/systemd/system/hostagent-guard.service ] && \
             ! systemctl list-units --all | grep -q hostagent-run",
        )
            .await
            .unwrap();
    }
}

/// Neither agent is at work then, and none will be: only the guard that starts at boot brings one back.
#[tokio::test]
async fn a_power_cut_in_the_upgrade_to_a_bad_agent_does_not_leave_the_host_without_one() {
    if machine::skip("a_power_cut_in_the_upgrade_to_a_bad_agent_does_not_leave_the_host_without_one") {
        return;
    }
    let mut world = World::new().await.unwrap();
    let (mut host, id) = world.managed_host("own_upgrade_deadline = 20").await.unwrap();
    publish_what_is_installed(&mut world, &host, &id).await;

    let bad = agent_package_with("2.0", NO_AGENT);
    let bad = that_waits(bad, "2.0", Moment::AfterInstall);
    let url = world.serve(&bad, &host).unwrap();
    let desired = json!({"hostagent": {"version": "2.0", "url": url}});
    let message = world.set_config(&id, &desired).await.unwrap();
    host.until("[ -e /var/tmp/2.0.waits ]").await.unwrap();
    host.power_cut().unwrap();

    let limit = Duration::from_secs(180);
    let answer = world
        .status_within(&host, &id, "the previous agent reports", limit, |status| {
            status.reply_to() == Some(&message) && status.state() == "errors"
        })
        .await
        .unwrap();
    assert_brought_back(&answer);
    assert_eq!(host.package("hostagent"), "1.0-1 ii");
    host.until(
        "! systemctl is-active -q hostagent-guard && ! [ -e /etc/systemd/system/hostagent-guard.service ]",
    )
    .await
    .unwrap();
    host.until(NOTHING_IS_LEFT).await.unwrap();
    // And it takes orders as before, after a boot that no guard is part of.
    host.reboot().unwrap();
    publish_what_is_installed(&mut world, &host, &id).await;
    host.machine
        .sh("! journalctl -b -u hostagent-guard | grep -q Started")
        .unwrap();
}
