//! An agent that is wedged is started anew by systemd; one that is busy is not.

use e2e::app::app_with_hook;
use e2e::host::Host;
use e2e::world::World;
use harness::machine;
use harness::packages::Moment;
use serde_json::json;

const SECURITY: &str = include_str!("../../../../docs/security.md");

/// The number that follows `marker`.
fn figure(text: &str, marker: &str) -> f64 {
    let (_, behind) = text
        .split_once(marker)
        .unwrap_or_else(|| panic!("no {marker:?} in:\n{text}"));
    let word = behind.split_whitespace().next().unwrap_or_default();
    word.parse()
        .unwrap_or_else(|error| panic!("{marker:?} is followed by {word:?}: {error}"))
}

/// `systemd-analyze security`: 0 to 10, less is better.
fn assert_as_tight_as_the_docs_say(host: &Host) {
    let analysis = host
        .machine
        .sh("LANG=C systemd-analyze security --no-pager hostagent")
        .unwrap();
    let measured = figure(&analysis, "Overall exposure level for hostagent.service:");
    let documented = figure(SECURITY, "`systemd-analyze security hostagent` on Debian 12 says");
    assert!(
        measured <= documented,
        "{measured} is above the {documented} of docs/security.md:\n{analysis}"
    );
}

#[tokio::test]
async fn a_wedged_agent_is_restarted_and_a_busy_one_is_not() {
    if machine::skip("a_wedged_agent_is_restarted_and_a_busy_one_is_not") {
        return;
    }
    let mut world = World::new().await.unwrap();
    let (host, id) = world.managed_host("").await.unwrap();
    let drop_in = "[Service]\nWatchdogSec=10\nTimeoutAbortSec=2\n";
    host.machine
        .write(
            "/etc/systemd/system/hostagent.service.d/test.conf",
            drop_in,
            0o644,
        )
        .unwrap();
    host.machine
        .sh("systemctl daemon-reload; systemctl restart hostagent")
        .unwrap();
    assert_as_tight_as_the_docs_say(&host);
    host.until("systemctl show -P StatusText hostagent | grep -qx 'the host is as desired'")
        .await
        .unwrap();
    let agent = host.show("hostagent", "MainPID");

    // Busy for longer than the watchdog's time.
    let slow = app_with_hook("slow", "1.0").script(Moment::AfterInstall, "systemctl daemon-reload; sleep 15");
    let url = world.serve(&slow, &host).unwrap();
    let apps = json!({"slow": {"version": "1.0", "url": url}});
    let answer = world.converge(&host, &id, &apps).await.unwrap();
    assert_eq!(answer.state(), "ok", "{}", answer.message);
    assert_eq!(host.show("hostagent", "MainPID"), agent);

    host.machine.sh(&format!("kill -STOP {agent}")).unwrap();
    host.until(&format!(
        "pid=$(systemctl show -P MainPID hostagent); [ $pid != 0 ] && [ $pid != {agent} ]"
    ))
    .await
    .unwrap();
    let message = world.set_config(&id, &apps).await.unwrap();
    let answer = world.answer(&host, &id, &message).await.unwrap();
    assert_eq!(answer.state(), "ok", "{}", answer.message);
}
