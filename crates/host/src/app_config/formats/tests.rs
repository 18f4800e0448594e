use proptest::prelude::*;
use serde_json::json;

use super::*;

fn keys(value: Value) -> Keys {
    serde_json::from_value(value).unwrap()
}

fn path(dotted: &str) -> Vec<String> {
    dotted
        .split('.')
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Merges, and checks that it reads back and that a second time changes nothing.
fn merged(format: Format, text: &str, table: &str, desired: Value) -> String {
    let desired = keys(desired);
    let out = format
        .merge(text, &path(table), &desired)
        .unwrap()
        .expect("a change");
    assert_eq!(format.merge(&out, &path(table), &desired), Ok(None), "{out}");
    out
}

fn refusal(format: Format, text: &str, table: &str, desired: Value) -> String {
    format
        .merge(text, &path(table), &keys(desired))
        .unwrap_err()
        .to_string()
}

#[test]
fn a_changed_value_leaves_everything_else_as_it_stands() {
    let table: &[(Format, &str, &str, Value, &str)] = &[
        (
            Format::Ini,
            "# c\n[a]\nk = 1\n; d\n[b]\nk=2\n",
            "b",
            json!({"k": 3}),
            "# c\n[a]\nk = 1\n; d\n[b]\nk=3\n",
        ),
        (
            Format::Ini,
            "[a]\nk: x=y\n",
            "a",
            json!({"k": "z:=", "n": "1"}),
            "[a]\nk: z:=\nn: 1\n",
        ),
        (
            Format::Ini,
            "[a]\r\nk =\r\n",
            "a",
            json!({"k": "v"}),
            "[a]\r\nk =v\r\n",
        ),
        (
            Format::Ini,
            "[a]\nk = 1\n  2\n  3\nm = 4\n",
            "a",
            json!({"k": "1"}),
            "[a]\nk = 1\nm = 4\n",
        ),
        (
            Format::Ini,
            "[global]\n\tk = 1\n\tl = 2\n",
            "global",
            json!({"l": "3", "m": "4"}),
            "[global]\n\tk = 1\n\tl = 3\n\tm = 4\n",
        ),
        (
            Format::Ini,
            "[a]\nflag\n",
            "a",
            json!({"flag": "on"}),
            "[a]\nflag = on\n",
        ),
        (
            Format::Ini,
            "[a]\nx = 1\n\n# about b\n[b]\n",
            "a",
            json!({"y": 2}),
            "[a]\nx = 1\ny = 2\n\n# about b\n[b]\n",
        ),
        (Format::Ini, "", "a b", json!({"k": true}), "[a b]\nk = true\n"),
        (Format::Ini, "[z]", "a", json!({"k": "v"}), "[z]\n\n[a]\nk = v\n"),
        (
            Format::Ini,
            "# top\nk = 1\n[a]\n",
            "",
            json!({"j": "0"}),
            "# top\nk = 1\nj = 0\n[a]\n",
        ),
        (
            Format::Toml,
            "# c\r\n[t]\r\nk = 1 # d\r\nl = [1,\r\n 2]\r\n",
            "t",
            json!({"k": 2, "m": "x"}),
            "# c\r\n[t]\r\nk = 2 # d\r\nl = [1,\r\n 2]\r\nm = \"x\"\r\n",
        ),
        (
            Format::Env,
            "# c\nA=1\nexport B='x y' \n",
            "",
            json!({"B": "it's", "C": 3}),
            "# c\nA=1\nexport B=\"it's\" \nC=3\n",
        ),
        (
            Format::Env,
            "A=\n",
            "",
            json!({"A": "p$w`\"\\ d"}),
            "A=\"p\\$w\\`\\\"\\\\ d\"\n",
        ),
        (
            Format::Env,
            "A=\"two\nlines\"\nB=1",
            "",
            json!({"A": "one", "B": ""}),
            "A=one\nB=",
        ),
        (
            Format::Json,
            "{\"b\":{\"k\": 1},  \"a\":[1, 2]}",
            "b",
            json!({"k": 2}),
            "{\"b\":{\"k\": 2},  \"a\":[1, 2]}",
        ),
        (
            Format::Json,
            "{\n\t\"b\": {\n\t\t\"k\": 1\n\t}\n}\n",
            "b",
            json!({"j": {"x": [1]}}),
            "{\n\t\"b\": {\n\t\t\"k\": 1,\n\t\t\"j\": {\n\t\t  \"x\": [\n\t\t    1\n\t\t  ]\n\t\t}\n\t}\n}\n",
        ),
        (
            Format::Json,
            "{\"b\": 1}",
            "",
            json!({"k": "v"}),
            "{\"b\": 1, \"k\": \"v\"}",
        ),
        (
            Format::Json,
            "",
            "a.b",
            json!({"k": 1}),
            "{\n  \"a\": {\n    \"b\": {\n      \"k\": 1\n    }\n  }\n}\n",
        ),
        (
            Format::Json,
            "{\"a\": null}",
            "a",
            json!({"k": 1}),
            "{\"a\": {\n  \"k\": 1\n}}",
        ),
        (
            Format::Toml,
            "# c\n[b]\nk = 1 # one\n\n[c]\n",
            "b",
            json!({"k": 2, "n": ["x"]}),
            "# c\n[b]\nk = 2 # one\nn = [\"x\"]\n\n[c]\n",
        ),
        (
            Format::Toml,
            "when = 2020-01-01\n",
            "",
            json!({"when": "2021-01-01"}),
            "when = 2021-01-01\n",
        ),
        (Format::Toml, "", "a.b", json!({"k": 1.5}), "[a.b]\nk = 1.5\n"),
        (
            Format::Toml,
            "a = 1\n[t]\nb = 2",
            "",
            json!({"k": 2}),
            "a = 1\nk = 2\n[t]\nb = 2",
        ),
        (
            Format::Toml,
            "\u{feff}a = 1\n",
            "",
            json!({"k": 2}),
            "\u{feff}a = 1\nk = 2\n",
        ),
        (
            Format::Yaml,
            "# c\nb:\n  k: 1 # one\n  l: 2\nc: 3\n",
            "b",
            json!({"k": 2, "new": "on"}),
            "# c\nb:\n  k: 2 # one\n  l: 2\n  new: \"on\"\nc: 3\n",
        ),
        (
            Format::Yaml,
            "b: {k: 1, l: 'x'}\n",
            "b",
            json!({"l": "y z", "m": null}),
            "b: {k: 1, l: \"y z\", m: null}\n",
        ),
        (
            Format::Yaml,
            "b:\n  k:\n    - 1\n    - 2\n  l: |\n    text\n    more\nc: 1\n",
            "b",
            json!({"k": [3], "l": "x"}),
            "b:\n  k: [3]\n  l: x\nc: 1\n",
        ),
        (
            Format::Yaml,
            "---\nb:\n",
            "b",
            json!({"k": "/x"}),
            "---\nb: {k: /x}\n",
        ),
        (
            Format::Yaml,
            "b:\n  k: # later\n",
            "b",
            json!({"k": "é\u{85}"}),
            "b:\n  k: \"é\\u0085\" # later\n",
        ),
        (
            Format::Yaml,
            "# only a comment\n",
            "a.b",
            json!({"k": {"x": 1}}),
            "# only a comment\na:\n  b:\n    k:\n      x: 1\n",
        ),
        (
            Format::Yaml,
            "a: 1",
            "",
            json!({"b": "007"}),
            "a: 1\nb: \"007\"\n",
        ),
        (
            Format::Yaml,
            "é: ü # ö\na:\n  k: ä\n",
            "a",
            json!({"k": "ß"}),
            "é: ü # ö\na:\n  k: \"ß\"\n",
        ),
    ];
    for (format, before, at, desired, after) in table {
        assert_eq!(
            merged(*format, before, at, desired.clone()),
            *after,
            "{format:?} {before:?}"
        );
    }
}

#[test]
fn what_is_there_already_is_left_alone() {
    let table: &[(Format, &str, &str, Value)] = &[
        (Format::Ini, "[a]\nport = 8080\n", "a", json!({"port": 8080})),
        (Format::Env, "A='x y'\n", "", json!({"A": "x y"})),
        (Format::Json, "{\"a\": {\"b\": 1.0}}", "a", json!({"b": 1})),
        (
            Format::Yaml,
            "a: {b: yes, c: 0x1f}\n",
            "a",
            json!({"b": "yes", "c": 31}),
        ),
        (
            Format::Toml,
            "a.b = [1, {c = true}]\n",
            "a",
            json!({"b": [1, {"c": true}]}),
        ),
        (Format::Yaml, "", "a", json!({})),
    ];
    for (format, text, at, desired) in table {
        assert_eq!(
            format.merge(text, &path(at), &keys(desired.clone())),
            Ok(None),
            "{format:?} {text:?}"
        );
    }
}

#[test]
fn values_are_read_with_the_types_that_the_format_has() {
    let table: &[(Format, &str, Value)] = &[
        (
            Format::Ini,
            "[t]\na = \"q\" ; x\nb: 1\nb = 2\n",
            json!({"a": "\"q\" ; x", "b": "2"}),
        ),
        (Format::Json, "{\"t\": {\"a\": [null]}}", json!({"a": [null]})),
        (
            Format::Yaml,
            "t: &x\n  a: ~\n  b: 'true'\n  c: .5\n  d: .inf\n  e: -7\n  f: !!str 5\nu: *x\n",
            json!({"a": null, "b": "true", "c": 0.5, "d": ".inf", "e": -7, "f": "5"}),
        ),
        (
            Format::Toml,
            "[t]\na = 1979-05-27\nb = inf\n",
            json!({"a": "1979-05-27", "b": "inf"}),
        ),
    ];
    for (format, text, want) in table {
        assert_eq!(
            format.read(text, &path("t")),
            Ok(keys(want.clone())),
            "{format:?} {text:?}"
        );
        assert_eq!(format.read("", &path("t")), Ok(Keys::new()));
    }
    let env = "export A=1\nB=\"a\\$b\\n\" \nC=one\\ two   \nD='x'\"y\"z\n; no\n";
    assert_eq!(
        Format::Env.read(env, &[]),
        Ok(keys(json!({"A": "1", "B": "a$b\\n", "C": "one two", "D": "xyz"})))
    );
}

#[test]
fn what_a_format_cannot_hold_is_refused_without_saying_the_value() {
    let table: &[(Format, &str, Value, &str)] = &[
        (Format::Ini, "", json!({"k": "S3CRET\nx"}), "more than one line"),
        (Format::Ini, "", json!({"k": {"S3CRET": 1}}), "lists and objects"),
        (
            Format::Ini,
            "",
            json!({"k": " S3CRET"}),
            "begin or end with a blank",
        ),
        (Format::Ini, "", json!({"a=b": "S3CRET"}), "contain = or :"),
        (
            Format::Ini,
            "[t]\nk=1\nk=2\n",
            json!({"k": "S3CRET"}),
            "more than once",
        ),
        (
            Format::Ini,
            "[t\n",
            json!({"k": "S3CRET"}),
            "line 1: not valid INI",
        ),
        // configparser takes these for one key, and then refuses the file.
        (
            Format::Ini,
            "[t]\nPort = S3CRET\n",
            json!({"port": "S3CRET"}),
            "key \"port\" is \"Port\" in this file",
        ),
        (
            Format::Ini,
            "[t]\n",
            json!({"port": "S3CRET", "PORT": "S3CRET"}),
            "differ only in case",
        ),
        (
            Format::Ini,
            "[t]\na = 1\n[t]\nk = 1\n",
            json!({"k": "S3CRET"}),
            "the section is in the file more than once",
        ),
        (Format::Env, "", json!({"k": "S3CRET\n"}), "more than one line"),
        (
            Format::Env,
            "",
            json!({"a-b": "S3CRET"}),
            "the name of a variable",
        ),
        (
            Format::Env,
            "\nA='S3CRET\n",
            json!({"k": "S3CRET"}),
            "line 2: not valid environment file: a quote",
        ),
        (
            Format::Env,
            "export S3CRET k\n",
            json!({"k": "S3CRET"}),
            "a line that is not an assignment contains it",
        ),
        (
            Format::Json,
            "{\"t\": \"S3CRET\"}",
            json!({"k": 1}),
            "\"t\" is a string in this file",
        ),
        (
            Format::Json,
            "{\"t\": {\n\"S3CRET}",
            json!({"k": 1}),
            "not valid JSON",
        ),
        (
            Format::Json,
            "{\"t\":{\"k\":1,\"k\":2}}",
            json!({"k": "S3CRET"}),
            "more than once",
        ),
        (
            Format::Toml,
            "t = \"S3CRET",
            json!({"k": 1}),
            "line 1: not valid TOML",
        ),
        (
            Format::Toml,
            "",
            json!({"k": [null, "S3CRET"]}),
            "TOML has no null",
        ),
        (Format::Toml, "", json!({"k": u64::MAX}), "too large for TOML"),
        (
            Format::Toml,
            "[t.k]\n",
            json!({"k": "S3CRET"}),
            "a table of its own",
        ),
        (
            Format::Yaml,
            "t: &a {k: S3CRET}\nu: *a\n",
            json!({"k": "S3CRET2"}),
            "cannot edit \"t\" safely",
        ),
        (
            Format::Yaml,
            "t: {k: !!str S3CRET}\n",
            json!({"k": "S3CRET2"}),
            "an anchor, an alias or a tag",
        ),
        (Format::Yaml, "t: 'S3CRET\n", json!({"k": 1}), "not valid YAML"),
        (
            Format::Yaml,
            "t: 1\n---\nt: 2\n",
            json!({"k": 1}),
            "more than one document",
        ),
        (
            Format::Yaml,
            "t: {k: 1, k: 2}\n",
            json!({"k": 1}),
            "more than once",
        ),
        (Format::Yaml, "t: S3CRET\n", json!({"k": 1}), "\"t\" is a string"),
        (Format::Yaml, "", json!({"k": "S3CRET\u{0}"}), "cannot hold NUL"),
    ];
    for (format, text, desired, want) in table {
        let at = if *format == Format::Env { "" } else { "t" };
        let error = refusal(*format, text, at, desired.clone());
        assert!(error.contains(want), "{format:?} {text:?}: {error}");
        assert!(!error.contains("S3CRET"), "{error}");
    }
}

/// R22: environment files of packages are often small shell scripts.
#[test]
fn lines_of_an_environment_file_that_are_no_assignment_are_kept() {
    let text = "ulimit -n 4096\nA=1\nexport A\n[ -r /etc/x ] && . /etc/x\nJAVA.OPTS=1\nB = 2\n";
    let keys = Format::Env.read(text, &[]).unwrap();
    assert_eq!(keys, Keys::from([("A".to_owned(), json!("1"))]));
    let desired = Keys::from([("A".to_owned(), json!("3")), ("C".to_owned(), json!("4"))]);
    let edited = Format::Env.merge(text, &[], &desired).unwrap().unwrap();
    assert_eq!(edited, format!("{}C=4\n", text.replace("A=1", "A=3")));
}

#[test]
fn a_few_lines_of_aliases_do_not_fill_the_memory() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let of = format!("*a{}, ", n - 1).repeat(10);
        text.push_str(&format!("a{n}: &a{n} [{of}]\n"));
    }
    let error = Format::Yaml.read(&text, &[]).unwrap_err().to_string();
    assert!(error.contains("too many values"), "{error}");
    // A gigabyte, if it were taken.
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(20_000), "*a, ".repeat(50_000));
    let error = Format::Yaml.read(&long, &[]).unwrap_err().to_string();
    assert!(error.contains("too many values"), "{error}");
    let deep = "[".repeat(200);
    assert!(Format::Yaml.read(&deep, &[]).is_err());
}

