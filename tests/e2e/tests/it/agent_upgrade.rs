//! The agent is an application like others: the master upgrades it while it runs. FAULTS.md row 37.

use std::time::Duration;

use e2e::agent_package::{agent_package, agent_package_with, that_waits};
use e2e::host::Host;
use e2e::world::World;
use harness::driver::Received;
use harness::machine;
use harness::packages::Moment;
use serde_json::json;

/// It starts, and never says that it is ready.
pub const NO_AGENT: &str = "#!/bin/sh\nexec sleep 100000\n";

#[tokio::test]
async fn the_master_upgrades_the_agent_and_a_bad_one_is_brought_back() {
    if machine::skip("the_master_upgrades_the_agent_and_a_bad_one_is_brought_back") {
        return;
    }
    let mut world = World::new().await.unwrap();
    let (host, id) = world.managed_host("own_upgrade_deadline = 10").await.unwrap();
    let before = host.show("hostagent", "MainPID");
    let second = world.serve(&agent_package("2.0").unwrap(), &host).unwrap();
    let good = json!({"hostagent": {"version": "2.0", "url": second}});
    let answer = world.converge(&host, &id, &good).await.unwrap();
    assert_eq!(answer.state(), "ok", "{}\n{}", answer.message, host.log());
    assert_eq!(answer.data("apps")["hostagent"]["package_version"], "2.0-1");
    assert_eq!(host.package("hostagent"), "2.0-1 ii");
    let second_agent = host.show("hostagent", "MainPID");
    assert_ne!(second_agent, before);
    host.until("! systemctl is-active -q hostagent-guard")
        .await
        .unwrap();

    // One that says nothing: it can't roll itself back.
    give_up_soon_on_a_start(&host);
    let third = agent_package_with("3.0", NO_AGENT);
    let third = world.serve(&third, &host).unwrap();
    let bad = json!({"hostagent": {"version": "3.0", "url": third}});
    let message = world.set_config(&id, &bad).await.unwrap();
    let limit = Duration::from_secs(120);
    let answer = world
        .status_within(&host, &id, "the previous agent reports", limit, |status| {
            status.reply_to() == Some(&message) && status.state() == "errors"
        })
        .await
        .unwrap();
    assert_brought_back(&answer);
    assert_eq!(answer.data("apps")["hostagent"]["package_version"], "2.0-1");
    assert_eq!(host.package("hostagent"), "2.0-1 ii");
    assert_ne!(host.show("hostagent", "MainPID"), second_agent);
    host.until("! systemctl is-active -q hostagent-guard")
        .await
        .unwrap();
    host.until("! systemctl list-units --all | grep -q hostagent-run")
        .await
        .unwrap();

    // And it takes orders as before.
    let answer = world.converge(&host, &id, &good).await.unwrap();
    assert_eq!(answer.state(), "ok", "{}", answer.message);
}

/// What the previous agent says of the one that it has replaced.
pub fn assert_brought_back(answer: &Received) {
    let error = &answer.data("errors")[0];
    assert_eq!(error["rolled_back"], true, "{}", answer.message);
    assert_eq!(error["phase"], "health", "{}", answer.message);
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("did not start and report"), "{message}");
}

/// So that there is a way back to it.
pub async fn publish_what_is_installed(world: &mut World, host: &Host, id: &str) {
    let first = world.serve(&agent_package("1.0").unwrap(), host).unwrap();
    let apps = json!({"hostagent": {"version": "1.0", "url": first}});
    let answer = world.converge(host, id, &apps).await.unwrap();
    assert_eq!(answer.state(), "ok", "{}", answer.message);
}

/// On a unit that does not say that it is ready.
fn give_up_soon_on_a_start(host: &Host) {
    let drop_in = "[Service]\nTimeoutStartSec=8\n";
    let path = "/etc/systemd/system/hostagent.service.d/test.conf";
    host.machine.write(path, drop_in, 0o644).unwrap();
}

/// In the network's eyes it is there: the forwarded port takes connections, as a load balancer's does without brokers behind it.
#[tokio::test]
async fn while_the_broker_is_away_a_good_agent_stays_and_a_bad_one_is_brought_back() {
    if machine::skip("while_the_broker_is_away_a_good_agent_stays_and_a_bad_one_is_brought_back") {
        return;
    }
    let mut world = World::with_own_broker().await.unwrap();
    let (host, id) = world.managed_host("own_upgrade_deadline = 10").await.unwrap();
    publish_what_is_installed(&mut world, &host, &id).await;
    let waiting = |package, version| that_waits(package, version, Moment::AfterInstall);
    let second = waiting(agent_package("2.0").unwrap(), "2.0");
    let second = world.serve(&second, &host).unwrap();
    let good = json!({"hostagent": {"version": "2.0", "url": second}});
    let message = world.set_config(&id, &good).await.unwrap();
    host.until("[ -e /var/tmp/2.0.waits ]").await.unwrap();
    world.broker.kill9().await.unwrap();
    host.machine.sh("touch /run/2.0.may-go-on").unwrap();
    host.until("journalctl -u hostagent-guard | grep -q 'the broker is unreachable'")
        .await
        .unwrap();
    let agent = host.show("hostagent", "MainPID");
    // Long past the 10 s, and the 3 s that it watches itself.
    host.until("since=$(systemctl show -P ActiveEnterTimestampMonotonic hostagent); [ $(cut -d. -f1 /proc/uptime) -gt $((since / 1000000 + 25)) ]")
        .await
        .unwrap();
    assert_eq!(host.package("hostagent"), "2.0-1 ii", "{}", host.log());
    assert_eq!(host.show("hostagent", "MainPID"), agent);
    assert_eq!(host.show("hostagent-guard", "ActiveState"), "active");

    world.broker.start_again().await.unwrap();
    world.reconnect_master().await.unwrap();
    let answer = world.answer(&host, &id, &message).await.unwrap();
    assert_eq!(answer.state(), "ok", "{}", answer.message);
    assert_eq!(answer.data("apps")["hostagent"]["package_version"], "2.0-1");
    host.until("! systemctl is-active -q hostagent-guard")
        .await
        .unwrap();
    assert_eq!(host.show("hostagent", "MainPID"), agent);

    // One that does not come up can't report it: no broker is needed to see that.
    give_up_soon_on_a_start(&host);
    let third = waiting(agent_package_with("3.0", NO_AGENT), "3.0");
    let third = world.serve(&third, &host).unwrap();
    let bad = json!({"hostagent": {"version": "3.0", "url": third}});
    let message = world.set_config(&id, &bad).await.unwrap();
    host.until("[ -e /var/tmp/3.0.waits ]").await.unwrap();
    world.broker.kill9().await.unwrap();
    host.machine.sh("touch /run/3.0.may-go-on").unwrap();
    host.until("journalctl -u hostagent-guard | grep -q 'the previous agent was restored'")
        .await
        .unwrap();
    assert_eq!(host.package("hostagent"), "2.0-1 ii");
    world.broker.start_again().await.unwrap();
    world.reconnect_master().await.unwrap();
    let answer = world.answer(&host, &id, &message).await.unwrap();
    let error = &answer.data("errors")[0];
    assert_eq!(error["rolled_back"], true, "{}", answer.message);
}
