//! Messages that must change nothing, over the wire: FAULTS.md rows 14, 15, 17, 18 and 19.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use harness::driver::Received;
use harness::packages::{Family, example_app};
use serde_json::{Value, json};

use super::world::{World, spec};

/// What no such message may touch.
#[derive(Debug, PartialEq)]
struct Untouched {
    files: BTreeMap<PathBuf, Vec<u8>>,
    config: Value,
    /// The application's process.
    pid: String,
    running: bool,
}

impl Untouched {
    fn of(world: &World) -> Self {
        Self {
            files: world.host.snapshot(),
            config: world.host.config("alpha"),
            pid: world.host.sandbox.read("/run/alpha.pid").unwrap(),
            running: world.host.runs("alpha"),
        }
    }
}

#[tokio::test]
async fn messages_that_are_not_valid_are_answered_and_change_nothing() {
    let mut world = World::new(Family::Deb).await;
    let url = world.serve(&example_app("alpha", "1.0"));
    let _agent = world.start_agent().await;
    let desired = json!({"alpha": spec("1.0", &url)});
    let message = json!({"opcode": "set_config", "id": "first", "generation": 7, "data": desired});
    world.master.publish("host-1", &message).await.unwrap();
    let installed = |status: &Received| status.reply_to() == Some("first") && status.state() == "ok";
    let installed = world.heard("alpha is installed", installed).await;
    world.host.assert_is(&desired, &installed);
    let before = Untouched::of(&world);

    for (what, body, path) in refused(&url) {
        let sent = world.master.publish_bytes("host-1", &body).await.unwrap();
        assert!(sent.routed);
        is_refused(&mut world, &what, path).await;
        assert_eq!(Untouched::of(&world), before, "{what}");
    }
    let sent = world
        .master
        .publish_repeated("host-1", &[b'['; 1 << 20], 100)
        .await
        .unwrap();
    assert!(sent.routed);
    is_refused(&mut world, "100 MB", "$").await;

    is_refused_as_stale(&mut world, &url).await;
    assert_eq!(Untouched::of(&world), before, "an older generation");
    is_ignored_and_counted(&mut world).await;
    assert_eq!(Untouched::of(&world), before, "an unknown opcode");
    a_duplicate_is_answered_only(&mut world, &message).await;
    assert_eq!(Untouched::of(&world), before, "a duplicate");
}

