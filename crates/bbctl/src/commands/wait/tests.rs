use serde_json::{Value, json};

use super::*;

/// A host of generation 3, changed by `changes`.
fn host(changes: Value) -> Host {
    let mut host = json!({
        "host_id": "h", "status": "ok", "responding": true, "satisfied": false, "info": {}, "apps": {},
        "generation": 3, "reported_generation": 3, "errors": [], "host_agent": {}, "labels": {}, "boot_id": "",
        "seq": 1, "lost_statuses": 0,
    });
    for (name, value) in changes.as_object().unwrap() {
        host[name] = value.clone();
    }
    serde_json::from_value(host).unwrap()
}

fn error(next_retry: Option<&str>) -> Value {
    let mut error = json!({"app": "web", "phase": "install", "category": "script", "message": "no", "attempt": 1,
        "rolled_back": true});
    if let Some(time) = next_retry {
        error["next_retry"] = time.into();
    }
    error
}

#[test]
fn a_host_is_judged_by_what_it_says_of_this_generation() {
    let held = json!([error(None)]);
    let retried = json!([error(None), error(Some("2026-01-01T00:00:00Z"))]);
    let rejected = json!({"reason": "bad", "timestamp": "2026-01-01T00:00:00Z", "id": "desired-3"});
    let name = |progress: HostProgress| format!("{progress:?}").split('(').next().unwrap().to_owned();
    for (changes, expected) in [
        (json!({"satisfied": true}), "Done"),
        // It was already as desired, so nothing was sent.
        (json!({"satisfied": true, "reported_generation": 1}), "Done"),
        (json!({"satisfied": true, "reported_generation": null}), "Done"),
        (json!({}), "NotYetReached"),
        (json!({"satisfied": true, "generation": 4}), "Superseded"),
        (json!({"status": "missing", "responding": false}), "NeverSeen"),
        (json!({"status": "converging"}), "Converging"),
        (
            json!({"status": "converging", "reported_generation": 2}),
            "NotYetReached",
        ),
        (
            json!({"status": "converging", "reported_generation": null}),
            "Converging",
        ),
        (json!({"status": "converging", "responding": false}), "Silent"),
        (json!({"responding": false}), "Silent"),
        (json!({"status": "errors", "errors": held}), "Failed"),
        (
            json!({"status": "errors", "errors": held, "reported_generation": 2}),
            "NotYetReached",
        ),
        (json!({"status": "errors", "errors": retried}), "Retrying"),
        (
            json!({"last_rejected": rejected, "reported_generation": 2}),
            "Refused",
        ),
        // The refusal is old: the host has accepted this generation since.
        (json!({"last_rejected": rejected, "satisfied": true}), "Done"),
    ] {
        assert_eq!(name(judge(&host(changes.clone()), 3)), expected, "{changes}");
    }
}

#[test]
fn each_application_is_told_of_in_its_own_line() {
    let desired: Apps = serde_json::from_value(json!({"db": {"version": "2"}, "web": {"version": "1.1"},
        "new": {"version": "3"}}))
    .unwrap();
    let app = |version: &str| json!({"version": version, "package_version": version, "running": true});
    let host = host(json!({"apps": {"db": app("2-1"), "web": app("1.0-1"), "old": app("9")}}));
    let expected = [
        ("db", "2-1, running: as desired"),
        ("new", "3 will be installed"),
        ("old", "will be removed"),
        ("web", "1.0-1 is installed, 1.1 desired"),
    ];
    let expected = expected.map(|(name, line)| (name.to_owned(), line.to_owned()));
    assert_eq!(lines(&desired, &host), expected.into());
}
