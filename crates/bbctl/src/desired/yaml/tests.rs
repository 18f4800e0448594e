use proptest::prelude::*;
use serde_json::json;

use super::*;

fn read(text: &str) -> Result<Value, String> {
    let source = Source {
        name: "f.yaml".to_owned(),
        text: text.to_owned(),
    };
    to_json(&source)
        .map(|json| serde_json::from_slice(&json).unwrap())
        .map_err(|error| error.to_string())
}

#[test]
fn scalars_are_what_yaml_1_2_says() {
    let text =
        "{a: 1.10, b: 0x1f, c: yes, d: true, e: ~, f: '1', g: 18446744073709551615, h: 08, 8080: on, i: }";
    let expected = json!({"a": 1.10, "b": 31, "c": "yes", "d": true, "e": null, "f": "1",
        "g": 18_446_744_073_709_551_615u64, "h": 8, "8080": "on", "i": null});
    assert_eq!(read(text), Ok(expected));
    assert_eq!(read(""), Ok(Value::Null));
    assert_eq!(
        read("a: &x {b: 1}\nc: *x"),
        Ok(json!({"a": {"b": 1}, "c": {"b": 1}}))
    );
}

#[test]
fn what_has_no_meaning_is_refused_with_its_place() {
    for (text, complaint) in [
        ("a: 1\na: 2", "f.yaml:2:"),
        ("a: [1", "f.yaml:"),
        ("a: .inf", "f.yaml:1:4: is not a finite number"),
        ("a: !mine 1", "f.yaml:1:"),
        ("? [1, 2]\n: 3", "f.yaml:1:"),
        ("a: 1\n---\nb: 2", "f.yaml:3:1: a second YAML document"),
        ("a: *nothing", "f.yaml:1:"),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.starts_with(complaint), "{text:?}: {error}");
    }
}

#[test]
fn written_plainly_where_that_is_safe() {
    let value = json!({"web": {"version": "1.10", "url": "http://a.example:80/web_1.10.deb", "running": true,
        "config": {"server": {"port": 8080, "motd": "a\nb: #c", "on": "yes", "host": "db-1.example"}}, "requires": ["db"]}});
    let text = "web:\n  config:\n    server:\n      host: db-1.example\n      motd: \"a\\nb: #c\"\n      \"on\": \"yes\"\n      \
                port: 8080\n  requires:\n    - db\n  running: true\n  url: http://a.example:80/web_1.10.deb\n  \
                version: \"1.10\"\n";
    assert_eq!(to_yaml(&value), text);
    assert_eq!(to_yaml(&json!({})), "{}\n");
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>()
            .prop_filter("finite", |n| n.is_finite())
            .prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[ -~\n]{0,20}".prop_map(Value::from),
        "(yes|no|null|~|-|1_000|0x1f|1e3|\\.5|:|a:|#|---|\\?|[!&*|>%@`]x)".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec(("[ -~é]{1,12}", inner), 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_reads_back_the_same(value in any_value()) {
        let text = to_yaml(&value);
        prop_assert_eq!(read(&text), Ok(value), "{}", text);
    }
}
