//! A network that breaks, and a host that is there twice.

use std::time::Duration;

use e2e::app::app_with_hook;
use e2e::host::Host;
use e2e::world::World;
use harness::driver::Received;
use harness::http::File;
use harness::machine;
use harness::packages::{Family, Moment};
use serde_json::json;

/// Longer than the agent needs to notice (two AMQP heartbeats of 5 s).
const CUT: Duration = Duration::from_secs(20);

fn answers<'a>(message: &'a str) -> impl FnMut(&Received) -> bool + 'a {
    move |status| status.reply_to() == Some(message) && status.state() != "converging"
}

#[tokio::test]
async fn a_cut_network_delays_downloads_and_news_and_nothing_else() {
    if machine::skip("a_cut_network_delays_downloads_and_news_and_nothing_else") {
        return;
    }
    let mut world = World::new().await.unwrap();
    let settings = "[download]\nstall_timeout = 5";
    let (host, id) = world.managed_host(settings).await.unwrap();
    in_the_midst_of_a_download(&mut world, &host, &id).await;
    in_the_midst_of_an_installation(&mut world, &host, &id).await;
    while_idle(&mut world, &host, &id).await;
}

async fn in_the_midst_of_a_download(world: &mut World, host: &Host, id: &str) {
    let built = tempfile::tempdir().unwrap();
    let large = app_with_hook("large", "1.0").file("/opt/pf9/large/data", 0o644, vec![7; 1 << 20]);
    let body = std::fs::read(large.build(Family::Deb, built.path()).unwrap()).unwrap();
    // Two seconds and more for all of it.
    let file = File::new(body).paced(32 << 10, Duration::from_millis(60));
    world.server.put("/large.deb", file);
    let url = world.seen_from(host, "/large.deb");
    let apps = json!({"large": {"version": "1.0", "url": url}});
    let message = world.set_config(id, &apps).await.unwrap();
    host.until("find /var/cache/pf9apps -type f -size +100k | grep -q .")
        .await
        .unwrap();
    host.machine.cut_network().unwrap();
    tokio::time::sleep(CUT).await;
    assert_eq!(host.package("large"), "");
    host.machine.restore_network().unwrap();
    let limit = Duration::from_secs(90);
    let ok = |status: &Received| status.state() == "ok" && status.data("apps")["large"]["running"] == true;
    world
        .status_within(host, id, "the download went on", limit, ok)
        .await
        .unwrap();
    let _ = message;
    assert!(world.server.count("/large.deb") > 1, "it was never interrupted");
}

async fn in_the_midst_of_an_installation(world: &mut World, host: &Host, id: &str) {
    let script = "systemctl daemon-reload; touch /run/slow.installing; until [ -e /run/slow.may-go-on ]; do sleep 0.1; done";
    let slow = app_with_hook("slow", "1.0").script(Moment::AfterInstall, script);
    let apps = json!({"slow": {"version": "1.0", "url": world.serve(&slow, host).unwrap()}});
    let message = world.set_config(id, &apps).await.unwrap();
    host.until("[ -e /run/slow.installing ]").await.unwrap();
    host.machine.cut_network().unwrap();
    host.machine.sh("touch /run/slow.may-go-on").unwrap();
    // All of it, without the broker; what is not desired any more goes, too.
    host.until("systemctl is-active -q slow && ! systemctl is-active -q large")
        .await
        .unwrap();
    tokio::time::sleep(CUT).await;
    host.machine.restore_network().unwrap();
    let limit = Duration::from_secs(60);
    let answer = world
        .status_within(host, id, "the news", limit, answers(&message))
        .await
        .unwrap();
    assert_eq!(answer.state(), "ok", "{}", answer.message);
}

async fn while_idle(world: &mut World, host: &Host, id: &str) {
    host.machine.cut_network().unwrap();
    tokio::time::sleep(CUT).await;
    // Repaired without anybody outside.
    host.machine.sh("systemctl stop slow").unwrap();
    host.until("systemctl is-active -q slow").await.unwrap();
    host.machine.restore_network().unwrap();
    let limit = Duration::from_secs(60);
    let running =
        |status: &Received| status.state() == "ok" && status.data("apps")["slow"]["running"] == true;
    world
        .status_within(host, id, "it is back", limit, running)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_clone_says_that_it_is_one() {
    if machine::skip("a_clone_says_that_it_is_one") {
        return;
    }
    let mut world = World::new().await.unwrap();
    let settings = "host_id = twin";
    let first = world.host(settings).await.unwrap();
    first.start_agent().unwrap();
    let up = |status: &Received| status.state() == "ok";
    world.status(&first, "twin", "the first is up", up).await.unwrap();
    let second = world.host(settings).await.unwrap();
    second.start_agent().unwrap();
    // After three AMQP heartbeats.
    let clone = |status: &Received| status.data("errors")[0]["phase"] == "connect";
    let status = world
        .status(&second, "twin", "the clone is reported", clone)
        .await
        .unwrap();
    assert_eq!(
        status.data("errors")[0]["category"],
        "conflict",
        "{}",
        status.message
    );
    assert_eq!(first.show("hostagent", "ActiveState"), "active");
}
