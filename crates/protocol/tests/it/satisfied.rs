//! When the observed state satisfies the desired state.

use std::collections::BTreeMap;

use protocol::satisfied::{app_satisfied, apps_satisfied, config_satisfied, same_value, version_satisfied};
use protocol::status::{Health, ServiceStatus};
use protocol::{AppName, AppSpec, AppStatus, Apps, Config};
use serde_json::{Value, json};

use crate::arbitrary::plain_spec;

#[test]
fn versions() {
    // desired, installed, satisfied
    let table = [
        ("1.2-3", "1.2-3", true),
        ("1.2-3", "0:1.2-3", true),
        ("0:1.2-3", "1.2-3", true),
        ("00:1.2-3", "1.2-3", true),
        ("1.2-3", "1.2-4", false),
        ("1.2-3", "1:1.2-3", false),
        ("1:1.2-3", "1.2-3", false),
        ("1:1.2-3", "1:1.2-3", true),
        ("1.2", "1.2", true),
        ("1.2", "1.2-3", true),
        ("1.2", "1:1.2-3", true),
        ("1.2", "7:1.2", true),
        ("1:1.2", "1:1.2-3", true),
        ("1:1.2", "2:1.2-3", false),
        ("1.2", "1.20-3", false),
        ("1.2", "1.2.1-3", false),
        ("1.2", "1.2~rc1-3", false),
        ("1.2", "1.2+git1-3", false),
        ("1.2-3", "1.2", false),
        ("2025-01", "2025-01-3", true),
        ("2025-01", "2025-02-3", false),
        ("1.2-3", "1.2-3.el9", false),
        ("", "1.2", false),
        ("*", "1.2-3", true),
        ("*", "1:1.2-3", true),
        ("1.2*", "1.20-3", true),
        ("1.22.*", "1.22.9-1", true),
        ("1.22.*", "1:1.22.0+git1-1", true),
        ("1.22.*", "1.22-1", false),
        ("1.22.*", "1.220.1-1", false),
        ("1.22-*", "1.22-7", true),
        ("2:1.22.*", "2:1.22.1-1", true),
        ("2:1.22.*", "1.22.1-1", false),
        ("2:*", "2:7-1", true),
        ("2:*", "7-1", false),
        // Nowhere but at the end.
        ("1.*.2", "1.1.2-3", false),
        ("*.2", "1.2", false),
    ];
    for (desired, installed, satisfied) in table {
        assert_eq!(
            version_satisfied(desired, installed),
            satisfied,
            "{desired} by {installed}"
        );
    }
}

#[test]
fn config_values() {
    let table = [
        (json!("a"), json!("a"), true),
        (json!("a"), json!("A"), false),
        (json!(8080), json!("8080"), true),
        (json!("8080"), json!(8080), true),
        (json!(8080), json!("08080"), false),
        (json!(1), json!(1.0), true),
        (json!(0), json!(-0.0), true),
        (json!(1.5), json!("1.5"), true),
        // As numbers they are equal, but a version is not a number.
        (json!("1.10"), json!(1.1), false),
        (
            json!(9_007_199_254_740_993_u64),
            json!(9_007_199_254_740_992_u64),
            false,
        ),
        (json!(u64::MAX), json!(u64::MAX), true),
        (json!(-1), json!(u64::MAX), false),
        (json!(true), json!("true"), true),
        (json!(false), json!("false"), true),
        (json!(true), json!("True"), false),
        (json!(true), json!("false"), false),
        (json!(true), json!(1), false),
        (json!(null), json!(null), true),
        (json!(null), json!("null"), false),
        (json!(null), json!(""), false),
        (json!([1, "2"]), json!(["1", 2]), true),
        (json!([1, 2]), json!([2, 1]), false),
        (json!([1]), json!([1, 2]), false),
        (json!([]), json!("[]"), false),
        // Only sections and keys are a subset; a value is compared as a whole.
        (json!({"a": 1}), json!({"a": "1"}), true),
        (json!({"a": 1}), json!({"a": 1, "b": 2}), false),
        (json!({"a": 1}), json!({"b": 1}), false),
    ];
    for (desired, current, same) in table {
        assert_eq!(same_value(&desired, &current), same, "{desired} and {current}");
        assert_eq!(same_value(&current, &desired), same, "{current} and {desired}");
    }
}

