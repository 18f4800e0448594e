//! Several hosts at once.

use std::time::Duration;

use e2e::app::app_with_hook;
use e2e::host::Host;
use e2e::world::World;
use harness::driver::Received;
use harness::machine;
use serde_json::json;

const HOSTS: usize = 8;

#[tokio::test]
async fn eight_hosts_are_upgraded_at_once_while_the_broker_is_restarted() {
    if machine::skip("eight_hosts_are_upgraded_at_once_while_the_broker_is_restarted") {
        return;
    }
    let mut world = World::with_own_broker().await.unwrap();
    let mut fleet: Vec<(Host, String)> = Vec::new();
    for _ in 0..HOSTS {
        let host = world.host("").await.unwrap();
        host.start_agent().unwrap();
        let id = host.mac().unwrap();
        fleet.push((host, id));
    }
    for version in ["1.0", "2.0"] {
        for (host, id) in &fleet {
            let url = world.serve(&app_with_hook("app", version), host).unwrap();
            let apps = json!({"app": {"version": version, "url": url}});
            host.until("journalctl -u hostagent | grep -q consuming")
                .await
                .unwrap();
            world.set_config(id, &apps).await.unwrap();
        }
        if version == "2.0" {
            world.broker.restart().await.unwrap();
            world.reconnect_master().await.unwrap();
        }
        for (host, id) in &fleet {
            let limit = Duration::from_secs(120);
            let done = |status: &Received| {
                status.state() == "ok"
                    && status.data("apps")["app"]["package_version"] == format!("{version}-1")
            };
            let heard = world
                .master
                .statuses()
                .iter()
                .any(|status| status.data("host_id") == id.as_str() && done(status));
            if !heard {
                world
                    .status_within(host, id, "the new version", limit, done)
                    .await
                    .unwrap();
            }
            assert_eq!(host.package("app"), format!("{version}-1 ii"));
            assert_eq!(
                host.machine.sh("head -n 1 /run/app.loaded").unwrap(),
                format!("{version}\n")
            );
        }
    }
}
