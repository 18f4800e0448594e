//! A held application is still supervised, and is tried again as soon as anything changes that made it fail. Drift is
//! repaired without a rollback.

use host::HostError;
use protocol::{AppName, Category};

use super::*;

fn failure(category: Category, message: &str) -> HostError {
    HostError::new(category, message)
}

/// An agent with application `a` at 1, running.
async fn with_a_at_1() -> Driver {
    let mut driver = started().await;
    let url = driver.fake.offer("a", "1-1");
    let apps = json!({"a": {"version": "1", "url": url, "config": {"s": {"k": "old"}}}});
    driver.set_config("m0", apps).await;
    assert_eq!(driver.said(2).await, ["converging m0", "ok m0"]);
    driver.fake.take_log();
    driver
}

/// The final status after what follows from the present.
async fn outcome(driver: &mut Driver) -> Value {
    loop {
        let status = next_within(driver, 400).await.unwrap();
        if status["status"] != "converging" {
            return status;
        }
    }
}

/// The next status within so many seconds.
async fn next_within(driver: &mut Driver, seconds: u64) -> Option<Value> {
    let next = driver.published.recv();
    let outgoing = tokio::time::timeout(Duration::from_secs(seconds), next).await;
    let outgoing = outgoing.ok()??;
    let message: Value = serde_json::from_slice(&outgoing.body).unwrap();
    let _ = outgoing.done.send(Ok(()));
    Some(message["data"].clone())
}

/// Has the agent look, as it does at a heartbeat; gives what it says in the end.
async fn looked_at(driver: &mut Driver) -> Value {
    driver
        .send_on(HOST, json!({"opcode": "ping", "id": "look"}))
        .await;
    let mut last = driver.status().await;
    // Longer than a bake.
    while let Some(status) = next_within(driver, 12).await {
        last = status;
    }
    last
}

fn stop_by_hand(driver: &Driver, service: &str) {
    driver.fake.with(|state| {
        state.services.get_mut(service).unwrap().running = false;
        state.changes.report(service);
    });
}

fn runs(driver: &Driver, service: &str) -> bool {
    driver.fake.with(|state| state.services[service].running)
}

/// `a` at 2 fails by `operation` and is held.
async fn held_at_2(driver: &mut Driver, operation: &str, error: HostError) -> Value {
    driver
        .fake
        .with(|state| state.failures.push((operation.to_owned(), error)));
    let url = driver.fake.offer("a", "2-1");
    let apps = json!({"a": {"version": "2", "url": url, "config": {"s": {"k": "new"}}}});
    driver.set_config("m1", apps).await;
    let status = outcome(driver).await;
    assert_eq!(status["status"], "errors", "{status}");
    driver.fake.take_log();
    status
}

#[tokio::test(start_paused = true)]
async fn what_was_rolled_back_is_supervised_at_what_it_was() {
    let mut driver = with_a_at_1().await;
    let status = held_at_2(&mut driver, "config a", failure(Category::Script, "refused")).await;
    assert_eq!(status["errors"][0]["rolled_back"], true);
    stop_by_hand(&driver, "a");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(driver.fake.take_log(), ["start a"]);
    assert!(runs(&driver, "a"));
    let status = looked_at(&mut driver).await;
    assert_eq!(status["errors"][0]["message"], "refused", "{status}");
    assert_eq!(status["errors"][0]["rolled_back"], true, "{status}");
    // Its config is kept, too: that of the version that it was rolled back to.
    driver.fake.with(|state| {
        let config = serde_json::from_value(json!({"s": {"k": "by hand"}})).unwrap();
        state.configs.insert("a".into(), config);
    });
    driver.agent.as_ref().unwrap().retry_failed();
    assert_eq!(outcome(&mut driver).await["status"], "ok");
}

#[tokio::test(start_paused = true)]
async fn what_was_never_touched_is_supervised_as_it_is() {
    let mut driver = with_a_at_1().await;
    let error = failure(Category::Dependency, "a needs libx");
    let status = held_at_2(&mut driver, "check +a=2-1", error).await;
    assert_eq!(status["errors"][0]["rolled_back"], false);
    assert_eq!(status["errors"][0]["phase"], "check");
    stop_by_hand(&driver, "a");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(driver.fake.take_log(), ["start a"]);
}

#[tokio::test(start_paused = true)]
async fn a_rollback_that_does_not_hold_is_not_called_one() {
    let mut driver = with_a_at_1().await;
    held_at_2(&mut driver, "config a", failure(Category::Script, "refused")).await;
    driver.fake.with(|state| state.dying.insert("a".into()));
    stop_by_hand(&driver, "a");
    tokio::time::sleep(Duration::from_secs(20)).await;
    let status = looked_at(&mut driver).await;
    let error = &status["errors"][0];
    assert_eq!(error["rolled_back"], false, "{status}");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.starts_with("refused. ") && message.contains("repair tried"),
        "{message}"
    );
    assert!(error["next_retry"].is_string(), "{status}");
    // It is repaired as soon as it can be.
    driver.fake.with(|state| state.dying.clear());
    tokio::time::sleep(Duration::from_secs(310)).await;
    assert!(runs(&driver, "a"));
    assert_eq!(looked_at(&mut driver).await["errors"][0]["rolled_back"], true);
}