fn config(value: Value) -> Config {
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_desired_config_is_a_subset_of_the_current_one() {
    let current = config(json!({"a": {"x": 1, "y": "2"}, "b": {"z": null}}));
    let table = [
        (json!({}), true),
        (json!({"a": {}}), true),
        (json!({"c": {}}), true),
        (json!({"a": {"x": 1}}), true),
        (json!({"a": {"x": 1, "y": 2}, "b": {"z": null}}), true),
        (json!({"a": {"x": 2}}), false),
        (json!({"a": {"w": 1}}), false),
        (json!({"a": {"w": null}}), false),
        (json!({"c": {"x": 1}}), false),
        (json!({"a": {"x": 1}, "b": {"z": 0}}), false),
    ];
    for (desired, satisfied) in table {
        assert_eq!(
            config_satisfied(&config(desired.clone()), &current),
            satisfied,
            "{desired}"
        );
    }
}

/// Version 1.2-3, config `{"s": {"k": 1}}`, and these services.
fn observed(running: bool, services: &[(&str, bool)]) -> AppStatus {
    AppStatus {
        version: "1.2".into(),
        package_version: "1.2-3".into(),
        package: "pkg".into(),
        url: None,
        running,
        config: config(json!({"s": {"k": 1}})),
        services: services
            .iter()
            .map(|(name, running)| {
                let state = ServiceStatus {
                    running: *running,
                    enabled: *running,
                };
                ((*name).to_owned(), state)
            })
            .collect(),
        health: Health::Ok,
        config_age_s: None,
    }
}

#[test]
fn an_application_is_satisfied_in_each_of_its_parts() {
    let wanted = plain_spec("1.2");
    let up = observed(true, &[("one", true), ("two", true)]);
    let table: Vec<(&str, AppSpec, bool)> = vec![
        ("version", wanted.clone(), true),
        ("full version", plain_spec("1.2-3"), true),
        ("other version", plain_spec("1.3"), false),
        (
            "package",
            AppSpec {
                package: Some("pkg".into()),
                ..wanted.clone()
            },
            true,
        ),
        (
            "other package",
            AppSpec {
                package: Some("other".into()),
                ..wanted.clone()
            },
            false,
        ),
        (
            "config",
            AppSpec {
                config: config(json!({"s": {"k": "1"}})),
                ..wanted.clone()
            },
            true,
        ),
        (
            "other config",
            AppSpec {
                config: config(json!({"s": {"k": 2}})),
                ..wanted.clone()
            },
            false,
        ),
        (
            "stopped",
            AppSpec {
                running: false,
                ..wanted.clone()
            },
            false,
        ),
        // The package's URL is not part of the observed state.
        (
            "url",
            AppSpec {
                url: Some("http://h/a.rpm".into()),
                ..wanted.clone()
            },
            true,
        ),
    ];
    for (what, desired, satisfied) in table {
        assert_eq!(app_satisfied(&desired, &up), satisfied, "{what}");
    }
}

#[test]
fn services_are_compared_one_by_one() {
    let states = |states: &[(&str, bool)]| AppSpec {
        service_states: Some(states.iter().map(|(n, s)| ((*n).to_owned(), *s)).collect()),
        ..plain_spec("1.2")
    };
    let stopped = AppSpec {
        running: false,
        ..plain_spec("1.2")
    };
    let table: Vec<(&str, AppSpec, AppStatus, bool)> = vec![
        (
            "no services, running",
            plain_spec("1.2"),
            observed(true, &[]),
            true,
        ),
        (
            "no services, not running",
            plain_spec("1.2"),
            observed(false, &[]),
            false,
        ),
        (
            "stopped as desired",
            stopped.clone(),
            observed(false, &[("a", false)]),
            true,
        ),
        (
            "one of two still runs",
            stopped,
            observed(false, &[("a", false), ("b", true)]),
            false,
        ),
        (
            "one of two died",
            plain_spec("1.2"),
            observed(true, &[("a", true), ("b", false)]),
            false,
        ),
        (
            "as named",
            states(&[("a", true), ("b", false)]),
            observed(false, &[("a", true), ("b", false)]),
            true,
        ),
        (
            "not as named",
            states(&[("a", true), ("b", false)]),
            observed(true, &[("a", true), ("b", true)]),
            false,
        ),
        (
            "named, but not there",
            states(&[("c", false)]),
            observed(true, &[("a", true)]),
            false,
        ),
        (
            "not named: as running says",
            states(&[("a", false)]),
            observed(false, &[("a", false), ("b", true)]),
            true,
        ),
        (
            "not named, and down",
            states(&[("a", false)]),
            observed(false, &[("a", false), ("b", false)]),
            false,
        ),
    ];
    for (what, desired, observed, satisfied) in table {
        assert_eq!(app_satisfied(&desired, &observed), satisfied, "{what}");
    }
}

#[test]
fn the_sets_of_applications_are_identical_but_for_the_agent() {
    let desired = |names: &[&str]| -> Apps {
        names
            .iter()
            .map(|name| (AppName::new(*name).unwrap(), plain_spec("1.2")))
            .collect()
    };
    let installed = |names: &[&str]| -> BTreeMap<AppName, AppStatus> {
        names
            .iter()
            .map(|name| (AppName::new(*name).unwrap(), observed(true, &[])))
            .collect()
    };
    let table: [(&[&str], &[&str], bool); 7] = [
        (&[], &[], true),
        (&["a"], &["a"], true),
        (&["a"], &[], false),
        (&[], &["a"], false),
        (&["a", "b"], &["a", "c"], false),
        (&["a"], &["a", "hostagent"], true),
        (&["a", "hostagent"], &["a"], false),
    ];
    for (wanted, have, satisfied) in table {
        assert_eq!(
            apps_satisfied(&desired(wanted), &installed(have)),
            satisfied,
            "{wanted:?} by {have:?}"
        );
    }
    let outdated = Apps::from([(AppName::new("a").unwrap(), plain_spec("1.3"))]);
    assert!(!apps_satisfied(&outdated, &installed(&["a"])));
}