fn any_format() -> impl Strategy<Value = Format> {
    prop_oneof![
        Just(Format::Ini),
        Just(Format::Json),
        Just(Format::Yaml),
        Just(Format::Toml),
        Just(Format::Env)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Whatever is in a file, and whatever is to come into it: no panic, and what is written reads
    /// back.
    #[test]
    fn any_text_is_merged_or_refused(
        format in any_format(),
        text in "([ -~é\n]|\\[t\\]\n|t:\n  |k *[:=] *|  k: |\"|'|# |\\{|\\}|\\[|\\]|[&*]a |- |\\|\n){0,24}",
        value in "\\PC{0,8}",
    ) {
        let desired = Keys::from([("k".to_owned(), Value::String(value))]);
        let table = if format == Format::Env { vec![] } else { path("t") };
        if let Ok(Some(out)) = format.merge(&text, &table, &desired) {
            prop_assert_eq!(format.merge(&out, &table, &desired), Ok(None));
        }
    }

    /// Any string that a format takes into an empty file comes back as it was.
    #[test]
    fn any_string_comes_back(format in any_format(), value in "([\\PC]|[\"'\\\\$` #;:=\n\t-]){0,12}") {
        let desired = Keys::from([("k".to_owned(), Value::String(value.clone()))]);
        let table = if format == Format::Env { vec![] } else { path("t") };
        match format.merge("", &table, &desired) {
            Ok(Some(out)) => prop_assert_eq!(format.read(&out, &table).unwrap(), desired),
            Ok(None) => prop_assert!(false, "nothing written"),
            Err(FormatError::Unrepresentable { .. }) => {
                prop_assert!(matches!(format, Format::Ini | Format::Env) && (value.contains('\n') || value.trim() != value));
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}
