//! For any input: no panic, errors of one printable line, and encoding and decoding lose nothing.

use proptest::prelude::*;
use protocol::satisfied::same_value;
use protocol::{
    DecodeError, Inbound, Limits, PlanAnswer, Status, decode, decode_apps, encode_ping, encode_plan,
};

use crate::arbitrary;

fn without_files() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn assert_presentable(error: &DecodeError) -> Result<(), TestCaseError> {
    prop_assert!(error.path.starts_with('$'), "{error:?}");
    prop_assert!(!error.reason.is_empty());
    prop_assert!(
        !error.to_string().chars().any(char::is_control),
        "not one printable line: {error:?}"
    );
    Ok(())
}

/// All decoders, on one body.
fn check_all(body: &[u8]) -> Result<(), TestCaseError> {
    match decode(body, Limits::default()) {
        // A decoded message can be encoded again and decodes to the same value.
        Ok(Inbound::SetConfig(message)) => prop_assert_eq!(
            decode(&message.encode(), Limits::default()),
            Ok(Inbound::SetConfig(message))
        ),
        Ok(Inbound::Plan { id, apps }) => prop_assert_eq!(
            decode(&encode_plan(&apps, id.as_deref()), Limits::default()),
            Ok(Inbound::Plan { id, apps })
        ),
        Ok(Inbound::Ping { .. } | Inbound::Unknown { .. }) => {}
        Err(error) => assert_presentable(&error)?,
    }
    if let Err(error) = decode_apps(body, Limits::default()) {
        assert_presentable(&error)?;
    }
    if let Err(error) = Status::decode(body, Limits::default()) {
        assert_presentable(&error)?;
    }
    if let Err(error) = PlanAnswer::decode(body, Limits::default()) {
        assert_presentable(&error)?;
    }
    Ok(())
}

/// Content that careless and hostile senders put into messages.
const SNIPPETS: &[&[u8]] = &[
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b",",
    b":",
    b"\\",
    b"\0",
    b"\n",
    b"\xff",
    b"\xed\xa0\x80",
    b"\\u0000",
    b"\\ud800",
    b"null",
    b"-",
    b"true",
    b"\"id\":",
    b"{\"a\":1,\"a\":2}",
    "\u{feff}".as_bytes(),
    "\u{2028}".as_bytes(),
];

#[derive(Debug, Clone)]
enum Mutation {
    Set(u8),
    Insert(&'static [u8]),
    Delete(usize),
    Repeat(usize),
}

fn mutation() -> impl Strategy<Value = (prop::sample::Index, Mutation)> {
    let what = prop_oneof![
        any::<u8>().prop_map(Mutation::Set),
        prop::sample::select(SNIPPETS).prop_map(Mutation::Insert),
        (1_usize..40).prop_map(Mutation::Delete),
        (1_usize..40).prop_map(Mutation::Repeat),
    ];
    (any::<prop::sample::Index>(), what)
}

fn mutate(body: &mut Vec<u8>, mutations: Vec<(prop::sample::Index, Mutation)>) {
    for (index, mutation) in mutations {
        if body.is_empty() {
            return;
        }
        let at = index.index(body.len());
        let end = |len: usize| (at + len).min(body.len());
        match mutation {
            Mutation::Set(byte) => body[at] = byte,
            Mutation::Insert(bytes) => drop(body.splice(at..at, bytes.iter().copied())),
            Mutation::Delete(len) => drop(body.drain(at..end(len))),
            Mutation::Repeat(len) => {
                let part = body[at..end(len)].to_vec();
                drop(body.splice(at..at, part));
            }
        }
    }
}

proptest! {
    #![proptest_config(without_files())]

    #[test]
    fn decoding_arbitrary_bytes_never_panics(body in prop::collection::vec(any::<u8>(), 0..400)) {
        check_all(&body)?;
    }

    #[test]
    fn decoding_arbitrary_text_never_panics(body in r#"[\[\]{}:,"\\a-e0-9.eE+ -]{0,200}"#) {
        check_all(body.as_bytes())?;
    }

    #[test]
    fn decoding_a_mutated_set_config_never_panics(
        message in arbitrary::set_config(),
        mutations in prop::collection::vec(mutation(), 1..5),
    ) {
        let mut body = message.encode();
        mutate(&mut body, mutations);
        check_all(&body)?;
    }

    #[test]
    fn decoding_a_mutated_status_never_panics(
        status in arbitrary::status(),
        mutations in prop::collection::vec(mutation(), 1..5),
    ) {
        let mut body = status.encode();
        mutate(&mut body, mutations);
        check_all(&body)?;
    }

    #[test]
    fn decoding_a_mutated_plan_answer_never_panics(
        answer in arbitrary::plan_answer(),
        mutations in prop::collection::vec(mutation(), 1..5),
    ) {
        let mut body = answer.encode();
        mutate(&mut body, mutations);
        check_all(&body)?;
    }

    #[test]
    fn a_plan_arrives_as_it_was_sent(apps in arbitrary::apps(), id in prop::option::of(".{0,60}")) {
        let body = encode_plan(&apps, id.as_deref());
        prop_assert_eq!(decode(&body, Limits::default()), Ok(Inbound::Plan { id, apps }));
    }

    #[test]
    fn a_plan_answer_arrives_as_it_was_sent(answer in arbitrary::plan_answer()) {
        prop_assert_eq!(PlanAnswer::decode(&answer.encode(), Limits::default()), Ok(answer));
    }

    #[test]
    fn a_set_config_arrives_as_it_was_sent(message in arbitrary::set_config()) {
        let body = message.encode();
        prop_assert_eq!(decode_apps(&body, Limits::default()), Ok(message.apps.clone()));
        let data = serde_json::to_vec(&message.apps).unwrap();
        prop_assert_eq!(decode_apps(&data, Limits::default()), Ok(message.apps.clone()));
        prop_assert_eq!(decode(&body, Limits::default()), Ok(Inbound::SetConfig(message)));
    }

    /// The ledger stores decoded applications with serde.
    #[test]
    fn stored_applications_are_read_as_they_were_written(apps in arbitrary::apps()) {
        let stored = serde_json::to_vec_pretty(&apps).unwrap();
        prop_assert_eq!(serde_json::from_slice::<protocol::Apps>(&stored).unwrap(), apps);
    }

    #[test]
    fn a_ping_arrives_as_it_was_sent(id in prop::option::of(".{0,60}")) {
        prop_assert_eq!(decode(&encode_ping(id.as_deref()), Limits::default()), Ok(Inbound::Ping { id }));
    }

    #[test]
    fn a_status_arrives_as_it_was_sent(status in arbitrary::status()) {
        prop_assert_eq!(Status::decode(&status.encode(), Limits::default()), Ok(status));
    }

    /// Otherwise a host would never count as converged.
    #[test]
    fn a_config_value_satisfies_itself_after_a_round_trip(value in arbitrary::config_value()) {
        let read = serde_json::from_str(&value.to_string()).unwrap();
        prop_assert!(same_value(&value, &read), "{value} read as {read}");
    }
}
