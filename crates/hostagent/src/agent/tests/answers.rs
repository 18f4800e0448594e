//! An answer is put together from what is known while nothing changes; whatever does change is in the very next one.

use super::*;
use host::InstalledPackage;
use host::fake::FakeState;

/// The answer to a ping that is sent now; then all is said that follows from it.
async fn pinged(driver: &mut Driver, id: &str) -> Value {
    driver.send_on(HOST, json!({"opcode": "ping", "id": id})).await;
    let answer = driver.status().await;
    assert_eq!(answer["reply_to"], id);
    while let Ok(Some(outgoing)) =
        tokio::time::timeout(Duration::from_secs(30), driver.published.recv()).await
    {
        let _ = outgoing.done.send(Ok(()));
    }
    answer
}

async fn with_two_applications() -> Driver {
    let mut driver = started().await;
    let apps = ["a", "b"].map(|app| {
        let url = driver.fake.offer(app, "1-1");
        (
            app.to_owned(),
            json!({"version": "1", "url": url, "config": {"s": {"k": "v"}}}),
        )
    });
    let apps: Value = serde_json::Map::from_iter(apps).into();
    driver.set_config("m1", apps).await;
    driver.said(2).await;
    driver
}

fn package(state: &mut FakeState) -> &mut InstalledPackage {
    state.packages.get_mut("a").unwrap()
}

type Change = fn(&mut FakeState);

#[tokio::test(start_paused = true)]
async fn each_change_of_the_host_is_in_the_very_next_answer() {
    let table: [(&str, Change, &str, Value); 8] = [
        (
            "another version",
            |state| package(state).version = "9-9".into(),
            "/apps/a/package_version",
            json!("9-9"),
        ),
        (
            "a package that broke",
            |state| package(state).broken = true,
            "/apps/a/health",
            json!("failing"),
        ),
        (
            "a package that is gone",
            |state| state.remove("a"),
            "/apps/a",
            Value::Null,
        ),
        (
            "a service that ended",
            |state| state.services.get_mut("a").unwrap().running = false,
            "/apps/a/running",
            json!(false),
        ),
        (
            "a service that was disabled",
            |state| state.services.get_mut("a").unwrap().enabled = Some(false),
            "/apps/a/services/a/enabled",
            json!(false),
        ),
        (
            "a service that is gone",
            |state| {
                state.services.remove("a");
            },
            "/apps/a/services",
            Value::Null,
        ),
        (
            "a contract that is gone",
            |state| {
                state.without_contract.insert("a".into());
            },
            "/apps/a/config",
            json!({}),
        ),
        (
            "an application that somebody else installed",
            |state| {
                let package = InstalledPackage {
                    version: "3".into(),
                    arch: "all".into(),
                    broken: false,
                    waits: false,
                    is_application: true,
                };
                state.packages.insert("c".into(), package);
                state.shipped.insert("c".into(), Default::default());
            },
            "/apps/c/version",
            json!("3"),
        ),
    ];
    for (what, change, place, value) in table {
        let mut driver = with_two_applications().await;
        let before = pinged(&mut driver, "p1").await;
        assert_eq!(before["status"], "ok", "{what}: {before}");
        assert_ne!(before.pointer(place).unwrap_or(&Value::Null), &value, "{what}");
        let again = pinged(&mut driver, "p2").await;
        assert_eq!(again["status"], "ok", "{what}: {again}");
        driver.fake.with(change);
        let after = pinged(&mut driver, "p3").await;
        assert_eq!(
            after.pointer(place).unwrap_or(&Value::Null),
            &value,
            "{what}: {after}"
        );
        assert_eq!(after["status"], "converging", "{what}: it is not as desired");
        assert_eq!(after["apps"]["b"]["package_version"], "1-1", "{what}: {after}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_change_of_what_is_desired_is_in_the_very_next_answer() {
    let mut driver = with_two_applications().await;
    let before = pinged(&mut driver, "p1").await;
    assert_eq!(before["apps"]["a"]["version"], "1");
    assert_eq!(before["generation"], Value::Null);

    // The same in other words, and of a later generation: nothing on the host changes.
    let urls = ["a", "b"].map(|app| driver.fake.offer(app, "1-1"));
    let apps = json!({"a": {"version": "1-1", "url": urls[0]}, "b": {"version": "1", "url": urls[1]}});
    let message = json!({"opcode": "set_config", "id": "m2", "generation": 7, "data": apps});
    driver.send_on(HOST, message).await.await.unwrap();
    assert_eq!(driver.said(1).await, ["ok m2"]);
    let after = pinged(&mut driver, "p2").await;
    assert_eq!(after["apps"]["a"]["version"], "1-1", "as desired by now");
    assert_eq!(after["generation"], 7);

    let refused = json!({"opcode": "set_config", "id": "m3", "data": {"../x": {"version": "1"}}});
    driver.send_on(HOST, refused).await.await.unwrap();
    let told = driver.status().await;
    assert_eq!(told["status"], "errors");
    assert_eq!(told["apps"]["a"]["version"], "1-1");
    let after = pinged(&mut driver, "p3").await;
    assert_eq!(after["last_rejected"]["id"], "m3");

    // What cannot be: the answers tell of the error, and of the host as it is beside it.
    let message = json!({"a": {"version": "5", "url": "http://fake/nowhere.deb"}, "b": {"version": "1", "url": urls[1]}});
    driver.set_config("m4", message).await;
    while driver.status().await["status"] != "errors" {}
    let after = pinged(&mut driver, "p4").await;
    assert_eq!(after["status"], "errors");
    assert_eq!(after["errors"][0]["app"], "a");
    assert_eq!(after["apps"]["a"]["version"], "1-1", "not as desired: its own");
}

#[tokio::test(start_paused = true)]
async fn time_alone_shows_in_the_very_next_answer() {
    let mut driver = with_two_applications().await;
    let before = pinged(&mut driver, "p1").await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    let after = pinged(&mut driver, "p2").await;
    let age = |answer: &Value| answer["apps"]["a"]["config_age_s"].as_u64().unwrap();
    assert!(age(&after) >= age(&before) + 100, "{before} {after}");
    let seq = |answer: &Value| answer["seq"].as_u64().unwrap();
    assert_eq!(seq(&after), seq(&before) + 1);
}
