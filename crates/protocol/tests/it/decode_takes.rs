//! Valid messages and their meaning.

use std::collections::BTreeMap;

use protocol::spec::Rank;
use protocol::{AppName, AppSpec, Apps, Inbound, Limits, SetConfig, decode, decode_apps};
use serde_json::json;

use crate::arbitrary::plain_spec as plain;

fn decoded(body: &str) -> Inbound {
    decode(body.as_bytes(), Limits::default()).unwrap()
}

fn only_app(fields: &str) -> AppSpec {
    let body = format!(r#"{{"opcode":"set_config","data":{{"app_foo":{{{fields}}}}}}}"#);
    match decoded(&body) {
        Inbound::SetConfig(message) => message.apps.into_values().next().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_fields_are_taken() {
    let digest = "0123456789ABCDEF".repeat(4);
    let spec = only_app(&format!(
        r#""version":"1:1.0.2-3~bpo+1","url":"HTTPS://h/a.rpm","package":"ostackhost","sha256":"{digest}",
           "running":false,"config":{{"s":{{"k":"\u0000","n":1.5,"l":[1,null]}},"empty":{{}}}},
           "service_states":{{"getty@tty1":true,"b":false}},"rank":-2"#
    ));
    assert_eq!(
        spec,
        AppSpec {
            version: "1:1.0.2-3~bpo+1".into(),
            url: Some("HTTPS://h/a.rpm".into()),
            package: Some("ostackhost".into()),
            sha256: Some(digest.to_lowercase()),
            running: false,
            config: BTreeMap::from([
                ("empty".into(), BTreeMap::new()),
                (
                    "s".into(),
                    BTreeMap::from([
                        ("k".into(), json!("\0")),
                        ("l".into(), json!([1, null])),
                        ("n".into(), json!(1.5)),
                    ])
                ),
            ]),
            service_states: Some(BTreeMap::from([("b".into(), false), ("getty@tty1".into(), true)])),
            rank: Some(Rank(-2.0)),
            requires: Vec::new(),
        }
    );
}

#[test]
fn a_version_is_enough_and_null_is_as_good_as_absent() {
    assert_eq!(only_app(r#""version":"1""#), plain("1"));
    assert_eq!(
        only_app(
            r#""version":"1","url":null,"package":null,"sha256":null,"running":null,"config":null,
               "service_states":null,"rank":null,"requires":null"#
        ),
        plain("1")
    );
}

#[test]
fn a_rank_may_be_a_number_or_a_string_that_spells_one() {
    for (text, rank) in [
        ("3", 3.0),
        ("-0.5", -0.5),
        ("\"7\"", 7.0),
        ("\" 1.5 \"", 1.5),
        ("1e2", 100.0),
    ] {
        let spec = only_app(&format!(r#""version":"1","rank":{text}"#));
        assert_eq!(spec.rank, Some(Rank(rank)), "{text}");
    }
}

#[test]
fn unknown_fields_are_ignored_at_every_level() {
    assert_eq!(
        decoded(
            r#"{"opcode":"set_config","data":{"app_foo":{"version":"1","later":{"version":2}}},"sent":"now","id":"q",
                "generation":18446744073709551615}"#
        ),
        Inbound::SetConfig(SetConfig {
            id: Some("q".into()),
            generation: Some(u64::MAX),
            only_if_plan: None,
            retry: false,
            apps: Apps::from([(AppName::new("app_foo").unwrap(), plain("1"))]),
        })
    );
}

#[test]
fn no_applications_is_a_desired_state_too() {
    assert_eq!(
        decoded(r#"{"opcode":"set_config","data":{}}"#),
        Inbound::SetConfig(SetConfig {
            id: None,
            generation: None,
            only_if_plan: None,
            retry: false,
            apps: Apps::new(),
        })
    );
}

#[test]
fn required_applications_keep_their_order_and_may_require_each_other() {
    let Inbound::SetConfig(message) = decoded(
        r#"{"opcode":"set_config","data":{
            "app":{"version":"1","requires":["db","cache"]},
            "db":{"version":"1","requires":["app"]},
            "cache":{"version":"1","requires":[]}}}"#,
    ) else {
        panic!("no set_config");
    };
    let requires = |name: &str| -> Vec<String> {
        let spec = &message.apps[&AppName::new(name).unwrap()];
        spec.requires.iter().map(AppName::to_string).collect()
    };
    assert_eq!(requires("app"), ["db", "cache"]);
    assert_eq!(requires("db"), ["app"]);
    assert_eq!(requires("cache"), [""; 0]);
}

#[test]
fn a_set_config_may_ask_for_another_try() {
    for (said, meant) in [("true", true), ("false", false), ("null", false)] {
        let body = format!(r#"{{"opcode":"set_config","data":{{}},"retry":{said}}}"#);
        let Inbound::SetConfig(message) = decoded(&body) else {
            panic!("no set_config");
        };
        assert_eq!(message.retry, meant);
        assert_eq!(
            decode(&message.encode(), Limits::default()),
            Ok(Inbound::SetConfig(message))
        );
    }
}

#[test]
fn a_set_config_may_be_bound_to_a_plan() {
    for hash in ["3f9a1c", "0123456789abcdef", &"f".repeat(64)] {
        let body = format!(r#"{{"opcode":"set_config","data":{{}},"only_if_plan":"{hash}"}}"#);
        let Inbound::SetConfig(message) = decoded(&body) else {
            panic!("no set_config");
        };
        assert_eq!(message.only_if_plan.as_deref(), Some(hash));
    }
}

#[test]
fn a_plan_takes_what_a_set_config_takes() {
    assert_eq!(
        decoded(r#"{"opcode":"plan","id":"q","data":{"app_foo":{"version":"1"}},"later":1}"#),
        Inbound::Plan {
            id: Some("q".into()),
            apps: Apps::from([(AppName::new("app_foo").unwrap(), plain("1"))]),
        }
    );
    assert_eq!(
        decoded(r#"{"opcode":"plan","data":{}}"#),
        Inbound::Plan {
            id: None,
            apps: Apps::new(),
        }
    );
}

#[test]
fn a_ping_needs_nothing_but_its_opcode() {
    assert_eq!(decoded(r#"{"opcode":"ping"}"#), Inbound::Ping { id: None });
    assert_eq!(
        decoded(r#" {"opcode":"ping","id":"q","data":7} "#),
        Inbound::Ping { id: Some("q".into()) }
    );
}

#[test]
fn an_unknown_opcode_is_no_fault() {
    let unknown = |opcode: &str, id: Option<&str>| Inbound::Unknown {
        opcode: opcode.into(),
        id: id.map(Into::into),
    };
    assert_eq!(decoded(r#"{"opcode":"restart"}"#), unknown("restart", None));
    assert_eq!(
        decoded(r#"{"opcode":"restart","id":"q"}"#),
        unknown("restart", Some("q"))
    );
    assert_eq!(
        decoded(r#"{"opcode":"restart","id":7,"data":8}"#),
        unknown("restart", None)
    );
    // It is counted and logged, so it must be short.
    let long = "x".repeat(10_000);
    let clipped = format!("{}…", "x".repeat(64));
    assert_eq!(
        decoded(&format!(r#"{{"opcode":"{long}"}}"#)),
        unknown(&clipped, None)
    );
}

#[test]
fn a_file_may_hold_the_message_or_its_data() {
    let apps = |text: &str| decode_apps(text.as_bytes(), Limits::default()).unwrap();
    let wanted = Apps::from([(AppName::new("app_foo").unwrap(), plain("1"))]);
    assert_eq!(
        apps(r#"{"opcode":"set_config","data":{"app_foo":{"version":"1"}}}"#),
        wanted
    );
    assert_eq!(apps(r#"{"app_foo":{"version":"1"}}"#), wanted);
    assert_eq!(apps("{}"), Apps::new());
    // `opcode` and `data` are possible names of applications.
    assert_eq!(
        apps(r#"{"opcode":{"version":"1"},"data":{"version":"1"}}"#).len(),
        2
    );
}
