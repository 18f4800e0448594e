//! Whatever happens, the engine comes to rest: no loop without a wait, no error that grows, no application that nothing
//! leads on.

use host::HostError;
use protocol::Category;

use super::*;
use crate::engine::book::ProgressBook;
use crate::engine::progress::Progress;
use crate::engine::stored::StoredProgress;
use crate::state_file::StateFile;

fn failure(category: Category, message: &str) -> HostError {
    HostError::new(category, message)
}

async fn outcome(driver: &mut Driver) -> Value {
    loop {
        let waited = tokio::time::timeout(Duration::from_secs(400), driver.published.recv()).await;
        let outgoing = waited.expect("a status within 400 s").unwrap();
        let message: Value = serde_json::from_slice(&outgoing.body).unwrap();
        let _ = outgoing.done.send(Ok(()));
        if message["data"]["status"] != "converging" {
            return message["data"].clone();
        }
    }
}

fn stored(driver: &Driver) -> StoredProgress {
    let file = StateFile::new(ProgressBook::path(driver.state_dir.path()));
    file.load().unwrap().unwrap()
}

fn app_at(driver: &Driver, version: &str) -> Value {
    let url = driver.fake.offer("a", &format!("{version}-1"));
    json!({"version": version, "url": url, "config": {"s": {"k": version}}})
}

async fn with_a_at_1() -> Driver {
    let mut driver = started().await;
    let a = app_at(&driver, "1");
    driver.set_config("m0", json!({"a": a})).await;
    assert_eq!(outcome(&mut driver).await["status"], "ok");
    driver.fake.take_log();
    driver
}

