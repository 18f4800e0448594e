//! In which order applications are brought to where they should be, and which of them at the same time.

use super::*;

#[tokio::test(start_paused = true)]
async fn services_of_one_rank_start_side_by_side_and_ranks_one_after_the_other() {
    let mut driver = started().await;
    driver
        .fake
        .with(|state| state.start_takes = Duration::from_secs(10));
    let mut apps = serde_json::Map::new();
    for (name, rank) in [
        ("db", json!(1)),
        ("a", json!(2)),
        ("b", json!(2)),
        ("c", json!("2.0")),
        ("last", Value::Null),
    ] {
        let url = driver.fake.offer(name, "1-1");
        let mut app = json!({"version": "1", "url": url, "config": {"s": {"k": "v"}}});
        if !rank.is_null() {
            app["rank"] = rank;
        }
        apps.insert(name.to_owned(), app);
    }
    let began = Instant::now();
    driver.set_config("m1", Value::Object(apps)).await;
    assert_eq!(driver.said(1).await, ["converging m1"]);
    tokio::time::sleep(Duration::from_secs(15)).await;
    driver.send_on(HOST, json!({"opcode": "ping", "id": "p1"})).await;
    let status = driver.status().await;
    assert_eq!(status["detail"], "a: start a; b: start b; c: start c", "{status}");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(driver.said(1).await, ["ok m1"]);
    // 10 s for each rank, and 10 s of watching.
    let seconds = began.elapsed().as_secs_f64();
    assert!((40.0..42.0).contains(&seconds), "{seconds}");
    let log = driver.fake.take_log();
    let settled: Vec<&str> = log
        .iter()
        .map(String::as_str)
        .skip_while(|line| *line != "config db")
        .collect();
    assert_eq!(
        settled,
        [
            "config db",
            "enable db",
            "start db",
            "config a",
            "config b",
            "config c",
            "enable a",
            "enable b",
            "enable c",
            "start a",
            "start b",
            "start c",
            "config last",
            "enable last",
            "start last",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn of_many_services_eight_start_at_a_time() {
    let mut driver = started().await;
    driver
        .fake
        .with(|state| state.start_takes = Duration::from_secs(5));
    let apps: serde_json::Map<String, Value> = (0..17)
        .map(|number| {
            let name = format!("app-{number:02}");
            let url = driver.fake.offer(&name, "1-1");
            (name, json!({"version": "1", "url": url}))
        })
        .collect();
    let began = Instant::now();
    driver.set_config("m1", Value::Object(apps)).await;
    assert_eq!(driver.said(1).await, ["converging m1"]);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(driver.said(1).await, ["ok m1"]);
    let seconds = began.elapsed().as_secs_f64();
    assert!((25.0..27.0).contains(&seconds), "{seconds}");
}

#[tokio::test(start_paused = true)]
async fn what_is_tied_to_a_failed_one_is_not_started_after_it() {
    let mut driver = started().await;
    let error = HostError::new(Category::Script, "no");
    driver
        .fake
        .with(|state| state.failures.push(("enable a".to_owned(), error)));
    driver
        .fake
        .with(|state| state.start_takes = Duration::from_secs(5));
    let (a, b, c) = (
        driver.fake.offer("a", "1-1"),
        driver.fake.offer("b", "1-1"),
        driver.fake.offer("c", "1-1"),
    );
    let apps = json!({
        "a": {"version": "1", "url": a},
        "b": {"version": "1", "url": b, "requires": ["a"]},
        "c": {"version": "1", "url": c},
    });
    driver.set_config("m1", apps).await;
    assert_eq!(driver.said(1).await, ["converging m1"]);
    let status = driver.status().await;
    assert_eq!(status["status"], "errors", "{status}");
    let log = driver.fake.take_log();
    let started: Vec<&String> = log.iter().filter(|line| line.starts_with("start ")).collect();
    assert_eq!(started, ["start c"]);
}

/// As between two that take the same port.
#[tokio::test(start_paused = true)]
async fn within_a_rank_what_is_to_stop_stops_before_the_rest_starts() {
    let mut driver = started().await;
    let (a, b) = (driver.fake.offer("a", "1-1"), driver.fake.offer("b", "1-1"));
    let apps = |a_runs: bool| {
        json!({
            "a": {"version": "1", "url": a, "running": a_runs},
            "b": {"version": "1", "url": b, "running": !a_runs},
        })
    };
    for (id, a_runs, expected) in [
        ("m1", false, &["start b"][..]),
        ("m2", true, &["stop b", "start a"]),
        ("m3", false, &["stop a", "start b"]),
    ] {
        driver.set_config(id, apps(a_runs)).await;
        assert_eq!(
            driver.said(2).await,
            [format!("converging {id}"), format!("ok {id}")]
        );
        let log = driver.fake.take_log();
        let changed: Vec<&String> = log
            .iter()
            .filter(|line| line.starts_with("start ") || line.starts_with("stop "))
            .collect();
        assert_eq!(changed, expected);
    }
}

/// Four applications, of two ranks and of none.
fn ranked(driver: &Driver, version: &str) -> Value {
    let apps = [
        ("a", json!(2)),
        ("b", json!(2)),
        ("db", json!(1)),
        ("last", Value::Null),
    ];
    let apps = apps.into_iter().map(|(name, rank)| {
        let url = driver.fake.offer(name, &format!("{version}-1"));
        let mut app = json!({"version": version, "url": url});
        if !rank.is_null() {
            app["rank"] = rank;
        }
        (name.to_owned(), app)
    });
    Value::Object(apps.collect())
}

/// [`ranked`] on its way from 1 to 2, during its restarts of 10 s each.
async fn upgrading() -> Driver {
    let mut driver = started().await;
    let apps = ranked(&driver, "1");
    driver.set_config("m1", apps).await;
    assert_eq!(driver.said(2).await, ["converging m1", "ok m1"]);
    driver.fake.take_log();
    driver
        .fake
        .with(|state| state.start_takes = Duration::from_secs(10));
    let apps = ranked(&driver, "2");
    driver.set_config("m2", apps).await;
    assert_eq!(driver.said(1).await, ["converging m2"]);
    driver
}

fn restarted(driver: &Driver) -> Vec<String> {
    let log = driver.fake.take_log().into_iter();
    log.filter(|line| line.starts_with("restart ")).collect()
}

#[tokio::test(start_paused = true)]
async fn what_runs_the_previous_version_is_restarted_in_the_order_of_ranks_and_side_by_side() {
    let mut driver = upgrading().await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    driver.send_on(HOST, json!({"opcode": "ping", "id": "p1"})).await;
    let status = driver.status().await;
    assert_eq!(status["detail"], "a: restart a; b: restart b", "{status}");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(driver.said(1).await, ["ok m2"]);
    assert_eq!(
        restarted(&driver),
        ["restart db", "restart a", "restart b", "restart last"]
    );
}

/// It would else wait for services that are no longer desired.
#[tokio::test(start_paused = true)]
async fn a_newer_desired_state_does_not_wait_for_the_restarts_of_all() {
    let mut driver = upgrading().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut apps = ranked(&driver, "2");
    apps.as_object_mut().unwrap().remove("last");
    driver.set_config("m3", apps).await;
    // Once as the answer, once as the attempt for it begins.
    assert_eq!(driver.said(2).await, ["converging m3", "converging m3"]);
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(driver.said(1).await, ["ok m3"]);
    assert_eq!(restarted(&driver), ["restart db", "restart a", "restart b"]);
}

/// An init system that does not tell one process from another, as SysV's, and a journal that cannot be written.
#[tokio::test(start_paused = true)]
async fn a_restart_that_cannot_be_noted_is_not_made_again_and_again() {
    let driver = upgrading().await;
    std::fs::create_dir(driver.state_dir.path().join(".progress.json.new")).unwrap();
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(
        restarted(&driver),
        ["restart db", "restart a", "restart b", "restart last"]
    );
}
