//! A convergence is a transaction: what fails goes back to what it was.

use crate::engine::book::ProgressBook;
use crate::engine::failure::Failure;
use crate::engine::progress::{Change, DesiredDigest, Progress};
use crate::engine::snapshot::Before;
use crate::engine::stored::StoredProgress;
use crate::ledger::Scope;
use crate::state_file::StateFile;
use protocol::{Apps, Phase, SetConfig};

use super::*;

fn package_versions(driver: &Driver) -> Vec<String> {
    driver.fake.with(|s| {
        s.packages
            .iter()
            .map(|(name, p)| format!("{name} {}", p.version))
            .collect()
    })
}

/// An agent with application `a` at 1, configured and running.
async fn with_a_at_1() -> Driver {
    let mut driver = started().await;
    let url = driver.fake.offer("a", "1-1");
    driver
        .set_config(
            "m0",
            json!({"a": {"version": "1", "url": url, "config": {"s": {"k": "old"}}}}),
        )
        .await;
    assert_eq!(driver.said(2).await, ["converging m0", "ok m0"]);
    driver.fake.take_log();
    driver
}

fn a_at_2(driver: &Driver) -> Value {
    let url = driver.fake.offer("a", "2-1");
    json!({"a": {"version": "2", "url": url, "config": {"s": {"k": "new"}}}})
}

