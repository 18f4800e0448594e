//! Package work goes on in a unit of its own, whatever becomes of the agent meanwhile. FAULTS.md rows 25, 36 and 37.

use anyhow::{Result, ensure};
use e2e::app::app_with_hook;
use e2e::host::Host;
use e2e::world::World;
use harness::machine;
use harness::packages::{Moment, Package};
use serde_json::json;

/// An application whose installation takes until the test lets it go on.
fn slow_app(name: &str) -> Package {
    let wait = format!(
        "systemctl daemon-reload; touch /run/{name}.installing\n\
         until [ -e /run/{name}.may-go-on ]; do sleep 0.1; done; touch /run/{name}.done"
    );
    app_with_hook(name, "1.0").script(Moment::AfterInstall, &wait)
}

async fn is_being_installed(host: &Host, name: &str) -> Result<()> {
    host.until(&format!("[ -e /run/{name}.installing ]")).await?;
    let units = "systemctl list-units --plain --no-legend 'hostagent-run-*'";
    let unit = host.machine.sh(units)?;
    ensure!(unit.contains("running"), "no unit of its own: {unit}");
    Ok(())
}

#[tokio::test]
async fn an_agent_that_is_stopped_or_killed_in_the_midst_leaves_the_package_manager_at_work() {
    if machine::skip("an_agent_that_is_stopped_or_killed_in_the_midst_leaves_the_package_manager_at_work") {
        return;
    }
    let mut world = World::new().await.unwrap();
    let (host, id) = world.managed_host("").await.unwrap();
    let ways = [
        ("stopped", "systemctl stop hostagent; systemctl start hostagent"),
        ("killed", "systemctl kill -s KILL --kill-whom=main hostagent"),
    ];
    let mut apps = json!({});
    for (name, way) in ways {
        let url = world.serve(&slow_app(name), &host).unwrap();
        apps[name] = json!({"version": "1.0", "url": url});
        let message = world.set_config(&id, &apps).await.unwrap();
        is_being_installed(&host, name).await.unwrap();
        let agent = host.show("hostagent", "MainPID");
        host.machine.sh(way).unwrap();
        host.until(&format!(
            "pid=$(systemctl show -P MainPID hostagent); [ $pid != 0 ] && [ $pid != {agent} ]"
        ))
        .await
        .unwrap();
        let waits = |status: &harness::driver::Received| {
            let detail = status.data("detail").as_str().unwrap_or_default();
            status.state() == "converging" && detail.contains("an earlier run of the agent")
        };
        world
            .status(&host, &id, "the new agent waits", waits)
            .await
            .unwrap();
        host.machine
            .sh(&format!(
                "test ! -e /run/{name}.done; touch /run/{name}.may-go-on"
            ))
            .unwrap();
        let answer = world.answer(&host, &id, &message).await.unwrap();
        assert_eq!(answer.state(), "ok", "{name}: {}\n{}", answer.message, host.log());
        assert_eq!(host.package(name), "1.0-1 ii");
        assert_eq!(host.show(name, "ActiveState"), "active");
        host.until("! systemctl list-units --all | grep -q hostagent-run")
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn needrestart_does_not_restart_the_agent_in_the_midst() {
    if machine::skip("needrestart_does_not_restart_the_agent_in_the_midst") {
        return;
    }
    let mut world = World::new().await.unwrap();
    let (host, id) = world.managed_host("").await.unwrap();
    host.machine
        .install_distribution_packages(&["needrestart"])
        .unwrap();
    host.machine
        .write(
            "/etc/needrestart/conf.d/auto.conf",
            "$nrconf{restart} = 'a';\n",
            0o644,
        )
        .unwrap();
    // From now on the agent runs a program that is not there any more: what needrestart restarts services for.
    let outdate = "cp /usr/bin/hostagent /usr/bin/h.new; mv /usr/bin/h.new /usr/bin/hostagent";
    let runs_of_apt = || {
        let log = host.machine.sh("cat /var/log/apt/history.log || true").unwrap();
        log.matches("Commandline: /usr/bin/apt-get -q").count()
    };
    host.machine.sh(outdate).unwrap();
    let agent = host.show("hostagent", "MainPID");
    let mut apps = json!({});
    for name in ["one", "two"] {
        let url = world.serve(&app_with_hook(name, "1.0"), &host).unwrap();
        apps[name] = json!({"version": "1.0", "url": url});
        let before = runs_of_apt();
        let answer = world.converge(&host, &id, &apps).await.unwrap();
        assert_eq!(answer.state(), "ok", "{}", answer.message);
        assert_eq!(runs_of_apt() - before, 1, "{name}\n{}", host.log());
        assert_eq!(
            host.show("hostagent", "MainPID"),
            agent,
            "restarted:\n{}",
            host.log()
        );
    }

    // It would have been, by any other run of apt.
    host.machine
        .sh(
            "DEBIAN_FRONTEND=noninteractive apt-get -y --reinstall install /srv/hostagent_1.0-1.deb || true; \
        needrestart -r a -b",
        )
        .unwrap();
    assert_ne!(
        host.show("hostagent", "MainPID"),
        agent,
        "needrestart does nothing here: this test shows nothing"
    );
}