#[tokio::test(start_paused = true)]
async fn a_newer_state_that_needs_no_steps_ends_a_bake_of_the_one_before() {
    let mut driver = with_a_at_1().await;
    let mut a = app_at(&driver, "2");
    driver.set_config("m1", json!({"a": a})).await;
    assert_eq!(driver.said(1).await, ["converging m1"]);
    tokio::time::sleep(Duration::from_secs(3)).await;
    // Only its rank is another.
    a["rank"] = json!(7);
    driver.set_config("m2", json!({"a": a})).await;
    let status = outcome(&mut driver).await;
    assert_eq!(
        (status["status"].as_str(), status["reply_to"].as_str()),
        (Some("ok"), Some("m2"))
    );
    let settled = stored(&driver);
    let progress = settled.apps.values().next().unwrap();
    assert!(
        matches!(progress, Progress::Settled { spec, .. } if spec.rank.is_some()),
        "{progress:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_plan_question_that_comes_with_a_newer_state_is_answered_and_pings_go_on() {
    let mut driver = with_a_at_1().await;
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    driver.fake.with(|state| state.gate = Some(gate.clone()));
    driver.set_config("m1", json!({"a": app_at(&driver, "2")})).await;
    assert_eq!(driver.said(1).await, ["converging m1"]);
    driver.set_config("m2", json!({"a": app_at(&driver, "3")})).await;
    let tied = json!({"opcode": "set_config", "id": "m3", "only_if_plan": "0123456789ab", "data": {"a": app_at(&driver, "4")}});
    let acked = driver.send_on(HOST, tied).await;
    driver.send_on(HOST, json!({"opcode": "ping", "id": "p1"})).await;
    let mut answered = Vec::new();
    while !answered.contains(&"p1".to_owned()) {
        let status = driver.status().await;
        answered.push(status["reply_to"].as_str().unwrap_or_default().to_owned());
    }
    gate.add_permits(100);
    driver.send_on(HOST, json!({"opcode": "ping", "id": "p2"})).await;
    let mut seen = Vec::new();
    while !(seen.contains(&"m3".to_owned()) && seen.contains(&"p2".to_owned())) {
        let status = driver.status().await;
        seen.push(status["reply_to"].as_str().unwrap_or_default().to_owned());
    }
    acked.await.unwrap();
    let status = outcome(&mut driver).await;
    assert_eq!(status["apps"]["a"]["package_version"], "3-1", "{status}");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_refuses_what_the_dry_run_allows_is_a_failure_and_no_loop() {
    let mut driver = started().await;
    let away = failure(Category::Network, "Failed to fetch: mirror away");
    driver.fake.with(|state| {
        state.refuses = true;
        state
            .failures
            .extend((0..3).map(|_| ("apply +a=1-1 +b=1-1".to_owned(), away.clone())));
    });
    let apps = json!({
        "a": {"version": "1", "url": driver.fake.offer("a", "1-1")},
        "b": {"version": "1", "url": driver.fake.offer("b", "1-1")},
    });
    driver.set_config("m1", apps).await;
    let mut attempts = Vec::new();
    loop {
        let status = outcome(&mut driver).await;
        if status["status"] == "ok" {
            break;
        }
        let error = &status["errors"][0];
        assert_eq!(
            (error["category"].as_str(), error["rolled_back"].as_bool()),
            (Some("network"), Some(false))
        );
        assert!(error["next_retry"].is_string(), "{status}");
        attempts.push(error["attempt"].as_u64().unwrap());
    }
    assert_eq!(attempts, [1, 2, 3], "pauses grow with the attempts");
}

#[tokio::test(start_paused = true)]
async fn what_can_neither_go_back_nor_forward_is_stuck_and_its_error_does_not_grow() {
    let mut driver = with_a_at_1().await;
    // Neither 2 nor the rollback to 1 is possible, and the obstacle is one that may pass.
    driver.fake.with(|state| {
        let read_only = failure(Category::Host, "the file system is read-only");
        let script = failure(Category::Script, "a's postinst failed");
        state.half_done.push("apply +a=2-1".into());
        state.failures.push(("apply +a=2-1".into(), script));
        state
            .failures
            .extend((0..60).map(|_| ("apply +a=1-1".to_owned(), read_only.clone())));
    });
    driver.set_config("m1", json!({"a": app_at(&driver, "2")})).await;
    let mut messages = Vec::new();
    for _ in 0..6 {
        let status = outcome(&mut driver).await;
        assert_eq!(status["errors"][0]["phase"], "rollback", "{status}");
        messages.push(status["errors"][0]["message"].as_str().unwrap().to_owned());
    }
    messages.dedup();
    assert_eq!(messages.len(), 1, "{messages:#?}");
    let tries = driver
        .fake
        .take_log()
        .iter()
        .filter(|line| *line == "apply +a=1-1")
        .count();
    assert!(tries < 20, "{tries} tries of the rollback");
    // A newer state that cannot be had does not make it loop.
    let dead = json!({"a": {"version": "9", "url": "http://fake/nowhere.deb"}});
    driver.set_config("m2", dead).await;
    let status = outcome(&mut driver).await;
    assert_eq!(status["status"], "errors", "{status}");
    assert_eq!(status["reply_to"], "m2");
}

#[tokio::test(start_paused = true)]
async fn what_stands_or_falls_together_is_tried_together_after_its_pause() {
    let mut driver = started().await;
    let full = failure(Category::DiskSpace, "No space left on device");
    driver.fake.with(|state| {
        state.failures.push(("apply +a=1-1 +b=1-1".into(), full.clone()));
        state.failures.push(("apply +a=1-1".into(), full.clone()));
        state.failures.push(("apply +b=1-1".into(), full));
    });
    let apps = json!({
        "a": {"version": "1", "url": driver.fake.offer("a", "1-1")},
        "b": {"version": "1", "url": driver.fake.offer("b", "1-1"), "requires": ["a"]},
    });
    driver.set_config("m1", apps).await;
    let status = outcome(&mut driver).await;
    assert_eq!(status["errors"].as_array().unwrap().len(), 2, "{status}");
    assert_eq!(outcome(&mut driver).await["status"], "ok");
}

/// Its hook is broken by the time the pause after a failed repair is over: nothing is to be done then, and nothing spins.
#[tokio::test(start_paused = true)]
async fn a_pause_that_is_over_while_something_else_is_in_the_way_does_not_spin() {
    let mut driver = with_a_at_1().await;
    driver.fake.with(|state| {
        state
            .failures
            .push(("start a".into(), failure(Category::Script, "no")))
    });
    driver.fake.with(|state| {
        state.services.get_mut("a").unwrap().running = false;
        state.changes.report("a");
    });
    assert_eq!(outcome(&mut driver).await["status"], "errors");
    driver.fake.with(|state| {
        let broken = failure(Category::Invalid, "a.toml:1: broken");
        state.broken_contracts.insert("a".into(), broken);
        state.dying.insert("a".into());
    });
    driver.fake.take_log();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let log = driver.fake.take_log();
    assert!(log.len() < 40, "{} operations in ten minutes", log.len());
    driver.fake.with(|state| {
        state.broken_contracts.clear();
        state.dying.clear();
    });
    driver.agent.as_ref().unwrap().retry_failed();
    while outcome(&mut driver).await["status"] != "ok" {}
}

#[tokio::test(start_paused = true)]
async fn without_a_desired_state_nothing_that_is_known_is_forgotten() {
    let mut driver = with_a_at_1().await;
    let apps = json!({"a": app_at(&driver, "2")});
    driver.set_config("m1", apps.clone()).await;
    assert_eq!(driver.said(1).await, ["converging m1"]);
    tokio::time::sleep(Duration::from_secs(3)).await;
    driver.agent.take().unwrap().stop().await;
    let before = stored(&driver).apps;
    assert!(
        before.values().any(|progress| progress.change().is_some()),
        "{before:?}"
    );
    let Driver { fake, state_dir, .. } = driver;
    std::fs::write(state_dir.path().join("desired.json"), "torn").unwrap();
    let mut driver = Driver::start_with(fake, state_dir);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let kept = stored(&driver).apps;
    assert!(
        kept.values().any(|progress| progress.change().is_some()),
        "{kept:?}"
    );
    driver.set_config("m2", apps).await;
    while outcome(&mut driver).await["reply_to"] != "m2" {}
    assert!(!stored(&driver).apps.values().any(Progress::is_in_progress));
}