/// Asserts that `a` is at 1 as it was, and held with an error of `phase` that says so.
fn assert_back_at_1(driver: &Driver, status: &Value, phase: &str) {
    assert_eq!(status["status"], "errors", "{status}");
    assert_eq!(status["errors"][0]["phase"], phase, "{status}");
    assert_eq!(status["errors"][0]["rolled_back"], true, "{status}");
    assert_eq!(status["errors"][0].get("next_retry"), None, "{status}");
    assert_eq!(status["apps"]["a"]["package_version"], "1-1");
    assert_eq!(status["apps"]["a"]["running"], true);
    assert_eq!(status["apps"]["a"]["config"], json!({"s": {"k": "old"}}));
    assert_eq!(status["desired_apps"]["a"]["version"], "2");
    assert_eq!(package_versions(driver), ["a 1-1"]);
    assert!(!stored(driver).apps.values().any(Progress::is_in_progress));
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_whose_script_fails_is_rolled_back_and_held() {
    let mut driver = with_a_at_1().await;
    let broken = HostError::new(Category::Script, "a's postinst failed");
    driver
        .fake
        .with(|state| state.failures.push(("apply +a=2-1".into(), broken)));
    driver
        .fake
        .with(|state| state.half_done.push("apply +a=2-1".into()));
    let apps = a_at_2(&driver);
    driver.set_config("m1", apps).await;
    assert_eq!(driver.said(1).await, ["converging m1"]);
    let status = driver.status().await;
    assert_back_at_1(&driver, &status, "install");
    driver.quiet().await;
    // A good version then goes through.
    let url = driver.fake.offer("a", "3-1");
    driver
        .set_config("m2", json!({"a": {"version": "3", "url": url}}))
        .await;
    assert_eq!(driver.said(2).await, ["converging m2", "ok m2"]);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_dies_while_it_is_watched_is_rolled_back() {
    let mut driver = with_a_at_1().await;
    let apps = a_at_2(&driver);
    driver.set_config("m1", apps).await;
    assert_eq!(driver.said(1).await, ["converging m1"]);
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(package_versions(&driver), ["a 2-1"]);
    driver
        .fake
        .with(|state| state.services.get_mut("a").unwrap().running = false);
    let status = driver.status().await;
    assert_back_at_1(&driver, &status, "health");
    driver.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_config_that_is_refused_is_rolled_back() {
    let mut driver = with_a_at_1().await;
    let refused = HostError::new(Category::Script, "the hook ended with exit code 1");
    driver
        .fake
        .with(|state| state.failures.push(("config a".into(), refused)));
    let apps = a_at_2(&driver);
    driver.set_config("m1", apps).await;
    assert_eq!(driver.said(1).await, ["converging m1"]);
    let status = driver.status().await;
    assert_back_at_1(&driver, &status, "configure");
}

#[tokio::test(start_paused = true)]
async fn the_good_one_stays_when_the_bad_one_goes_back() {
    let mut driver = with_a_at_1().await;
    let mut apps = a_at_2(&driver);
    apps["b"] = json!({"version": "1", "url": driver.fake.offer("b", "1-1")});
    let broken = HostError::new(Category::Script, "a's postinst failed");
    driver.fake.with(|state| {
        state
            .failures
            .push(("apply +a=2-1 +b=1-1".into(), broken.clone()));
        state.failures.push(("apply +a=2-1".into(), broken));
    });
    driver.set_config("m1", apps).await;
    assert_eq!(driver.said(1).await, ["converging m1"]);
    let status = driver.status().await;
    assert_eq!(status["errors"].as_array().unwrap().len(), 1);
    assert_eq!(status["apps"]["b"]["running"], true);
    assert_eq!(package_versions(&driver), ["a 1-1", "b 1-1"]);
}

#[tokio::test(start_paused = true)]
async fn applications_that_require_each_other_stand_or_fall_together() {
    let mut driver = with_a_at_1().await;
    let mut apps = a_at_2(&driver);
    apps["b"] = json!({"version": "1", "url": driver.fake.offer("b", "1-1"), "requires": ["a"]});
    let refused = HostError::new(Category::Script, "the hook ended with exit code 1");
    driver
        .fake
        .with(|state| state.failures.push(("config a".into(), refused)));
    driver.set_config("m1", apps).await;
    assert_eq!(driver.said(1).await, ["converging m1"]);
    let status = driver.status().await;
    let rolled_back: Vec<bool> = status["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["rolled_back"].as_bool().unwrap())
        .collect();
    assert_eq!(rolled_back, [true, true], "{status}");
    assert_eq!(package_versions(&driver), ["a 1-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_check_touches_nothing() {
    let mut driver = with_a_at_1().await;
    let full = HostError::new(Category::Dependency, "a needs libx, which is not there");
    driver
        .fake
        .with(|state| state.failures.push(("check +a=2-1".into(), full)));
    let apps = a_at_2(&driver);
    driver.set_config("m1", apps).await;
    assert_eq!(driver.said(1).await, ["converging m1"]);
    let status = driver.status().await;
    assert_eq!(status["errors"][0]["phase"], "check");
    assert_eq!(status["errors"][0]["rolled_back"], false);
    let log = driver.fake.take_log();
    assert_eq!(log.len(), 2, "a fetch and a check, nothing else: {log:?}");
}

#[tokio::test(start_paused = true)]
async fn an_operator_may_ask_for_another_try() {
    let mut driver = with_a_at_1().await;
    let refused = HostError::new(Category::Script, "the hook ended with exit code 1");
    driver
        .fake
        .with(|state| state.failures.push(("config a".into(), refused)));
    let apps = a_at_2(&driver);
    driver.set_config("m1", apps).await;
    assert_eq!(driver.said(2).await, ["converging m1", "errors m1"]);
    driver.agent.as_ref().unwrap().retry_failed();
    assert_eq!(driver.said(2).await, ["converging -", "ok -"]);
    assert_eq!(package_versions(&driver), ["a 2-1"]);
}

/// While a service is enabled that somebody's removal of its package has disabled, the package goes.
#[tokio::test(start_paused = true)]
async fn what_fails_while_somebody_else_removes_the_package_is_no_failure() {
    let mut driver = with_a_at_1().await;
    let gone = HostError::new(Category::NotFound, "there is no unit a");
    driver.fake.with(|state| {
        state.services.get_mut("a").unwrap().enabled = Some(false);
        state.removed_externally.push(("enable a".into(), "a".into()));
        state.failures.push(("enable a".into(), gone));
    });
    let apps = json!({"a": {"version": "1", "url": "http://fake/a-1-1.deb", "config": {"s": {"k": "old"}}}});
    driver.set_config("m1", apps).await;
    let status = last_said(&mut driver).await;
    assert_eq!(status["status"], "ok", "{status}");
    assert_eq!(package_versions(&driver), ["a 1-1"]);
    let log = driver.fake.take_log();
    assert!(log.contains(&"apply +a=1-1".to_owned()), "{log:?}");
}

/// In the midst of a removal by rpm, files are gone while the database still has the package.
#[tokio::test(start_paused = true)]
async fn what_is_held_has_another_chance_when_somebody_else_has_changed_its_package() {
    let mut driver = with_a_at_1().await;
    driver
        .fake
        .with(|state| state.without_contract.insert("a".into()));
    let apps = json!({"a": {"version": "1", "url": "http://fake/a-1-1.deb", "config": {"s": {"k": "new"}}}});
    driver.set_config("m1", apps.clone()).await;
    let status = last_said(&mut driver).await;
    assert_eq!(status["status"], "errors", "{status}");
    // Nothing has changed, and it is held.
    driver.set_config("m2", apps.clone()).await;
    assert_eq!(driver.said(1).await, ["errors m2"]);
    driver.fake.with(|state| {
        state.remove("a");
        state.without_contract.clear();
    });
    driver.set_config("m3", apps).await;
    assert_eq!(driver.said(2).await, ["converging m3", "ok m3"]);
    assert_eq!(package_versions(&driver), ["a 1-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_message_may_ask_for_another_try() {
    let mut driver = with_a_at_1().await;
    let refused = HostError::new(Category::Script, "the hook ended with exit code 1");
    driver
        .fake
        .with(|state| state.failures.push(("config a".into(), refused)));
    let apps = a_at_2(&driver);
    driver.set_config("m1", apps.clone()).await;
    assert_eq!(driver.said(2).await, ["converging m1", "errors m1"]);
    // The same again is no reason to try again.
    driver.set_config("m2", apps.clone()).await;
    assert_eq!(driver.said(1).await, ["errors m2"]);
    assert_eq!(package_versions(&driver), ["a 1-1"]);

    let message = json!({"opcode": "set_config", "id": "m3", "data": apps, "retry": true});
    driver.send_on(HOST, message).await.await.unwrap();
    assert_eq!(driver.said(2).await, ["converging m3", "ok m3"]);
    assert_eq!(package_versions(&driver), ["a 2-1"]);
    driver.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_retry_is_not_lost_where_another_message_comes_right_after_it() {
    let mut driver = with_a_at_1().await;
    let refused = HostError::new(Category::Script, "the hook ended with exit code 1");
    driver
        .fake
        .with(|state| state.failures.push(("config a".into(), refused)));
    let apps = a_at_2(&driver);
    driver.set_config("m1", apps.clone()).await;
    assert_eq!(driver.said(2).await, ["converging m1", "errors m1"]);
    let message =
        |id: &str, retry: bool| json!({"opcode": "set_config", "id": id, "data": apps, "retry": retry});
    let (first, second) = tokio::join!(
        driver.send_on(HOST, message("m2", true)),
        driver.send_on(HOST, message("m3", false)),
    );
    first.await.unwrap();
    second.await.unwrap();
    let status = last_said(&mut driver).await;
    assert_eq!(status["status"], "ok", "{status}");
    assert_eq!(package_versions(&driver), ["a 2-1"]);
}

/// Stops the agent, puts `progress` of `a` in its place as if it had been killed, and starts another.
async fn killed_with(mut driver: Driver, progress: Progress) -> Driver {
    driver.agent.take().unwrap().stop().await;
    let Driver { fake, state_dir, .. } = driver;
    put_progress(&state_dir, progress);
    Driver::start_with(fake, state_dir)
}

fn put_progress(state_dir: &tempfile::TempDir, progress: Progress) {
    let stored = StoredProgress {
        stopped: false,
        apps: [(AppName::new("a").unwrap(), progress)].into(),
    };
    StateFile::new(ProgressBook::path(state_dir.path()))
        .store(&stored)
        .unwrap();
}

/// A change of `a`, which was absent, to what `desired` says.
fn change_of_a(desired: &Value, crashes: u32) -> Box<Change> {
    let desired: Apps = serde_json::from_value(desired.clone()).unwrap();
    Box::new(Change {
        before: Before::Absent { purge: None },
        desired: DesiredDigest::of(&desired),
        spec: desired.get("a").cloned().map(Box::new),
        attempts: 0,
        crashes,
        started: Default::default(),
        unfinished: Default::default(),
    })
}

fn applying(desired: &Value, crashes: u32) -> Progress {
    Progress::Applying {
        change: change_of_a(desired, crashes),
    }
}

fn rolling_back(desired: &Value) -> Progress {
    Progress::RollingBack {
        change: change_of_a(desired, 0),
        failure: Failure {
            phase: Phase::Health,
            category: Category::Unhealthy,
            message: "a did not stay up".into(),
        },
    }
}

/// How far the agent is with each application, as stored.
fn stored(driver: &Driver) -> StoredProgress {
    let file = StateFile::new(ProgressBook::path(driver.state_dir.path()));
    file.load().unwrap().unwrap()
}

async fn last_said(driver: &mut Driver) -> Value {
    let mut status = driver.status().await;
    while status["status"] == "converging" {
        status = driver.status().await;
    }
    status
}

#[tokio::test(start_paused = true)]
async fn a_rollback_that_was_cut_short_is_ended_after_the_restart() {
    let driver = with_a_at_1().await;
    let url = "http://fake/a-1-1.deb";
    let desired = json!({"a": {"version": "1", "url": url, "config": {"s": {"k": "old"}}}});
    let mut driver = killed_with(driver, rolling_back(&desired)).await;
    let status = last_said(&mut driver).await;
    assert_eq!(status["errors"][0]["message"], "a did not stay up");
    assert_eq!(status["errors"][0]["rolled_back"], true);
    assert_eq!(package_versions(&driver), [""; 0]);
    driver.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn what_stands_or_falls_with_a_failed_one_is_left_alone_after_the_restart() {
    let mut driver = with_a_at_1().await;
    driver.agent.take().unwrap().stop().await;
    let desired = json!({
        "a": {"version": "1", "url": "http://fake/a-1-1.deb"},
        "b": {"version": "1", "url": driver.fake.offer("b", "1-1"), "requires": ["a"]},
        "c": {"version": "1", "url": driver.fake.offer("c", "1-1")},
    });
    let ledger = Ledger::open(driver.state_dir.path(), HostId::new(HOST).unwrap()).unwrap();
    let message = SetConfig {
        id: None,
        generation: None,
        only_if_plan: None,
        retry: false,
        apps: serde_json::from_value(desired.clone()).unwrap(),
    };
    ledger.accept(message, &Scope::Host).unwrap();
    drop(ledger);
    let Driver { fake, state_dir, .. } = driver;
    put_progress(&state_dir, rolling_back(&desired));
    let mut driver = Driver::start_with(fake, state_dir);
    let status = last_said(&mut driver).await;
    let errors: Vec<(&str, &str)> = status["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| (error["app"].as_str().unwrap(), error["message"].as_str().unwrap()))
        .collect();
    let tied = "b is changed together with a (requires), and a failed: a did not stay up";
    assert_eq!(errors, [("a", "a did not stay up"), ("b", tied)]);
    assert_eq!(package_versions(&driver), ["c 1-1"]);
    driver.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn those_that_fail_together_are_marked_for_rollback_before_the_first_is_rolled_back() {
    let mut driver = started().await;
    let at = |driver: &Driver, version: &str| {
        let url = |name: &str| driver.fake.offer(name, &format!("{version}-1"));
        json!({
            "a": {"version": version, "url": url("a")},
            "b": {"version": version, "url": url("b"), "requires": ["a"]},
        })
    };
    let apps = at(&driver, "1");
    driver.set_config("m0", apps).await;
    assert_eq!(driver.said(2).await, ["converging m0", "ok m0"]);
    let apps = at(&driver, "2");
    driver.set_config("m1", apps).await;
    assert_eq!(driver.said(1).await, ["converging m1"]);
    tokio::time::sleep(Duration::from_secs(8)).await;
    // The rollback waits where the package manager begins with it.
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    driver.fake.with(|state| {
        state.services.get_mut("a").unwrap().running = false;
        state.gate = Some(gate.clone());
    });
    let rolls_back = |progress: &Progress| matches!(progress, Progress::RollingBack { .. });
    while !stored(&driver).apps.values().any(rolls_back) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(stored(&driver).apps.values().all(rolls_back));
    gate.add_permits(100);
    assert_eq!(
        last_said(&mut driver).await["errors"].as_array().unwrap().len(),
        2
    );
    assert_eq!(package_versions(&driver), ["a 1-1", "b 1-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_convergence_that_was_cut_short_goes_on_and_one_that_kills_the_agent_again_and_again_goes_back() {
    let driver = with_a_at_1().await;
    let desired =
        json!({"a": {"version": "1", "url": "http://fake/a-1-1.deb", "config": {"s": {"k": "old"}}}});
    let mut driver = killed_with(driver, applying(&desired, 1)).await;
    assert_eq!(last_said(&mut driver).await["status"], "ok");
    assert!(!stored(&driver).apps.values().any(Progress::is_in_progress));

    let mut driver = killed_with(driver, applying(&desired, 2)).await;
    let status = last_said(&mut driver).await;
    assert_eq!(status["errors"][0]["rolled_back"], true);
    assert!(
        status["errors"][0]["message"]
            .as_str()
            .unwrap()
            .contains("killed 3 times"),
        "{status}"
    );
    assert_eq!(package_versions(&driver), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn what_an_older_desired_state_left_to_be_undone_is_undone_before_the_new_one_begins() {
    let driver = with_a_at_1().await;
    let other = json!({"a": {"version": "7"}});
    let mut driver = killed_with(driver, rolling_back(&other)).await;
    assert_eq!(last_said(&mut driver).await["status"], "ok");
    let log = driver.fake.take_log();
    let position = |line: &str| {
        log.iter()
            .position(|l| l == line)
            .unwrap_or_else(|| panic!("{line} in {log:?}"))
    };
    assert!(position("apply -a") < position("apply +a=1-1"));
}

#[tokio::test(start_paused = true)]
async fn a_plan_is_answered_and_a_message_can_be_held_to_it() {
    let mut driver = with_a_at_1().await;
    let apps = a_at_2(&driver);
    driver
        .send_on(HOST, json!({"opcode": "plan", "id": "p1", "data": apps}))
        .await
        .await
        .unwrap();
    let plan = driver.said_otherwise("plan").await;
    assert_eq!(plan["reply_to"], "p1");
    assert_eq!(plan["steps"][0]["action"], "install");
    assert_eq!(plan["steps"][0]["text"], "upgrade from 1-1 to 2");
    assert_eq!(plan["steps"][0]["undo"]["possible"], true);
    assert!(
        !plan.to_string().contains("new"),
        "no config value is told: {plan}"
    );
    assert_eq!(package_versions(&driver), ["a 1-1"]);

    let held_to =
        |hash: &str, id: &str| json!({"opcode": "set_config", "id": id, "only_if_plan": hash, "data": apps});
    driver
        .send_on(HOST, held_to("0123456789ab", "m1"))
        .await
        .await
        .unwrap();
    let status = driver.status().await;
    assert_eq!(status["reply_to"], "m1");
    assert_eq!(status["errors"][0]["phase"], "check");
    assert_eq!(package_versions(&driver), ["a 1-1"]);

    driver
        .send_on(HOST, held_to(plan["hash"].as_str().unwrap(), "m2"))
        .await
        .await
        .unwrap();
    assert_eq!(driver.said(2).await, ["converging m2", "ok m2"]);
    assert_eq!(package_versions(&driver), ["a 2-1"]);
}

/// Its hook takes 20 s to tell its config.
#[tokio::test(start_paused = true)]
async fn a_ping_is_answered_while_the_plan_is_made_that_a_message_is_tied_to() {
    let mut driver = with_a_at_1().await;
    let apps = a_at_2(&driver);
    driver
        .fake
        .with(|state| state.read_takes = Duration::from_secs(20));
    let message = json!({"opcode": "set_config", "id": "m1", "only_if_plan": "0123456789ab", "data": apps});
    let mut acked = driver.send_on(HOST, message).await;
    let newer = json!({"opcode": "set_config", "id": "m2", "data": apps});
    driver.send_on(HOST, newer).await;
    let began = Instant::now();
    for id in ["p1", "p2", "p3"] {
        tokio::time::sleep(Duration::from_secs(2)).await;
        driver.send_on(HOST, json!({"opcode": "ping", "id": id})).await;
        let answer = driver.status().await;
        assert_eq!(answer["reply_to"], id, "{answer}");
        assert!(acked.try_recv().is_err(), "it is not decided yet");
    }
    assert!(began.elapsed() < Duration::from_secs(10));
    let status = driver.status().await;
    assert_eq!(status["reply_to"], "m1", "{status}");
    assert_eq!(status["errors"][0]["phase"], "check");
    assert!(began.elapsed() >= Duration::from_secs(20));
    acked.await.unwrap();
    // The message behind it had to wait, and is not lost.
    driver.fake.with(|state| state.read_takes = Duration::ZERO);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(last_said(&mut driver).await["reply_to"], "m2");
    assert_eq!(package_versions(&driver), ["a 2-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_still_runs_the_old_version_is_started_anew_once() {
    let mut driver = with_a_at_1().await;
    let apps = a_at_2(&driver);
    driver.set_config("m1", apps).await;
    assert_eq!(driver.said(2).await, ["converging m1", "ok m1"]);
    let restarts = driver
        .fake
        .take_log()
        .into_iter()
        .filter(|line| line == "restart a")
        .count();
    assert_eq!(restarts, 1);
}
