//! Messages off the broker, by every decoder that there is.

use protocol::{
    DecodeError, Inbound, Limits, PlanAnswer, Status, decode, decode_apps, decode_config, encode_ping,
    encode_plan,
};

/// What is taken can be said again and means the same; what is refused is refused with a place and a reason.
pub fn check(body: &[u8]) {
    let limits = Limits::default();
    match decode(body, limits) {
        Ok(Inbound::SetConfig(message)) => {
            let again = decode(&message.encode(), limits);
            assert_eq!(again, Ok(Inbound::SetConfig(message.clone())));
            let apps = serde_json::to_vec(&message.apps).unwrap_or_default();
            // An application called `opcode` is told from a message by being an object.
            assert_eq!(decode_apps(&apps, limits).as_ref(), Ok(&message.apps));
            // The ledger keeps it by way of serde.
            let stored: Option<protocol::Apps> = serde_json::from_slice(&apps).ok();
            assert_eq!(stored, Some(message.apps));
        }
        Ok(Inbound::Plan { id, apps }) => {
            let again = decode(&encode_plan(&apps, id.as_deref()), limits);
            assert_eq!(again, Ok(Inbound::Plan { id, apps }));
        }
        Ok(Inbound::Ping { id }) => {
            assert_eq!(
                decode(&encode_ping(id.as_deref()), limits),
                Ok(Inbound::Ping { id })
            );
        }
        Ok(Inbound::Unknown { opcode, .. }) => assert!(opcode.len() < 256, "{} bytes", opcode.len()),
        Err(error) => assert_presentable(&error),
    }
    match Status::decode(body, limits) {
        Ok(status) => assert_eq!(Status::decode(&status.encode(), limits), Ok(status)),
        Err(error) => assert_presentable(&error),
    }
    match PlanAnswer::decode(body, limits) {
        Ok(answer) => assert_eq!(PlanAnswer::decode(&answer.encode(), limits), Ok(answer)),
        Err(error) => assert_presentable(&error),
    }
    match decode_apps(body, limits) {
        Ok(apps) => {
            let again = serde_json::to_vec(&apps).unwrap_or_default();
            assert_eq!(decode_apps(&again, limits), Ok(apps));
        }
        Err(error) => assert_presentable(&error),
    }
    match decode_config(body, limits) {
        Ok(config) => {
            let again = serde_json::to_vec(&config).unwrap_or_default();
            assert_eq!(decode_config(&again, limits), Ok(config));
        }
        Err(error) => assert_presentable(&error),
    }
    // A host that sets a lower limit refuses more, never otherwise.
    let tight = Limits {
        max_size: body.len() / 2,
        max_depth: 2,
    };
    if let Err(error) = decode(body, tight) {
        assert_presentable(&error);
    }
}

fn assert_presentable(error: &DecodeError) {
    assert!(error.path.starts_with('$'), "{error:?}");
    assert!(!error.reason.is_empty(), "{error:?}");
    super::assert_one_line(&error.to_string());
}
