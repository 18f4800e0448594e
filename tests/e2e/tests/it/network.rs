//! A network that breaks, and a host that is there twice.

use std::time::{Duration, Instant};

use e2e::app::app_with_hook;
use e2e::host::Host;
use e2e::world::World;
use harness::driver::Received;
use harness::http::File;
use harness::machine;
use harness::packages::{Family, Moment};
use serde_json::json;

/// Many times what either end needs to give the connection up: two AMQP heartbeats of 5 s, and of 30 s as they are by default.
const CUT: Duration = Duration::from_secs(130);

#[tokio::test]
async fn a_network_cut_for_minutes_delays_downloads_and_news_and_nothing_else() {
    if machine::skip("a_network_cut_for_minutes_delays_downloads_and_news_and_nothing_else") {
        return;
    }
    let mut world = World::new().await.unwrap();
    let settings = "[download]\nstall_timeout = 5";
    let (fetching, fetching_id) = world.managed_host(settings).await.unwrap();
    let (installing, installing_id) = world.managed_host(settings).await.unwrap();
    let (idle, idle_id) = world.managed_host(settings).await.unwrap();
    let slow = app_with_hook("slow", "1.0");
    let apps = json!({"slow": {"version": "1.0", "url": world.serve(&slow, &idle).unwrap()}});
    let answer = world.converge(&idle, &idle_id, &apps).await.unwrap();
    assert_eq!(answer.state(), "ok", "{}", answer.message);

    let awaited = cut_in_the_midst_of_an_installation(&mut world, &installing, &installing_id).await;
    cut_in_the_midst_of_a_download(&mut world, &fetching, &fetching_id).await;
    idle.machine.cut_network().unwrap();
    let cut = Instant::now();

    // All of it without the broker; what is not desired any more goes, too.
    installing.machine.sh("touch /run/slow.may-go-on").unwrap();
    installing
        .until("systemctl is-active -q slow && ! systemctl is-active -q before")
        .await
        .unwrap();
    // Each has noticed, and so has the broker.
    for host in [&fetching, &installing, &idle] {
        host.until("journalctl -u hostagent | grep -q 'no link to the broker'")
            .await
            .unwrap();
    }
    tokio::time::sleep(CUT.saturating_sub(cut.elapsed())).await;
    let list = ["-p", &world.vhost, "list_queues", "name", "consumers"];
    let queues = world.broker.ctl(&list).await.unwrap();
    for id in [&fetching_id, &installing_id, &idle_id] {
        let left = queues
            .lines()
            .any(|line| line.starts_with(&format!("bbslave-q-{id}\t")) && line.ends_with("\t0"));
        assert!(left, "the broker takes {id} for connected:\n{queues}");
    }
    assert_eq!(fetching.package("large"), "");
    // Repaired without anybody outside.
    idle.machine.sh("systemctl stop slow").unwrap();
    idle.until("systemctl is-active -q slow").await.unwrap();

    for host in [&fetching, &installing, &idle] {
        host.machine.restore_network().unwrap();
    }
    let limit = Duration::from_secs(90);
    let ok = |app: &str, id: &str, status: &Received| {
        status.data("host_id") == id && status.state() == "ok" && status.data("apps")[app]["running"] == true
    };
    // In whatever order they come back.
    let (mut fetched, mut answered, mut back) = (false, false, false);
    world
        .master
        .wait_for("all three are back", limit, |status| {
            fetched |= ok("large", &fetching_id, status);
            answered |= ok("slow", &installing_id, status) && status.reply_to() == Some(&awaited);
            back |= ok("slow", &idle_id, status);
            fetched && answered && back
        })
        .await
        .unwrap();
    assert!(world.server.count("/large.deb") > 1, "it was never interrupted");
}

async fn cut_in_the_midst_of_a_download(world: &mut World, host: &Host, id: &str) {
    let built = tempfile::tempdir().unwrap();
    let large = app_with_hook("large", "1.0").file("/opt/pf9/large/data", 0o644, vec![7; 1 << 20]);
    let body = std::fs::read(large.build(Family::Deb, built.path()).unwrap()).unwrap();
    // Two seconds and more for all of it.
    let file = File::new(body).paced(32 << 10, Duration::from_millis(60));
    world.server.put("/large.deb", file);
    let url = world.seen_from(host, "/large.deb");
    let apps = json!({"large": {"version": "1.0", "url": url}});
    world.set_config(id, &apps).await.unwrap();
    host.until("find /var/cache/pf9apps -type f -size +100k | grep -q .")
        .await
        .unwrap();
    host.machine.cut_network().unwrap();
}

/// The id of the message whose answer is awaited.
async fn cut_in_the_midst_of_an_installation(world: &mut World, host: &Host, id: &str) -> String {
    let before = world.serve(&app_with_hook("before", "1.0"), host).unwrap();
    let apps = json!({"before": {"version": "1.0", "url": before}});
    let answer = world.converge(host, id, &apps).await.unwrap();
    assert_eq!(answer.state(), "ok", "{}", answer.message);
    let script = "systemctl daemon-reload; touch /run/slow.installing; until [ -e /run/slow.may-go-on ]; do sleep 0.1; done";
    let slow = app_with_hook("slow", "2.0").script(Moment::AfterInstall, script);
    let apps = json!({"slow": {"version": "2.0", "url": world.serve(&slow, host).unwrap()}});
    let message = world.set_config(id, &apps).await.unwrap();
    host.until("[ -e /run/slow.installing ]").await.unwrap();
    host.machine.cut_network().unwrap();
    message
}

#[tokio::test]
async fn of_two_hosts_with_one_id_both_say_so() {
    if machine::skip("of_two_hosts_with_one_id_both_say_so") {
        return;
    }
    let mut world = World::new().await.unwrap();
    let settings = "host_id = twin";
    let first = world.host(settings).await.unwrap();
    first.start_agent().unwrap();
    let up = |status: &Received| status.state() == "ok";
    let status = world.status(&first, "twin", "the first is up", up).await.unwrap();
    let first_start = status.data("boot_id").clone();
    let second = world.host(settings).await.unwrap();
    second.start_agent().unwrap();
    // After three AMQP heartbeats.
    let says_so = |status: &Received| status.data("errors")[0]["phase"] == "connect";
    let by_first = |status: &Received| status.data("boot_id") == &first_start;
    for (host, whose) in [(&second, false), (&first, true)] {
        let status = world
            .status(host, "twin", "each says so", |status| {
                says_so(status) && by_first(status) == whose
            })
            .await
            .unwrap();
        assert_eq!(status.state(), "errors", "{}", status.message);
        assert_eq!(
            status.data("errors")[0]["category"],
            "conflict",
            "{}",
            status.message
        );
    }
    // The first works on, alone.
    let url = world.serve(&app_with_hook("app", "1.0"), &first).unwrap();
    let apps = json!({"app": {"version": "1.0", "url": url}});
    let answer = world.converge(&first, "twin", &apps).await.unwrap();
    assert_eq!(answer.state(), "ok", "{}", answer.message);
    assert!(by_first(&answer));
    assert_eq!(
        (first.package("app"), second.package("app")),
        ("1.0-1 ii".into(), String::new())
    );
    // One goes, and the other says that all is well.
    second.machine.sh("systemctl stop hostagent").unwrap();
    let well = |status: &Received| by_first(status) && status.state() == "ok" && status.reply_to().is_none();
    world.status(&first, "twin", "it is over", well).await.unwrap();
}
