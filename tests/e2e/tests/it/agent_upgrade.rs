//! The agent is an application like others: the master upgrades it while it runs. FAULTS.md row 37.

use std::time::Duration;

use e2e::agent_package::{agent_package, agent_package_with};
use e2e::world::World;
use harness::machine;
use serde_json::json;

/// It starts, and never says that it is ready.
const NO_AGENT: &str = "#!/bin/sh\nexec sleep 100000\n";

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
    let drop_in = "[Service]\nTimeoutStartSec=8\n";
    host.machine
        .write(
            "/etc/systemd/system/hostagent.service.d/test.conf",
            drop_in,
            0o644,
        )
        .unwrap();
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
    let error = &answer.data("errors")[0];
    assert_eq!(error["rolled_back"], true, "{}", answer.message);
    assert_eq!(error["phase"], "health", "{}", answer.message);
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("did not come up and report"),
        "{error}"
    );
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
