//! The whole agent over a scripted host: what it says, and in which order.

mod answers;
mod drift;
mod held;
mod order;
mod returned;
mod settling;
mod transactions;

use std::time::Duration;

use bus::{Delivery, LinkState, Outgoing, Publisher};
use protocol::{AppName, Category};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::*;
use host::HostError;
use host::fake::FakeHost;

/// The master's side of a link, by hand.
struct Driver {
    agent: Option<Agent>,
    fake: FakeHost,
    state_dir: tempfile::TempDir,
    deliveries: mpsc::Sender<Delivery>,
    published: mpsc::Receiver<Outgoing>,
    topics: watch::Receiver<std::collections::BTreeSet<String>>,
    link: watch::Sender<LinkState>,
}

const HOST: &str = "02:00:00:00:00:01";

impl Driver {
    fn start() -> Self {
        Self::start_with(FakeHost::default(), tempfile::tempdir().unwrap())
    }

    fn start_with(fake: FakeHost, state_dir: tempfile::TempDir) -> Self {
        let (deliveries, deliveries_in) = mpsc::channel(16);
        let (outbox, published) = mpsc::channel(1);
        let (topics_out, topics) = watch::channel(Default::default());
        let (link, link_in) = watch::channel(LinkState::Up { epoch: 1 });
        let agent = Agent::start(Parts {
            host_id: HostId::new(HOST).unwrap(),
            host: fake.host(),
            state_dir: state_dir.path().to_owned(),
            link: Link {
                deliveries: deliveries_in,
                publisher: Publisher::new(outbox),
                topics: topics_out,
                state: link_in,
            },
            limits: Limits::default(),
            trusted_users: Vec::new(),
            heartbeat_period: Duration::from_secs(100_000),
            bake_period: Duration::from_secs(10),
            max_crashes: 3,
            collect_facts: Box::new(|| Facts::from([("hostname".into(), json!("h"))])),
        });
        Self {
            agent: Some(agent.unwrap()),
            fake,
            state_dir,
            deliveries,
            published,
            topics,
            link,
        }
    }

    async fn send_on(&self, topic: &str, message: Value) -> oneshot::Receiver<()> {
        let (acker, acked) = oneshot::channel();
        let body = serde_json::to_vec(&message).unwrap();
        self.deliveries
            .send(Delivery::new(topic.into(), body, acker))
            .await
            .unwrap();
        acked
    }

    /// Sends a `set_config` and waits until it is acknowledged.
    async fn set_config(&self, id: &str, apps: Value) {
        let message = json!({"opcode": "set_config", "id": id, "data": apps});
        self.send_on(HOST, message).await.await.unwrap();
    }

    /// The next status's `data`, taken by the master.
    async fn status(&mut self) -> Value {
        self.said_otherwise("status").await
    }

    /// The `data` of the next message, which must have this opcode.
    async fn said_otherwise(&mut self, opcode: &str) -> Value {
        let waited = tokio::time::timeout(Duration::from_secs(20), self.published.recv()).await;
        let outgoing = waited.expect("a message within 20 s").unwrap();
        assert_eq!(outgoing.routing_key, "master");
        let message: Value = serde_json::from_slice(&outgoing.body).unwrap();
        assert_eq!(message["opcode"], opcode);
        let _ = outgoing.done.send(Ok(()));
        message["data"].clone()
    }

    /// `status reply_to` of the next `count` statuses.
    async fn said(&mut self, count: usize) -> Vec<String> {
        let mut said = Vec::new();
        for _ in 0..count {
            said.push(brief(&self.status().await));
        }
        said
    }

    /// The next status, which comes back since no master is bound.
    async fn comes_back(&mut self) -> String {
        let waited = tokio::time::timeout(Duration::from_secs(70), self.published.recv()).await;
        let outgoing = waited.expect("a message within 70 s").unwrap();
        let message: Value = serde_json::from_slice(&outgoing.body).unwrap();
        let _ = outgoing.done.send(Err(bus::PublishError::Unroutable));
        brief(&message["data"])
    }

