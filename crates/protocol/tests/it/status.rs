//! Statuses and plans that a master refuses, and the errors for them.

use protocol::{Limits, PlanAnswer, Status};

use crate::arbitrary::{CATEGORIES, PHASES};

#[test]
fn what_is_no_status_is_refused_with_its_path_and_without_its_values() {
    let table = [
        ("{", "$", "is not JSON"),
        ("[]", "$", "is an array; an object is needed"),
        (r#"{"opcode":"ping"}"#, "$.opcode", "is not \"status\""),
        (r#"{"opcode":"status"}"#, "$.data", "is missing"),
        (
            r#"{"opcode":"status","data":{}}"#,
            "$.data",
            "missing field `host_id`",
        ),
        (
            r#"{"opcode":"status","data":{"host_id":"h","status":"updating"}}"#,
            "$.data",
            "unknown variant",
        ),
        (
            r#"{"opcode":"status","data":{"host_id":"h","status":"ok","apps":{"a":{"version":"1","running":"hunter2"}}}}"#,
            "$.data.apps.a",
            "invalid type; a boolean is needed",
        ),
        (
            r#"{"opcode":"status","data":{"host_id":"h","status":"ok","apps":{"-a":{"version":"1","running":true}}}}"#,
            r#"$.data.apps["-a"]"#,
            "begins with '-'",
        ),
    ];
    for (body, path, reason) in table {
        let error = Status::decode(body.as_bytes(), Limits::default()).unwrap_err();
        assert_eq!(error.path, path, "{body}: {error}");
        assert!(error.reason.contains(reason), "{body}: {error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    let limits = Limits {
        max_size: 10,
        ..Limits::default()
    };
    let error = Status::decode(&[b' '; 11], limits).unwrap_err();
    assert_eq!(error.reason, "is 11 bytes long; at most 10 are allowed");
}

#[test]
fn what_is_no_plan_is_refused_with_its_path_and_without_its_values() {
    let table = [
        ("{", "$", "is not JSON"),
        (r#"{"opcode":"status","data":{}}"#, "$.opcode", "is not \"plan\""),
        (r#"{"opcode":"plan"}"#, "$.data", "is missing"),
        (
            r#"{"opcode":"plan","data":{"hash":"abcdef","steps":[]}}"#,
            "$.data",
            "missing field `host_id`",
        ),
        (
            r#"{"opcode":"plan","data":{"host_id":"h","hash":"abcdef","steps":[{"app":"a","action":"x","text":"hunter2","undo":"hunter2"}]}}"#,
            "$.data",
            "invalid type; struct Undo is needed",
        ),
    ];
    for (body, path, reason) in table {
        let error = PlanAnswer::decode(body.as_bytes(), Limits::default()).unwrap_err();
        assert_eq!(error.path, path, "{body}: {error}");
        assert!(error.reason.contains(reason), "{body}: {error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[test]
fn the_documentation_names_every_phase_and_category() {
    let page = crate::docs::protocol_page();
    for word in PHASES
        .iter()
        .map(serde_json::to_string)
        .chain(CATEGORIES.iter().map(serde_json::to_string))
    {
        let word = word.unwrap().replace('"', "`");
        assert!(
            page.contains(&format!("| {word} |")),
            "{word} is missing in docs/protocol.md"
        );
    }
}
