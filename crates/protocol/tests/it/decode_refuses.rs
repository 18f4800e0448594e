//! FAULTS.md, rows 17 and 18: a message that is not valid is refused whole, with a path and a
//! reason.

use protocol::{DecodeError, Limits, decode, decode_apps};

fn refused(body: impl AsRef<[u8]>) -> DecodeError {
    let body = body.as_ref();
    match decode(body, Limits::default()) {
        Err(error) => {
            let line = error.to_string();
            assert!(
                !line.chars().any(|c| c.is_control()),
                "not one printable line: {line:?}"
            );
            assert!(line.len() < 8192, "{} bytes", line.len());
            error
        }
        Ok(message) => panic!("taken as {message:?}: {}", String::from_utf8_lossy(body)),
    }
}

pub fn assert_refused(body: impl AsRef<[u8]>, path: &str, reason: &str) {
    let body = body.as_ref();
    let error = refused(body);
    let shown = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
    assert_eq!(error.path, path, "for {shown} ({error})");
    assert!(error.reason.contains(reason), "for {shown}: {error}");
}

/// A `set_config` with this text as its `data`.
pub fn set_config(data: &str) -> String {
    format!(r#"{{"opcode":"set_config","data":{data}}}"#)
}

/// A `set_config` of one application with these fields beside `version`.
pub fn app_with(fields: &str) -> String {
    set_config(&format!(r#"{{"app_foo":{{"version":"1",{fields}}}}}"#))
}

#[test]
fn a_body_of_100_mb_is_refused_by_its_size() {
    // If it were parsed, the reason would be a different one.
    assert_refused(
        vec![b'['; 100_000_000],
        "$",
        "is 100000000 bytes long; at most 1048576",
    );
}

#[test]
fn the_size_limit_is_exact() {
    let body = br#"{"opcode":"ping"}"#;
    let limit = |max_size| Limits {
        max_size,
        ..Limits::default()
    };
    assert!(decode(body, limit(body.len())).is_ok());
    assert!(decode(body, limit(body.len() - 1)).is_err());
}

#[test]
fn nesting_of_10_000_is_refused_where_the_limit_is() {
    let arrays = "[".repeat(10_000) + &"]".repeat(10_000);
    let path = |prefix: &str, depth: usize| format!("{prefix}{}", "[0]".repeat(64 - depth));
    assert_refused(
        &arrays,
        &path("$", 0),
        "is nested too deeply; at most 64 levels are allowed",
    );
    assert_refused(
        app_with(&format!(r#""config":{{"section":{{"key":{arrays}}}}}"#)),
        &path("$.data.app_foo.config.section.key", 5),
        "nested too deep",
    );
    // Unclosed: nothing may depend on reaching the end.
    assert_refused(
        r#"{"a":"#.repeat(10_000),
        &format!("${}", ".a".repeat(64)),
        "nested too deep",
    );
}

#[test]
fn the_depth_limit_is_exact() {
    let nested = |depth: usize| {
        let inner = depth - 1;
        format!(
            r#"{{"opcode":"ping","x":{}{}}}"#,
            "[".repeat(inner),
            "]".repeat(inner)
        )
    };
    assert!(decode(nested(64).as_bytes(), Limits::default()).is_ok());
    assert!(decode(nested(65).as_bytes(), Limits::default()).is_err());
}

#[test]
fn what_is_not_strict_json_is_refused_with_its_path() {
    let key = |value: &str| app_with(&format!(r#""config":{{"s":{{"k":{value}}}}}"#));
    let at_key = "$.data.app_foo.config.s.k";
    let table: &[(&str, &str, &str)] = &[
        ("", "$", "is not JSON"),
        ("null", "$", "is null; an object is needed"),
        ("[]", "$", "is an array; an object is needed"),
        ("{\"opcode\":\"ping\"} x", "$", "is not JSON: trailing characters"),
        ("{\"opcode\":\"ping\"", "$", "is not JSON: EOF"),
        ("{'opcode':'ping'}", "$", "is not JSON: key must be a string"),
        (&key("NaN"), at_key, "NaN and Infinity are not allowed"),
        (&key("Infinity"), at_key, "NaN and Infinity are not allowed"),
        (&key("-Infinity"), at_key, "NaN and Infinity are not allowed"),
        (
            &key("[0, NaN]"),
            "$.data.app_foo.config.s.k[1]",
            "NaN and Infinity are not allowed",
        ),
        (&key("1e999"), at_key, "number out of range"),
        (&key("01"), at_key, "is not JSON"),
        (&key("\"\\ud800\""), at_key, "is not JSON"),
        (&key("\"a\nb\""), at_key, "is not JSON: control character"),
        (&key("truth"), at_key, "is not JSON"),
        (&key("1 // one"), "$.data.app_foo.config.s", "is not JSON"),
        (&key("{\"a\":1,}"), at_key, "is not JSON: trailing comma"),
    ];
    for (body, path, reason) in table {
        assert_refused(body, path, reason);
    }
}

#[test]
fn duplicate_keys_are_refused_at_any_depth() {
    let table: &[(&str, &str)] = &[
        (r#"{"opcode":"ping","opcode":"ping"}"#, "$.opcode"),
        (r#"{"opcode":"ping","later":[{"a":1,"a":1}]}"#, "$.later[0].a"),
        (
            &set_config(r#"{"a":{"version":"1"},"a":{"version":"2"}}"#),
            "$.data.a",
        ),
        // The same key with an escape.
        (
            &set_config(r#"{"a":{"version":"1"},"\u0061":{"version":"2"}}"#),
            "$.data.a",
        ),
        (&app_with(r#""version":"2""#), "$.data.app_foo.version"),
        (
            &app_with(r#""config":{"s t":{"k":1,"k":2}}"#),
            r#"$.data.app_foo.config["s t"].k"#,
        ),
    ];
    for (body, path) in table {
        assert_refused(body, path, "is given twice");
    }
}

#[test]
fn what_is_not_utf_8_is_refused_with_its_path() {
    let with_byte = |before: &str, after: &str| [before.as_bytes(), b"\xff", after.as_bytes()].concat();
    assert_refused(
        with_byte(r#"{"opcode":"set_config","data":{"a":{"version":"1"#, r#""}}}"#),
        "$.data.a.version",
        "is not UTF-8 (offset 48)",
    );
    assert_refused(
        with_byte(r#"{"opcode":"ping","k"#, r#"":1}"#),
        "$",
        "is not UTF-8 (offset 19)",
    );
    assert_refused(
        with_byte("", r#"{"opcode":"ping"}"#),
        "$",
        "is not UTF-8 (offset 0)",
    );
    // UTF-16, as some editors write it.
    assert_refused(b"\xff\xfe{\0}\0", "$", "is not UTF-8");
}

#[test]
fn dangerous_names_are_refused() {
    let table: &[(&str, &str, &str)] = &[
        (r"a\u0000b", r#"$.data["a\0b"]"#, r"contains '\0'"),
        ("-h", r#"$.data["-h"]"#, "begins with '-'"),
        ("../x", r#"$.data["../x"]"#, "begins with '.'"),
        ("a/../x", r#"$.data["a/../x"]"#, "contains '/'"),
        ("--eval=%(id)", r#"$.data["--eval=%(id)"]"#, "begins with '-'"),
        ("", r#"$.data[""]"#, "is empty"),
        ("a b", r#"$.data["a b"]"#, "contains ' '"),
        (r"a\nb", r#"$.data["a\nb"]"#, r"contains '\n'"),
        ("é", r#"$.data["é"]"#, "begins with 'é'"),
        (
            "a@b",
            r#"$.data["a@b"]"#,
            "contains '@'; allowed are letters, digits and +._-",
        ),
        ("slaves", "$.data.slaves", "reserved"),
        ("master", "$.data.master", "reserved"),
    ];
    for (name, path, reason) in table {
        assert_refused(
            set_config(&format!(r#"{{"{name}":{{"version":"1"}}}}"#)),
            path,
            reason,
        );
    }
    let long = "x".repeat(10_000);
    assert_refused(
        set_config(&format!(r#"{{"{long}":{{"version":"1"}}}}"#)),
        &format!(r#"$.data["{}…"]"#, "x".repeat(64)),
        "is 10000 bytes long; at most 128 are allowed",
    );
}

#[test]
fn dangerous_package_and_service_names_are_refused() {
    let long = "x".repeat(10_000);
    for name in ["-h", "../x", "--eval=%(id)", "", r"a\u0000b", "a b", &long] {
        assert_refused(
            app_with(&format!(r#""package":"{name}""#)),
            "$.data.app_foo.package",
            "is not a valid package name: it",
        );
        let error = refused(app_with(&format!(r#""service_states":{{"{name}":true}}"#)));
        assert!(
            error.path.starts_with("$.data.app_foo.service_states["),
            "{error}"
        );
        assert!(
            error.reason.contains("is not a valid service name: it"),
            "{error}"
        );
    }
}

#[test]
fn a_wrong_envelope_is_refused() {
    let id = "x".repeat(257);
    let long_id = format!(r#"{{"opcode":"ping","id":"{id}"}}"#);
    let table: &[(&str, &str, &str)] = &[
        (
            "{}",
            "$.opcode",
            "is missing; \"set_config\", \"plan\" or \"ping\" is needed",
        ),
        (r#"{"opcode":null}"#, "$.opcode", "is missing"),
        (r#"{"opcode":1}"#, "$.opcode", "is a number; a string is needed"),
        (
            r#"{"opcode":"ping","id":7}"#,
            "$.id",
            "is a number; a string is needed",
        ),
        (&long_id, "$.id", "is 257 bytes long; at most 256"),
        (
            r#"{"opcode":"set_config"}"#,
            "$.data",
            "is missing; an object of applications is needed",
        ),
        (
            r#"{"opcode":"set_config","data":null}"#,
            "$.data",
            "is null; an object is needed",
        ),
        (
            r#"{"opcode":"set_config","data":[]}"#,
            "$.data",
            "is an array; an object is needed",
        ),
        (
            r#"{"opcode":"set_config","data":{},"generation":-1}"#,
            "$.generation",
            "is a number; a whole number",
        ),
        (
            r#"{"opcode":"set_config","data":{},"generation":1.5}"#,
            "$.generation",
            "a whole number from 0",
        ),
        (
            r#"{"opcode":"set_config","data":{},"generation":"1"}"#,
            "$.generation",
            "is a string; a whole number",
        ),
        (
            r#"{"opcode":"set_config","data":{},"only_if_plan":123456}"#,
            "$.only_if_plan",
            "is a number; a string is needed",
        ),
        (
            r#"{"opcode":"set_config","data":{},"retry":"yes"}"#,
            "$.retry",
            "is a string; true or false is needed",
        ),
        // A plan without applications would mean the removal of all of them.
        (
            r#"{"opcode":"plan"}"#,
            "$.data",
            "is missing; an object of applications is needed",
        ),
        (
            r#"{"opcode":"plan","data":null}"#,
            "$.data",
            "is null; an object is needed",
        ),
        (
            r#"{"opcode":"plan","data":{"a":{}}}"#,
            "$.data.a.version",
            "is missing",
        ),
        (
            r#"{"opcode":"plan","data":{},"id":7}"#,
            "$.id",
            "is a number; a string is needed",
        ),
    ];
    for (body, path, reason) in table {
        assert_refused(body, path, reason);
    }
}

#[test]
fn what_is_no_hash_of_a_plan_is_refused() {
    let long = "a".repeat(65);
    for hash in [
        "",
        "abcde",
        "ABCDEF",
        "abcdeg",
        "abc def",
        "abcdef\\n",
        "äääää",
        &long,
    ] {
        assert_refused(
            format!(r#"{{"opcode":"set_config","data":{{}},"only_if_plan":"{hash}"}}"#),
            "$.only_if_plan",
            "is not a plan hash; 6 to 64 lower-case hexadecimal digits are needed",
        );
    }
}

#[test]
fn an_error_never_shows_a_value_that_may_be_a_secret() {
    for body in [
        app_with(r#""config":{"password":"hunter2"}"#),
        app_with(r#""config":{"s":{"password":"hunter2" oops}}"#),
        app_with(r#""config":{"s":{"password":hunter2}}"#),
        app_with(r#""url":"ftp://admin:hunter2@host/a.rpm""#),
        app_with(r#""sha256":"hunter2""#),
        app_with(r#""running":"hunter2""#),
        app_with(r#""rank":"hunter2""#),
    ] {
        let error = refused(&body);
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[test]
fn the_id_of_a_refused_message_is_recovered_where_it_can_be_read() {
    let deep = format!(r#"{{"id":"q","data":{}"#, "[".repeat(10_000));
    let table: &[(&[u8], Option<&str>)] = &[
        (br#"{"opcode":"set_config","id":"q"}"#, Some("q")),
        (
            br#"{"opcode":"set_config","data":{"a":1,"a":2},"id":"q"}"#,
            Some("q"),
        ),
        (
            b"{\"opcode\":\"set_config\",\"data\":{\"a\":\"\xff\"},\"id\":\"q\"}",
            Some("q"),
        ),
        (br#"{"id":"q","data":{NaN"#, Some("q")),
        (deep.as_bytes(), Some("q")),
        (br#"{"data":{"id":"inner"}}"#, None),
        (br#"{"id":"q","id":"r"}"#, None),
        (br#"{"opcode":"ping","id":7}"#, None),
        (br#"["id"]"#, None),
        (b"", None),
    ];
    for (body, id) in table {
        assert_eq!(
            refused(body).id.as_deref(),
            *id,
            "{}",
            String::from_utf8_lossy(body)
        );
    }
}

#[test]
fn a_file_of_applications_is_refused_with_paths_of_its_own_form() {
    let table: &[(&str, &str)] = &[
        (r#"{"app_foo":{}}"#, "$.app_foo.version"),
        (
            r#"{"opcode":"set_config","data":{"app_foo":{}}}"#,
            "$.data.app_foo.version",
        ),
        (r#"{"opcode":"set_config"}"#, "$.data"),
        (r#"{"opcode":"ping"}"#, "$.opcode"),
        ("[]", "$"),
    ];
    for (text, path) in table {
        let error = decode_apps(text.as_bytes(), Limits::default()).unwrap_err();
        assert_eq!(error.path, *path, "{text}: {error}");
    }
}
