//! A change that does not hold on a host with systemd. FAULTS.md row 39.

use std::time::{Duration, Instant};

use e2e::app::{app_that_runs, app_with_hook};
use e2e::world::World;
use harness::machine;
use serde_json::json;

#[tokio::test]
async fn a_service_that_dies_after_1_5_or_20_s_is_rolled_back() {
    if machine::skip("a_service_that_dies_after_1_5_or_20_s_is_rolled_back") {
        return;
    }
    let mut world = World::new().await.unwrap();
    let (host, id) = world.managed_host("bake_period = 25").await.unwrap();
    let spec = |version: &str, url: &str| json!({"app": {"version": version, "url": url}});
    let url = world.serve(&app_with_hook("app", "1.0"), &host).unwrap();
    let answer = world.converge(&host, &id, &spec("1.0", &url)).await.unwrap();
    assert_eq!(answer.state(), "ok", "{}", answer.message);

    for seconds in [1, 5, 20] {
        let version = format!("2.{seconds}");
        let dying = app_that_runs("app", &version, &format!("sleep {seconds}; exit 1"));
        let url = world.serve(&dying, &host).unwrap();
        let began = Instant::now();
        let answer = world.converge(&host, &id, &spec(&version, &url)).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(90), "{:?}", began.elapsed());
        assert_eq!(answer.state(), "errors");
        let error = &answer.data("errors")[0];
        assert_eq!(
            (&error["phase"], &error["rolled_back"]),
            (&json!("health"), &json!(true)),
            "{error}"
        );
        assert!(error["next_retry"].is_null(), "a loop: {error}");
        assert_eq!(host.package("app"), "1.0-1 ii");
        assert_eq!(host.show("app", "ActiveState"), "active");
        assert_eq!(host.machine.sh("head -n 1 /run/app.loaded").unwrap(), "1.0\n");
    }

    let url = world.serve(&app_with_hook("app", "3.0"), &host).unwrap();
    let answer = world.converge(&host, &id, &spec("3.0", &url)).await.unwrap();
    assert_eq!(answer.state(), "ok", "{}", answer.message);
    assert_eq!(host.package("app"), "3.0-1 ii");
}
