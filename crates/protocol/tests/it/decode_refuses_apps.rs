//! FAULTS.md, row 18: an application that is not valid is refused with the path of its field.

use crate::decode_refuses::{app_with, assert_refused, set_config};

/// Each row: a message, the path below the application, and the reason.
fn assert_refused_fields(table: &[(&str, &str, &str)]) {
    for (body, path, reason) in table {
        assert_refused(body, &format!("$.data.app_foo{path}"), reason);
    }
}

#[test]
fn a_wrong_version_is_refused() {
    let long = "1".repeat(257);
    let version = |v: &str| set_config(&format!(r#"{{"app_foo":{{"version":{v}}}}}"#));
    let table: &[(&str, &str, &str)] = &[
        (
            &set_config(r#"{"app_foo":null}"#),
            "",
            "is null; an object is needed",
        ),
        (
            &set_config(r#"{"app_foo":{}}"#),
            ".version",
            "is missing; a string is needed",
        ),
        (&version("null"), ".version", "is missing"),
        (&version("1.2"), ".version", "is a number; a string is needed"),
        (&version(r#""""#), ".version", "is empty"),
        (&version(r#""-1""#), ".version", "begins with '-'"),
        (&version(r#""1 2""#), ".version", "contains ' '"),
        (&version(r#""1/2""#), ".version", "contains '/'"),
        (&version(r#""1é""#), ".version", "contains 'é'"),
        (&version(r#""1\u0000""#), ".version", r"contains '\0'"),
        (
            &version(&format!("\"{long}\"")),
            ".version",
            "is 257 bytes long; at most 256",
        ),
    ];
    assert_refused_fields(table);
}

#[test]
fn a_wrong_url_is_refused() {
    let long_url = format!("http://{}", "x".repeat(4096));
    let table: &[(&str, &str, &str)] = &[
        (&app_with(r#""url":1"#), ".url", "is a number; a string is needed"),
        (
            &app_with(r#""url":"""#),
            ".url",
            "has no scheme; http, https and file are allowed",
        ),
        (&app_with(r#""url":"/tmp/a.rpm""#), ".url", "has no scheme"),
        (
            &app_with(r#""url":"ftp://h/a.rpm""#),
            ".url",
            "has the scheme \"ftp\"; http, https and file are allowed",
        ),
        (&app_with(r#""url":"data:,x""#), ".url", "has the scheme \"data\""),
        (&app_with(r#""url":"-o:http://h/a.rpm""#), ".url", "has no scheme"),
        (
            &app_with(r#""url":"http://h/\na.rpm""#),
            ".url",
            r"contains the control character '\n'",
        ),
        (
            &app_with(&format!(r#""url":"{long_url}""#)),
            ".url",
            "is 4103 bytes long; at most 4096",
        ),
    ];
    assert_refused_fields(table);
}

#[test]
fn another_wrong_field_is_refused() {
    let table: &[(&str, &str, &str)] = &[
        (
            &app_with(r#""package":[]"#),
            ".package",
            "is an array; a string is needed",
        ),
        (
            &app_with(r#""sha256":"abc""#),
            ".sha256",
            "64 hexadecimal digits are needed",
        ),
        (
            &app_with(&format!(r#""sha256":"{}""#, "g".repeat(64))),
            ".sha256",
            "64 hexadecimal digits are needed",
        ),
        (
            &app_with(r#""running":"true""#),
            ".running",
            "is a string; true or false is needed",
        ),
        (
            &app_with(r#""running":1"#),
            ".running",
            "is a number; true or false is needed",
        ),
        (
            &app_with(r#""config":[]"#),
            ".config",
            "is an array; an object is needed",
        ),
        (
            &app_with(r#""config":{"port":8080}"#),
            ".config.port",
            "is a number; a section of config must be",
        ),
        (
            &app_with(r#""config":{"s":null}"#),
            ".config.s",
            "is null; a section of config must be",
        ),
        (
            &app_with(r#""service_states":["a"]"#),
            ".service_states",
            "is an array; an object is needed",
        ),
        (
            &app_with(r#""service_states":{"a@b":"on"}"#),
            ".service_states[\"a@b\"]",
            "true or false is needed",
        ),
        (
            &app_with(r#""rank":true"#),
            ".rank",
            "is a boolean; a finite number",
        ),
        (
            &app_with(r#""rank":"first""#),
            ".rank",
            "is a string; a finite number",
        ),
        (
            &app_with(r#""rank":"NaN""#),
            ".rank",
            "is a string; a finite number",
        ),
        (
            &app_with(r#""rank":"inf""#),
            ".rank",
            "is a string; a finite number",
        ),
        (
            &app_with(r#""rank":"1e999""#),
            ".rank",
            "is a string; a finite number",
        ),
    ];
    assert_refused_fields(table);
}

#[test]
fn wrong_requirements_are_refused() {
    let table = [
        (
            r#""b""#,
            "",
            "is a string; an array of application names is needed",
        ),
        (r#"{"b":true}"#, "", "is an object; an array"),
        (r#"["b",1]"#, "[1]", "is a number; a string is needed"),
        (r#"["b",null]"#, "[1]", "is null; a string is needed"),
        (
            r#"["b","../x"]"#,
            "[1]",
            "is not a valid application name: it begins with '.'",
        ),
        (r#"["slaves"]"#, "[0]", "reserved"),
        (r#"["b","a-1"]"#, "[1]", "is the application itself"),
        (r#"["c","b"]"#, "[0]", "is not an application of this message"),
        (r#"["b","b"]"#, "[1]", "is given twice"),
    ];
    for (requires, index, reason) in table {
        let apps = format!(r#"{{"a-1":{{"version":"1","requires":{requires}}},"b":{{"version":"1"}}}}"#);
        let path = format!(r#"$.data["a-1"].requires{index}"#);
        assert_refused(set_config(&apps), &path, reason);
    }
}

#[test]
fn one_bad_application_refuses_the_whole_message() {
    assert_refused(
        set_config(r#"{"a":{"version":"1"},"b":{"version":"1","running":0}}"#),
        "$.data.b.running",
        "true or false",
    );
}