/// What changes, and whether `a` is then brought to 2.
type Cause = (&'static str, fn(&mut host::fake::FakeState));

#[tokio::test(start_paused = true)]
async fn each_cause_of_a_failure_that_changes_ends_the_hold() {
    let causes: [Cause; 3] = [
        ("its manifest", |state| {
            state.watched_files.insert("a".into(), "/etc/a.conf".into());
        }),
        ("its package", |state| {
            state.packages.get_mut("a").unwrap().version = "1-2".into()
        }),
        ("a unit that was masked", |state| {
            state.services.get_mut("a").unwrap().masked = false
        }),
    ];
    for (what, change) in causes {
        let mut driver = with_a_at_1().await;
        driver
            .fake
            .with(|state| state.services.get_mut("a").unwrap().masked = true);
        held_at_2(&mut driver, "config a", failure(Category::Script, "refused")).await;
        let status = looked_at(&mut driver).await;
        assert_eq!(status["status"], "errors", "{what}: nothing has changed yet");
        assert_eq!(driver.fake.take_log(), [""; 0], "{what}");
        driver.fake.with(change);
        let status = looked_at(&mut driver).await;
        assert_eq!(status["status"], "ok", "{what}: {status}");
        assert_eq!(status["apps"]["a"]["package_version"], "2-1", "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_repository_offered_is_tried_when_the_package_lists_are_refreshed() {
    let mut driver = started().await;
    driver.set_config("m1", json!({"a": {"version": "1"}})).await;
    let status = outcome(&mut driver).await;
    assert_eq!(status["errors"][0]["category"], "not_found", "{status}");
    assert_eq!(looked_at(&mut driver).await["status"], "errors");
    driver.fake.with(|state| {
        state.repository.insert("a".into(), vec!["1-1".into()]);
        state.lists_stamp = Some(std::time::SystemTime::now());
    });
    driver.fake.offer("a", "1-1");
    let status = looked_at(&mut driver).await;
    assert_eq!(status["apps"]["a"]["package_version"], "1-1", "{status}");
}

#[tokio::test(start_paused = true)]
async fn a_fault_is_an_error_as_long_as_it_is_there_and_the_services_are_kept_meanwhile() {
    let mut driver = with_a_at_1().await;
    let broken = failure(Category::Invalid, "a.toml:3: services: expected a list");
    driver
        .fake
        .with(|state| state.broken_contracts.insert("a".into(), broken));
    let status = looked_at(&mut driver).await;
    assert_eq!(status["errors"][0]["phase"], "configure", "{status}");
    driver.fake.take_log();
    stop_by_hand(&driver, "a");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(driver.fake.take_log(), ["start a"]);
    driver.fake.with(|state| state.broken_contracts.clear());
    let status = looked_at(&mut driver).await;
    assert_eq!(
        status["status"], "ok",
        "the error is that of a cause that has gone: {status}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_repair_that_fails_is_repeated_until_it_succeeds_and_is_no_rollback() {
    let mut driver = with_a_at_1().await;
    driver.fake.with(|state| {
        let missing = failure(Category::Script, "the mount is missing");
        state
            .failures
            .extend((0..5).map(|_| ("start a".to_owned(), missing.clone())));
    });
    stop_by_hand(&driver, "a");
    let mut attempts = Vec::new();
    loop {
        let status = outcome(&mut driver).await;
        if status["status"] == "ok" {
            break;
        }
        let error = &status["errors"][0];
        assert_eq!(error["rolled_back"], false, "{status}");
        assert!(error["next_retry"].is_string(), "{status}");
        attempts.push(error["attempt"].as_u64().unwrap());
    }
    assert_eq!(attempts, [1, 2, 3, 4, 5]);
    let log = driver.fake.take_log();
    assert_eq!(log, ["start a"; 6], "nothing else was done");
}

#[tokio::test(start_paused = true)]
async fn a_repair_does_not_wait_for_the_bake_of_another_application() {
    let mut driver = with_a_at_1().await;
    let a = json!({"version": "1", "url": driver.fake.offer("a", "1-1"), "config": {"s": {"k": "old"}}});
    let b = json!({"version": "1", "url": driver.fake.offer("b", "1-1")});
    driver.set_config("m1", json!({"a": a, "b": b})).await;
    assert_eq!(driver.said(1).await, ["converging m1"]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    driver.fake.take_log();
    stop_by_hand(&driver, "a");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(driver.fake.take_log(), ["start a"], "b is watched for 10 s");
    assert_eq!(outcome(&mut driver).await["status"], "ok");
}

/// It dies 9 s after each start: longer than it takes to notice, and than a look takes.
#[tokio::test(start_paused = true)]
async fn a_service_that_dies_again_and_again_is_unhealthy_until_it_has_been_quiet() {
    let mut driver = with_a_at_1().await;
    let mut last = Value::Null;
    for _ in 0..7 {
        tokio::time::sleep(Duration::from_secs(9)).await;
        stop_by_hand(&driver, "a");
        while let Some(status) = next_within(&mut driver, 12).await {
            last = status;
        }
    }
    let error = &last["errors"][0];
    assert_eq!(error["category"], "unhealthy", "{last}");
    assert!(error["message"].as_str().unwrap().contains("in 5 min"), "{last}");
    assert_eq!(error["rolled_back"], false);
    // It is repaired all the same, after a pause.
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!(runs(&driver, "a"));
    let status = looked_at(&mut driver).await;
    assert_eq!(
        status["status"], "errors",
        "it has not been quiet for long: {status}"
    );
    // And by itself it is well again.
    while let Some(status) = next_within(&mut driver, 320).await {
        last = status;
    }
    assert_eq!(last["status"], "ok", "{last}");
}

/// A service that is to run from now on cannot be started, and meanwhile somebody starts it.
#[tokio::test(start_paused = true)]
async fn a_service_that_somebody_starts_while_a_try_of_ours_fails_is_left_running() {
    let mut driver = started().await;
    let url = driver.fake.offer("a", "1-1");
    let stopped = json!({"a": {"version": "1", "url": url, "running": false}});
    driver.set_config("m0", stopped).await;
    assert_eq!(driver.said(2).await, ["converging m0", "ok m0"]);
    driver.fake.with(|state| {
        state
            .failures
            .push(("start a".into(), failure(Category::Script, "the unit is masked")));
        state.started_externally.push(("start a".into(), "a".into()));
    });
    driver.fake.take_log();
    driver
        .set_config("m1", json!({"a": {"version": "1", "url": url}}))
        .await;
    outcome(&mut driver).await;
    let log = driver.fake.take_log();
    assert!(runs(&driver, "a"), "{log:?}");
    assert!(!log.contains(&"stop a".to_owned()), "{log:?}");
}

/// What an agent before version 0.2 has left.
#[tokio::test(start_paused = true)]
async fn the_state_files_of_older_agents_are_taken_over() {
    use crate::engine::book::ProgressBook;
    use crate::engine::progress::Progress;
    use crate::ledger::{Ledger, Scope};
    use protocol::SetConfig;

    let state_dir = tempfile::tempdir().unwrap();
    let apps = json!({
        "held": {"version": "2"}, "stuck": {"version": "2"}, "back": {"version": "2"}, "forward": {"version": "2"},
    });
    let ledger = Ledger::open(state_dir.path(), HostId::new(HOST).unwrap()).unwrap();
    let message = SetConfig {
        id: None,
        generation: None,
        only_if_plan: None,
        retry: false,
        apps: serde_json::from_value(apps.clone()).unwrap(),
    };
    ledger.accept(message, &Scope::Host).unwrap();
    let error = |app: &str, phase: &str| json!({"app": app, "phase": phase, "category": "script", "message": "why", "attempt": 3, "rolled_back": phase != "rollback"});
    let outcome = json!({"apps": apps, "errors": [error("held", "health"), error("stuck", "rollback")]});
    let snapshot = json!({"installed": {
        "package": "p", "version": "1-1", "way_back": {"from": "file", "path": "/k/p.deb"}, "record": null, "config": {},
        "services": {"s": {"running": true, "enabled": true, "instance": 7}}, "files": [],
    }});
    let failed =
        json!({"phase": "health", "category": "unhealthy", "message": "it died", "rolled_back": false});
    let journal = json!({"desired": apps, "crashes": 1, "stopped": true, "in_transaction": ["forward"], "entries": {
        "stuck": {"before": snapshot, "doomed": failed},
        "back": {"before": "absent", "doomed": failed, "purge": "back"},
        "forward": {"before": snapshot},
    }});
    for (name, document) in [("outcome.json", &outcome), ("journal.json", &journal)] {
        crate::state_file::StateFile::new(state_dir.path().join(name))
            .store(document)
            .unwrap();
    }

    let book = ProgressBook::open(state_dir.path(), &ledger).unwrap();
    let of = |app: &str| book.get(&AppName::new(app).unwrap()).unwrap();
    assert!(matches!(of("held"), Progress::Held { rolled_back: true, trouble, .. } if trouble.attempts == 3));
    assert!(matches!(of("stuck"), Progress::Stuck { trouble, .. } if trouble.failure.message == "why"));
    assert!(matches!(of("back"), Progress::RollingBack { failure, .. } if failure.message == "it died"));
    let Progress::Applying { change } = of("forward") else {
        panic!("{:?}", of("forward"));
    };
    assert!(change.unfinished.in_transaction);
    assert_eq!(change.crashes, 1, "the older agent had stopped in good order");
    for name in ["outcome.json", "journal.json"] {
        assert!(!state_dir.path().join(name).exists(), "{name}");
    }
    drop(book);
    let again = ProgressBook::open(state_dir.path(), &ledger).unwrap();
    assert_eq!(again.apps().len(), 4);
}
