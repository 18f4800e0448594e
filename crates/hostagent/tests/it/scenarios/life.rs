//! What operators do to a host in its life, for both package families.

use std::time::Duration;

use harness::packages::{Family, example_app};
use serde_json::{Value, json};

use super::world::{World, spec};

#[tokio::test]
async fn a_deb_host_becomes_whatever_is_desired() {
    a_host_becomes_whatever_is_desired(Family::Deb).await;
}

#[tokio::test]
async fn an_rpm_host_becomes_whatever_is_desired() {
    a_host_becomes_whatever_is_desired(Family::Rpm).await;
}

async fn a_host_becomes_whatever_is_desired(family: Family) {
    let mut world = World::new(family).await;
    let [alpha_1, alpha_2, beta_1, beta_2, gamma_1] = [
        ("alpha", "1.0"),
        ("alpha", "2.0"),
        ("beta", "1.0"),
        ("beta", "2.0"),
        ("gamma", "1.0"),
    ]
    .map(|(name, version)| spec(version, &world.serve(&example_app(name, version))));
    let _agent = world.start_agent().await;
    nobody_hears(&mut world, "alpha").await;

    one_is_installed(&mut world, &json!({"alpha": alpha_1})).await;
    answers_pings_on(&mut world, &["slaves", "host-1", "alpha"]).await;

    // A second is added while the first changes version.
    let mut desired = json!({"alpha": alpha_2, "beta": beta_1});
    becomes(&mut world, &desired).await;
    answers_pings_on(&mut world, &["slaves", "host-1", "alpha", "beta"]).await;

    // One is replaced by another.
    desired = json!({"alpha": alpha_2, "gamma": gamma_1});
    becomes(&mut world, &desired).await;
    answers_pings_on(&mut world, &["alpha", "gamma"]).await;
    nobody_hears(&mut world, "beta").await;

    // Run state alone; then config alone, and the config of what does not run.
    desired["alpha"]["running"] = json!(false);
    becomes(&mut world, &desired).await;
    desired["gamma"]["config"] = json!({"gamma": {"greeting": "'; rm -rf \"$HOME\"\n", "count": 3}});
    becomes(&mut world, &desired).await;
    desired["alpha"]["config"] = json!({"alpha": {"greeting": "moin"}});
    becomes(&mut world, &desired).await;

    // Everything at once: a downgrade with new config and run state, one added that is not to run, one gone.
    desired = json!({"alpha": alpha_1, "beta": beta_2});
    desired["alpha"]["config"] = json!({"alpha": {"greeting": "again"}});
    desired["beta"]["config"] = json!({"beta": {"greeting": "later"}});
    desired["beta"]["running"] = json!(false);
    becomes(&mut world, &desired).await;

    the_same_again_changes_nothing(&mut world, &desired).await;
    only_one_changes_on_its_own_topic(&mut world, &mut desired).await;

    becomes(&mut world, &json!({})).await;
    for app in ["alpha", "beta", "gamma"] {
        nobody_hears(&mut world, app).await;
    }
    answers_pings_on(&mut world, &["slaves", "host-1"]).await;
}

/// The host's very first application; its status in full.
async fn one_is_installed(world: &mut World, desired: &Value) {
    becomes(world, desired).await;
    let status = world.answer_to_ping("host-1").await;
    let alpha = &status.data("apps")["alpha"];
    assert_eq!(alpha["package"], "alpha");
    assert_eq!(alpha["health"], "ok");
    assert_eq!(
        alpha["services"]["alpha"],
        json!({"running": true, "enabled": true})
    );
    assert_eq!(alpha["config"], json!({"alpha": {"greeting": "hello"}}));
    assert!(status.data("host_agent")["rss_kib"].as_u64() > Some(0));
    for fact in ["hostname", "os_family", "arch", "os_info"] {
        assert!(status.data("info")[fact].is_string(), "{}", status.message);
    }
}

/// `converging`, then `ok`, and so it is.
async fn becomes(world: &mut World, desired: &Value) {
    let (states, answer) = world.converge(desired).await;
    assert_eq!(states, ["converging", "ok"], "{}", world.host.log());
    assert_eq!(answer.data("desired_apps"), &Value::Null);
    world.host.assert_is(desired, &answer);
}

async fn the_same_again_changes_nothing(world: &mut World, desired: &Value) {
    let before = world.host.snapshot();
    let (states, answer) = world.converge(desired).await;
    assert_eq!(states, ["ok"]);
    world.host.assert_is(desired, &answer);
    let mut after = world.host.snapshot();
    // Whom to answer is durable too.
    after.retain(|path, content| before.get(path) != Some(content));
    let changed: Vec<_> = after.keys().filter_map(|path| path.file_name()).collect();
    assert_eq!(changed, ["desired.json"]);
}

/// `desired` has alpha and beta, of which beta does not run.
async fn only_one_changes_on_its_own_topic(world: &mut World, desired: &mut Value) {
    desired["beta"]["running"] = json!(true);
    let message = json!({"opcode": "set_config", "id": "beta", "data": {"beta": desired["beta"]}});
    world.master.publish("beta", &message).await.unwrap();
    let answered = |state| {
        move |status: &harness::driver::Received| status.reply_to() == Some("beta") && status.state() == state
    };
    world.heard("beta is being changed", answered("converging")).await;
    let answer = world.heard("beta was changed", answered("ok")).await;
    world.host.assert_is(desired, &answer);
}

async fn answers_pings_on(world: &mut World, topics: &[&str]) {
    for topic in topics {
        world.topic_is_heard(topic, true).await;
        let answer = world.answer_to_ping(topic).await;
        assert_eq!(answer.state(), "ok", "ping on {topic}");
    }
}

/// Nobody's queue gets a message on `topic`, so nobody answers.
async fn nobody_hears(world: &mut World, topic: &str) {
    world.topic_is_heard(topic, false).await;
    let ping = json!({"opcode": "ping", "id": "into the void"});
    let sent = world.master.publish(topic, &ping).await.unwrap();
    assert!(!sent.routed, "someone hears {topic}");
    let came = world.master.listen(Duration::from_millis(300)).await.unwrap();
    assert!(came.is_empty(), "{came:?}");
}
