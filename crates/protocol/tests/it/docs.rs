//! Checks docs/protocol.md against the code.

use std::path::Path;

use protocol::{Inbound, Limits, PlanAnswer, Status, decode};

pub fn protocol_page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/protocol.md");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_example_of_a_message_is_valid() {
    let page = protocol_page();
    let examples: Vec<&str> = page
        .split("```json\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(examples.len() >= 5, "only {} examples found", examples.len());
    for example in examples {
        let body = example.as_bytes();
        let is_inbound = matches!(
            decode(body, Limits::default()),
            Ok(Inbound::SetConfig(_) | Inbound::Ping { .. } | Inbound::Plan { .. })
        );
        if !is_inbound && PlanAnswer::decode(body, Limits::default()).is_err() {
            let status = Status::decode(body, Limits::default());
            assert!(status.is_ok(), "{:?}\nin {example}", status.unwrap_err());
        }
    }
}

#[test]
fn the_errors_shown_are_those_of_the_decoder() {
    let page = protocol_page();
    for application in [r#"{"-h":{"version":"1"}}"#, r#"{"app_foo":{"version":1.2}}"#] {
        let body = format!(r#"{{"opcode":"set_config","data":{application}}}"#);
        let error = decode(body.as_bytes(), Limits::default()).unwrap_err();
        assert!(
            page.contains(&format!("    {error}\n")),
            "not in docs/protocol.md: {error}"
        );
    }
}