    /// Asserts that nothing is published for a while of virtual time.
    async fn quiet(&mut self) {
        let more = tokio::time::timeout(Duration::from_secs(30), self.published.recv()).await;
        assert!(more.is_err(), "an unexpected status");
    }
}

/// `status reply_to`.
fn brief(status: &Value) -> String {
    let reply_to = status["reply_to"].as_str().unwrap_or("-");
    format!("{} {reply_to}", status["status"].as_str().unwrap())
}

/// A driver whose agent has reported for the first time: statuses at start are `ok -`, twice or once, as the
/// first look falls before the first report or after it.
async fn started() -> Driver {
    let mut driver = Driver::start();
    let mut status = driver.status().await;
    while status["status"] != "ok" {
        status = driver.status().await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    while let Ok(outgoing) = driver.published.try_recv() {
        let _ = outgoing.done.send(Ok(()));
    }
    driver
}

#[tokio::test(start_paused = true)]
async fn a_change_is_converging_then_ok_and_the_same_again_is_ok_at_once() {
    let mut driver = started().await;
    let url = driver.fake.offer("a", "1-1");
    let apps = json!({"a": {"version": "1", "url": url, "config": {"s": {"k": "v"}}}});
    driver.set_config("m1", apps.clone()).await;
    assert_eq!(driver.said(1).await, ["converging m1"]);
    let status = driver.status().await;
    assert_eq!(
        (status["status"].as_str(), status["reply_to"].as_str()),
        (Some("ok"), Some("m1"))
    );
    assert_eq!(status["apps"]["a"]["version"], "1");
    assert_eq!(status["apps"]["a"]["package_version"], "1-1");
    assert_eq!(status["apps"]["a"]["running"], true);
    assert_eq!(status["apps"]["a"]["config"], json!({"s": {"k": "v"}}));
    assert_eq!(status.get("desired_apps"), None);
    assert_eq!(
        driver.fake.take_log(),
        [
            format!("fetch {url}"),
            "check +a=1-1".into(),
            "apply +a=1-1".into(),
            "config a".into(),
            "enable a".into(),
            "start a".into()
        ]
    );
    assert!(driver.topics.borrow().contains("a"));

    driver.set_config("m2", apps).await;
    assert_eq!(driver.said(1).await, ["ok m2"]);
    driver.quiet().await;
    assert_eq!(driver.fake.take_log(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn the_empty_desired_state_removes_all_that_is_managed() {
    let mut driver = started().await;
    let url = driver.fake.offer("a", "1-1");
    driver
        .set_config("m1", json!({"a": {"version": "1", "url": url}}))
        .await;
    driver.said(2).await;
    driver.fake.take_log();
    driver.set_config("m2", json!({})).await;
    assert_eq!(driver.said(2).await, ["converging m2", "ok m2"]);
    assert_eq!(driver.fake.take_log(), ["check -a", "stop a", "apply -a"]);
    assert!(driver.topics.borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_ping_during_an_install_is_answered_at_once_and_a_newer_message_takes_over() {
    let mut driver = started().await;
    let url = driver.fake.offer("a", "1-1");
    let newer = driver.fake.offer("b", "1-1");
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    driver.fake.with(|state| state.gate = Some(gate.clone()));
    driver
        .set_config("m1", json!({"a": {"version": "1", "url": url}}))
        .await;
    assert_eq!(driver.said(1).await, ["converging m1"]);
    driver
        .send_on("slaves", json!({"opcode": "ping", "id": "p1"}))
        .await;
    let answer = driver.status().await;
    assert_eq!(
        (answer["status"].as_str(), answer["reply_to"].as_str()),
        (Some("converging"), Some("p1"))
    );
    // Two more while the first is being installed: the newest wins, the one between is never applied.
    driver
        .set_config(
            "m2",
            json!({"a": {"version": "3", "url": "http://fake/nowhere.deb"}}),
        )
        .await;
    assert_eq!(driver.said(1).await, ["converging m2"]);
    driver
        .set_config("m3", json!({"b": {"version": "1", "url": newer}}))
        .await;
    assert_eq!(driver.said(1).await, ["converging m3"]);
    gate.add_permits(10);
    loop {
        let said = driver.said(1).await;
        if said == ["ok m3"] {
            break;
        }
        assert_eq!(said, ["converging m3"]);
    }
    let log = driver.fake.take_log();
    assert!(
        !log.iter()
            .any(|line| line.contains("nowhere") || line.contains("config a")),
        "{log:?}"
    );
    assert_eq!(
        driver
            .fake
            .with(|state| state.packages.keys().cloned().collect::<Vec<_>>()),
        ["b"]
    );
}

#[tokio::test(start_paused = true)]
async fn one_bad_application_does_not_hold_back_the_others() {
    let mut driver = started().await;
    let good = driver.fake.offer("good", "1-1");
    let bad = driver.fake.offer("bad", "1-1");
    let broken_script = HostError::new(Category::Script, "bad's postinst failed");
    driver.fake.with(|state| {
        state
            .failures
            .push(("apply +bad=1-1 +good=1-1".into(), broken_script.clone()));
        state.failures.push(("apply +bad=1-1".into(), broken_script));
    });
    let apps = json!({"good": {"version": "1", "url": good}, "bad": {"version": "1", "url": bad}});
    driver.set_config("m1", apps.clone()).await;
    assert_eq!(driver.said(1).await, ["converging m1"]);
    let status = driver.status().await;
    assert_eq!(status["status"], "errors");
    assert_eq!(status["apps"]["good"]["running"], true);
    assert_eq!(status["errors"][0]["app"], "bad");
    assert_eq!(status["errors"][0]["phase"], "install");
    assert_eq!(status["errors"][0]["category"], "script");
    assert_eq!(status["desired_apps"].as_object().unwrap().len(), 2);

    // Held: no retry by itself, nor because of the same message; a changed one is a new chance.
    driver.quiet().await;
    driver.fake.take_log();
    driver.set_config("m2", apps).await;
    assert_eq!(driver.said(1).await, ["errors m2"]);
    assert_eq!(driver.fake.take_log(), [""; 0]);
    let bad = driver.fake.offer("bad", "2-1");
    let good = driver.fake.offer("good", "1-1");
    driver
        .set_config(
            "m3",
            json!({"good": {"version": "1", "url": good}, "bad": {"version": "2", "url": bad}}),
        )
        .await;
    assert_eq!(driver.said(2).await, ["converging m3", "ok m3"]);
}

#[tokio::test(start_paused = true)]
async fn a_transient_failure_is_retried_until_it_is_over() {
    let mut driver = started().await;
    let url = driver.fake.offer("a", "1-1");
    let away = HostError::new(Category::Network, "connection refused");
    driver.fake.with(|state| {
        state.failures.push((format!("fetch {url}"), away.clone()));
        state.failures.push((format!("fetch {url}"), away));
    });
    driver
        .set_config("m1", json!({"a": {"version": "1", "url": url}}))
        .await;
    assert_eq!(driver.said(1).await, ["converging m1"]);
    let first = driver.status().await;
    assert_eq!(first["errors"][0]["phase"], "download");
    assert_eq!(first["errors"][0]["attempt"], 1);
    assert!(first["errors"][0]["next_retry"].is_string());
    assert_eq!(driver.status().await["errors"][0]["attempt"], 2);
    assert_eq!(driver.said(1).await, ["ok -"]);
}

#[tokio::test(start_paused = true)]
async fn what_failed_for_the_network_is_tried_again_when_the_broker_is_reached_again() {
    let mut driver = started().await;
    let url = driver.fake.offer("a", "1-1");
    let away = HostError::new(Category::Network, "No route to host");
    driver.fake.with(|state| {
        let failure = (format!("fetch {url}"), away);
        state.failures.extend(std::iter::repeat_n(failure, 8));
    });
    driver
        .set_config("m1", json!({"a": {"version": "1", "url": url}}))
        .await;
    let mut attempt = 0;
    while attempt < 8 {
        let outgoing = driver.published.recv().await.unwrap();
        let message: Value = serde_json::from_slice(&outgoing.body).unwrap();
        attempt = message["data"]["errors"][0]["attempt"].as_u64().unwrap_or(0);
        let _ = outgoing.done.send(Ok(()));
    }
    // The next try is minutes off by now.
    driver.quiet().await;
    driver.link.send_replace(LinkState::Down { reason: "cut".into() });
    driver.quiet().await;
    let back = Instant::now();
    driver.link.send_replace(LinkState::Up { epoch: 2 });
    while driver.status().await["status"] != "ok" {}
    let bake_period = Duration::from_secs(10);
    assert!(
        back.elapsed() <= bake_period + Duration::from_secs(5),
        "{:?}",
        back.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_held_lock_is_waited_for_without_a_failure() {
    let mut driver = started().await;
    let url = driver.fake.offer("a", "1-1");
    let locked = HostError::new(
        Category::Locked,
        "waiting for the package lock, which process 7 (apt) holds",
    );
    driver.fake.with(|state| {
        state
            .failures
            .extend(std::iter::repeat_n(("apply +a=1-1".to_owned(), locked), 5))
    });
    driver
        .set_config("m1", json!({"a": {"version": "1", "url": url}}))
        .await;
    assert_eq!(driver.said(1).await, ["converging m1"]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    driver.send_on("slaves", json!({"opcode": "ping"})).await;
    let status = driver.status().await;
    assert_eq!(status["status"], "converging");
    assert!(
        status["detail"]
            .as_str()
            .unwrap()
            .starts_with("waiting for the package lock"),
        "{status}"
    );
    assert_eq!(driver.said(1).await, ["ok m1"]);
}

#[tokio::test(start_paused = true)]
async fn drift_that_a_ping_finds_is_reported_and_repaired() {
    let mut driver = started().await;
    let url = driver.fake.offer("a", "1-1");
    driver
        .set_config("m1", json!({"a": {"version": "1", "url": url}}))
        .await;
    driver.said(2).await;
    driver
        .fake
        .with(|state| state.services.get_mut("a").unwrap().running = false);
    driver.send_on("a", json!({"opcode": "ping", "id": "p"})).await;
    assert_eq!(driver.said(3).await, ["converging p", "converging -", "ok -"]);
    driver.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_will_not_stay_up_is_an_error_and_no_loop() {
    let mut driver = started().await;
    let url = driver.fake.offer("a", "1-1");
    driver.fake.with(|state| state.dying.insert("a".into()));
    driver
        .set_config("m1", json!({"a": {"version": "1", "url": url}}))
        .await;
    assert_eq!(driver.said(1).await, ["converging m1"]);
    let status = driver.status().await;
    assert_eq!(status["errors"][0]["phase"], "health");
    assert_eq!(status["errors"][0]["rolled_back"], true);
    assert_eq!(status["apps"], json!({}));
    driver.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_message_changes_nothing_and_is_answered() {
    let mut driver = started().await;
    let url = driver.fake.offer("a", "1-1");
    driver
        .set_config("m1", json!({"a": {"version": "1", "url": url}}))
        .await;
    driver.said(2).await;
    driver.fake.take_log();
    let bad = json!({"opcode": "set_config", "id": "m2", "data": {"../x": {"version": "1"}}});
    driver.send_on(HOST, bad).await.await.unwrap();
    let status = driver.status().await;
    assert_eq!(
        (status["status"].as_str(), status["reply_to"].as_str()),
        (Some("errors"), Some("m2"))
    );
    assert_eq!(status["errors"][0]["phase"], "decode");
    assert!(status["apps"]["a"].is_object());
    // A later status tells the true state again, and of the refusal.
    driver.send_on(HOST, json!({"opcode": "ping"})).await;
    let later = driver.status().await;
    assert_eq!(later["status"], "ok");
    assert_eq!(later["last_rejected"]["id"], "m2");
    assert_eq!(driver.fake.take_log(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_stale_generation_is_refused_and_the_state_reported_again() {
    let mut driver = started().await;
    let message = |generation: u64, id: &str| json!({"opcode": "set_config", "generation": generation, "id": id, "data": {}});
    driver.send_on(HOST, message(5, "m5")).await.await.unwrap();
    assert_eq!(driver.said(1).await, ["ok m5"]);
    driver.send_on(HOST, message(4, "m4")).await.await.unwrap();
    let status = driver.status().await;
    assert_eq!(
        (status["status"].as_str(), status["reply_to"].as_str()),
        (Some("ok"), Some("m4"))
    );
    assert_eq!(status["generation"], 5);
    assert!(
        status["last_rejected"]["reason"]
            .as_str()
            .unwrap()
            .contains("generation 4")
    );
}

#[tokio::test(start_paused = true)]
async fn a_message_on_an_applications_topic_replaces_that_application_only() {
    let mut driver = started().await;
    let (a, b, a2) = (
        driver.fake.offer("a", "1-1"),
        driver.fake.offer("b", "1-1"),
        driver.fake.offer("a", "2-1"),
    );
    driver
        .set_config(
            "m1",
            json!({"a": {"version": "1", "url": a}, "b": {"version": "1", "url": b}}),
        )
        .await;
    driver.said(2).await;
    let on_topic = |data: Value| json!({"opcode": "set_config", "id": "m2", "data": data});
    driver
        .send_on("a", on_topic(json!({"b": {"version": "9"}})))
        .await;
    assert_eq!(driver.said(1).await, ["errors m2"]);
    driver
        .send_on("a", on_topic(json!({"a": {"version": "2", "url": a2}})))
        .await;
    assert_eq!(driver.said(2).await, ["converging m2", "ok m2"]);
    let packages = driver.fake.with(|s| {
        s.packages
            .iter()
            .map(|(n, p)| format!("{n} {}", p.version))
            .collect::<Vec<_>>()
    });
    assert_eq!(packages, ["a 2-1", "b 1-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_converges_to_the_stored_state_without_a_broker() {
    let mut driver = started().await;
    let url = driver.fake.offer("a", "1-1");
    driver
        .set_config("m1", json!({"a": {"version": "1", "url": url}}))
        .await;
    driver.said(2).await;
    driver.agent.take().unwrap().stop().await;
    driver
        .fake
        .with(|state| state.services.get_mut("a").unwrap().running = false);
    let Driver { fake, state_dir, .. } = driver;

    let mut driver = Driver::start_with(fake, state_dir);
    driver.link.send_replace(LinkState::Down {
        reason: "away".into(),
    });
    let mut state = driver.agent.as_ref().unwrap().state.clone();
    state
        .wait_for(|state| state.standing == crate::host_state::Standing::Ok)
        .await
        .unwrap();
    assert!(driver.fake.with(|state| state.services["a"].running));
    driver.link.send_replace(LinkState::Up { epoch: 1 });
    assert_eq!(driver.status().await["status"], "ok");
}

#[tokio::test(start_paused = true)]
async fn a_held_failure_stays_held_over_a_restart() {
    let mut driver = started().await;
    let bad = driver.fake.offer("bad", "1-1");
    let broken = HostError::new(Category::Script, "bad's postinst failed");
    driver
        .fake
        .with(|state| state.failures.push(("apply +bad=1-1".into(), broken)));
    driver
        .set_config("m1", json!({"bad": {"version": "1", "url": bad}}))
        .await;
    driver.said(2).await;
    driver.agent.take().unwrap().stop().await;
    let Driver { fake, state_dir, .. } = driver;
    fake.take_log();
    let mut driver = Driver::start_with(fake, state_dir);
    // Whether the answer had reached the master before the restart, nobody knows: it is given again.
    let mut status = driver.status().await;
    while status["reply_to"] != "m1" {
        status = driver.status().await;
    }
    assert_eq!(status["status"], "errors");
    assert_eq!(status["errors"][0]["message"], "bad's postinst failed");
    driver.quiet().await;
    assert_eq!(driver.fake.take_log(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn an_application_and_its_package_may_have_different_names() {
    let mut driver = started().await;
    let url = driver.fake.offer("ostackhost", "1-1");
    driver
        .set_config("m1", json!({"app_foo": {"version": "1", "url": url}}))
        .await;
    let last = driver.said(2).await;
    assert_eq!(last, ["converging m1", "ok m1"]);
    assert!(driver.topics.borrow().contains("app_foo"));
    // Once recorded, another package under that name is refused.
    let other = driver.fake.offer("other", "2-1");
    driver
        .set_config("m2", json!({"app_foo": {"version": "2", "url": other}}))
        .await;
    assert_eq!(driver.said(1).await, ["converging m2"]);
    let status = driver.status().await;
    assert_eq!(status["errors"][0]["phase"], "verify");
    assert_eq!(status["apps"]["app_foo"]["package_version"], "1-1");
    assert_eq!(
        driver
            .fake
            .with(|s| s.packages.keys().cloned().collect::<Vec<_>>()),
        ["ostackhost"]
    );
    let _ = AppName::new("app_foo").unwrap();
}

/// FAULTS row 13, the agent's side.
#[tokio::test(start_paused = true)]
async fn a_clone_is_reported_as_errors_of_phase_connect() {
    let mut driver = started().await;
    let reason = "another consumer holds the queue of this host".to_owned();
    driver.link.send_replace(LinkState::Clone { reason });
    let status = driver.status().await;
    assert_eq!(status["status"], "errors", "{status}");
    assert_eq!(status["errors"][0]["phase"], "connect");
    assert_eq!(status["errors"][0]["category"], "conflict");
    // Its twin goes, and all is well.
    driver.link.send_replace(LinkState::Up { epoch: 2 });
    assert_eq!(driver.said(1).await, ["ok -"]);
}

/// FAULTS row 13: the one that has the queue says so as well, works on, and says when it is over.
#[tokio::test(start_paused = true)]
async fn a_host_whose_clone_wants_its_queue_reports_that_and_works_on() {
    let mut driver = started().await;
    let contested = LinkState::Contested {
        epoch: 1,
        reason: "another agent wants the queue".to_owned(),
    };
    driver.link.send_replace(contested);
    let status = driver.status().await;
    assert_eq!(status["status"], "errors", "{status}");
    assert_eq!(status["errors"][0]["phase"], "connect");
    assert_eq!(status["errors"][0]["category"], "conflict");
    let message = status["errors"][0]["message"].as_str().unwrap();
    assert!(message.contains(". This is "), "{message}");
    // An answer tells of what was asked.
    driver.send_on(HOST, json!({"opcode": "ping", "id": "p1"})).await;
    assert_eq!(driver.said(1).await, ["ok p1"]);
    driver.link.send_replace(LinkState::Up { epoch: 1 });
    assert_eq!(driver.said(1).await, ["ok -"]);
}

/// FAULTS row 6, the agent's side: what waited for the broker is merged into the status of the new connection.
#[tokio::test(start_paused = true)]
async fn what_waited_for_the_broker_is_merged_into_one_status_that_answers_the_newest() {
    let mut driver = started().await;
    driver.link.send_replace(LinkState::Down {
        reason: "away".into(),
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    for id in ["p1", "p2", "p3"] {
        driver.send_on(HOST, json!({"opcode": "ping", "id": id})).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    driver.link.send_replace(LinkState::Up { epoch: 2 });
    assert_eq!(driver.said(1).await, ["ok p3"]);
    driver.quiet().await;
}
