//! What others change while the agent is at work.

use super::*;

/// Its own config, as some do when a new version first starts.
#[tokio::test(start_paused = true)]
async fn a_config_that_is_changed_while_a_change_is_watched_is_seen_before_it_counts_as_done() {
    let mut driver = started().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.conf");
    driver
        .fake
        .with(|state| state.watched_files.insert("a".into(), file.clone()));
    let apps = |driver: &Driver, version: &str| {
        let url = driver.fake.offer("a", &format!("{version}-1"));
        json!({"a": {"version": version, "url": url, "config": {"s": {"k": "v"}}}})
    };
    driver.set_config("m1", apps(&driver, "1")).await;
    assert_eq!(driver.said(2).await, ["converging m1", "ok m1"]);
    driver.set_config("m2", apps(&driver, "2")).await;
    assert_eq!(driver.said(1).await, ["converging m2"]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    driver.fake.take_log();
    driver.fake.with(|state| {
        let config = serde_json::from_value(json!({"s": {"k": "its own"}})).unwrap();
        state.configs.insert("a".into(), config);
    });
    std::fs::write(&file, "changed").unwrap();
    let status = driver.status().await;
    assert_eq!(brief(&status), "ok m2");
    assert_eq!(
        status["apps"]["a"]["config"],
        json!({"s": {"k": "v"}}),
        "{status}"
    );
    assert_eq!(driver.fake.take_log(), ["config a"]);
}

#[tokio::test(start_paused = true)]
async fn what_dies_while_something_else_is_brought_up_is_started_again_with_it() {
    let mut driver = started().await;
    let (a, b) = (driver.fake.offer("a", "1-1"), driver.fake.offer("b", "1-1"));
    let a = json!({"version": "1", "url": a});
    driver.set_config("m1", json!({"a": a})).await;
    assert_eq!(driver.said(2).await, ["converging m1", "ok m1"]);
    driver
        .fake
        .with(|state| state.start_takes = Duration::from_secs(5));
    let both = json!({"a": a, "b": {"version": "1", "url": b}});
    driver.set_config("m2", both).await;
    assert_eq!(driver.said(1).await, ["converging m2"]);
    // In the midst of the watch over b.
    tokio::time::sleep(Duration::from_secs(10)).await;
    driver.fake.take_log();
    driver.fake.with(|state| {
        state.services.get_mut("a").unwrap().running = false;
        state.changes.report("a");
    });
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(driver.said(1).await, ["ok m2"]);
    let log = driver.fake.take_log();
    assert!(log.ends_with(&["start a".to_owned()]), "{log:?}");
    assert!(driver.fake.with(|state| state.services["a"].running));
    driver.quiet().await;
}