/// Name, body, and the path that the answer must name.
fn refused(url: &str) -> Vec<(String, Vec<u8>, &'static str)> {
    let with_app = |name: &str| json!({"opcode": "set_config", "data": {name: spec("1.0", url)}}).to_string();
    let set_config = |data: &str| format!(r#"{{"opcode": "set_config", "data": {data}}}"#);
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let too_long = set_config(&format!(r#"{{"alpha": "{}"}}"#, "x".repeat(1 << 20)));
    let mut bodies: Vec<(String, Vec<u8>, &'static str)> = Vec::new();
    let mut add = |what: &str, body: String, path| bodies.push((what.to_owned(), body.into_bytes(), path));
    add("empty", String::new(), "$");
    add("cut off", r#"{"opcode": "set_conf"#.into(), "$");
    add("no object", "[]".into(), "$");
    add("no opcode", r#"{"data": {}}"#.into(), "$.opcode");
    add("no data", r#"{"opcode": "set_config"}"#.into(), "$.data");
    add("null for data", set_config("null"), "$.data");
    add("nesting 10,000 deep", set_config(&deep), "$.data");
    add("over 1 MiB", too_long, "$");
    add(
        "NaN",
        set_config(r#"{"alpha": {"version": "1.0", "rank": NaN}}"#),
        "$.data.alpha.rank",
    );
    add(
        "duplicate application",
        set_config(r#"{"alpha": {"version": "1.0"}, "alpha": {"version": "2.0"}}"#),
        "$.data.alpha",
    );
    add(
        "duplicate key",
        set_config(r#"{"alpha": {"version": "1.0", "version": "2.0"}}"#),
        "$.data.alpha.version",
    );
    add(
        "no version",
        set_config(r#"{"alpha": {}}"#),
        "$.data.alpha.version",
    );
    add(
        "a number for a version",
        set_config(r#"{"alpha": {"version": 2}}"#),
        "$.data.alpha.version",
    );
    add(
        "a string for running",
        set_config(r#"{"alpha": {"version": "1.0", "running": "no"}}"#),
        "$.data.alpha.running",
    );
    let long_name = "x".repeat(10_000);
    for name in [
        "-h",
        "../x",
        "--eval=%(id)",
        "",
        long_name.as_str(),
        "nul\0name",
        "a b",
        "slaves",
        "host-1",
    ] {
        let shown: String = name.chars().take(20).collect();
        add(&format!("named {shown:?}"), with_app(name), "$.data");
    }
    let mut not_utf8 = with_app("alpha").into_bytes();
    let place = not_utf8.len() - 6;
    not_utf8[place] = 0xff;
    bodies.push(("not UTF-8".into(), not_utf8, "$"));
    bodies
}

/// One answer, which says what is wrong and where; then the truth again, with the refusal kept.
async fn is_refused(world: &mut World, what: &str, path: &str) {
    let answer = world.heard(&format!("the answer to: {what}"), |_| true).await;
    assert_eq!(answer.state(), "errors", "{what}");
    let error = &answer.data("errors")[0];
    assert_eq!(error["phase"], "decode", "{what}: {error}");
    let reason = error["message"].as_str().unwrap();
    assert!(reason.starts_with(path), "{what}: {reason}, not {path}");
    assert!(
        reason.len() < 500,
        "{what}: {} characters of reason",
        reason.len()
    );

    let answer = world.answer_to_ping("host-1").await;
    assert_eq!(answer.state(), "ok", "after: {what}");
    assert_eq!(answer.data("last_rejected")["reason"], reason);
}

/// Row 15.
async fn is_refused_as_stale(world: &mut World, url: &str) {
    let older =
        json!({"opcode": "set_config", "id": "old", "generation": 6, "data": {"alpha": spec("0.9", url)}});
    world.master.publish("host-1", &older).await.unwrap();
    let answer = world.heard("the answer to a stale message", |_| true).await;
    assert_eq!((answer.state(), answer.reply_to()), ("ok", Some("old")));
    assert_eq!(answer.data("generation"), 7);
    let reason = answer.data("last_rejected")["reason"].as_str().unwrap();
    assert!(reason.contains("stale"), "{reason}");
}

/// Row 19: three of one kind, one log line.
async fn is_ignored_and_counted(world: &mut World) {
    for _ in 0..3 {
        let unknown = json!({"opcode": "dance", "data": {"alpha": {"version": "9"}}});
        world.master.publish("host-1", &unknown).await.unwrap();
    }
    let came = world.master.listen(Duration::from_millis(300)).await.unwrap();
    assert!(came.is_empty(), "{came:?}");
    assert_eq!(world.answer_to_ping("host-1").await.state(), "ok");
    let lines = world
        .host
        .log()
        .lines()
        .filter(|line| line.contains("dance"))
        .count();
    assert_eq!(lines, 1);
}

/// Row 14, and an unknown field (row 19): byte for byte what was sent at first, but for that field.
async fn a_duplicate_is_answered_only(world: &mut World, message: &Value) {
    let mut with_unknown_field = message.clone();
    with_unknown_field["data"]["alpha"]["colour"] = json!("blue");
    with_unknown_field["sent_by"] = json!("someone");
    for duplicate in [message, &with_unknown_field] {
        world.master.publish("host-1", duplicate).await.unwrap();
        let answer = world.heard("the answer to a duplicate", |_| true).await;
        assert_eq!((answer.state(), answer.reply_to()), ("ok", Some("first")));
    }
    let came = world.master.listen(Duration::from_millis(300)).await.unwrap();
    assert!(came.is_empty(), "{came:?}");
}
