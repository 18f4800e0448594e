use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use protocol::{AppName, Category, Config, Limits, Status};
use serde_json::json;

use super::*;
use crate::engine::observe::{ObservedApp, ReadAt};
use crate::host_state::{HostState, Standing};
use crate::ledger::Desired;
use crate::status::{Particulars, build, without_apps};
use host::{ContractKind, Facts, HostError, ServiceState};

fn there(config: Result<Config, HostError>, read_at: Option<Instant>) -> ObservedApp {
    let state = ServiceState {
        running: true,
        enabled: None,
        instance: Some(7),
    };
    ObservedApp {
        package: "a \"quoted\" package".into(),
        version: "1:2-3".into(),
        broken: false,
        managed: true,
        url: Some("http://host/a.deb".into()),
        rank: None,
        contract: ContractKind::Manifest,
        config_files: Arc::default(),
        services: BTreeMap::from([("a".to_owned(), Some(state)), ("gone".to_owned(), None)]),
        config: Arc::new(config),
        config_unfinished: false,
        healthy: true,
        config_read_at: read_at.map(ReadAt::new),
    }
}

fn host_state(apps: impl IntoIterator<Item = (&'static str, ObservedApp)>) -> HostState {
    let desired = Desired {
        apps: serde_json::from_value(json!({"a": {"version": "2"}})).unwrap(),
        ..Desired::default()
    };
    let apps = apps
        .into_iter()
        .map(|(name, app)| (AppName::new(name).unwrap(), app));
    HostState {
        desired: Arc::new(desired),
        observed: Some(Arc::new(Observed {
            apps: apps.collect(),
            packages: Arc::default(),
        })),
        standing: Standing::Ok,
        announced: 0,
    }
}

fn particulars<'a>(host_id: &'a protocol::HostId, facts: &'a Facts) -> Particulars<'a> {
    Particulars {
        host_id,
        boot_id: "b",
        facts,
        started: Instant::now(),
        last_rejected: None,
        reply_to: None,
    }
}

fn applications_alone(state: &HostState) -> serde_json::Value {
    let mut bytes = Vec::new();
    EncodedApps::new(&state.desired.apps, state.observed.as_deref()).write(Instant::now(), &mut bytes);
    serde_json::from_slice(&bytes).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_status_in_two_parts_is_byte_by_byte_the_one_that_is_built_whole() {
    let config: Config = serde_json::from_value(json!({"s": {"key": "line\nä \"x\""}})).unwrap();
    let unreadable = HostError::new(Category::Host, "no");
    let read_at = Instant::now();
    tokio::time::advance(Duration::from_secs(1234)).await;
    let unmanaged = ObservedApp {
        managed: false,
        ..there(Ok(Config::new()), None)
    };
    let table = [
        vec![],
        vec![("a", there(Ok(config.clone()), Some(read_at)))],
        vec![
            ("a", there(Ok(config), Some(read_at))),
            ("b", unmanaged),
            ("c", there(Err(unreadable), None)),
        ],
    ];
    let (host_id, facts) = (protocol::HostId::new("h").unwrap(), Facts::new());
    for apps in table {
        let state = host_state(apps);
        let whole = build(&state, &particulars(&host_id, &facts));
        let mut head = without_apps(&state, &particulars(&host_id, &facts));
        head.timestamp.clone_from(&whole.timestamp);
        head.host_agent.clone_from(&whole.host_agent);
        let encoded = EncodedApps::new(&state.desired.apps, state.observed.as_deref());
        let bytes = head.encode_with(|bytes| encoded.write(Instant::now(), bytes));
        assert_eq!(
            String::from_utf8(bytes.clone()).unwrap(),
            String::from_utf8(whole.encode()).unwrap()
        );
        assert_eq!(Status::decode(&bytes, Limits::default()).unwrap(), whole);
    }
}

#[tokio::test(start_paused = true)]
async fn the_age_of_a_config_grows_though_nothing_else_changes() {
    let state = host_state([("a", there(Ok(Config::new()), Some(Instant::now())))]);
    let encoded = EncodedApps::new(&state.desired.apps, state.observed.as_deref());
    for age in [0, 9, 10, 100_000] {
        let mut bytes = Vec::new();
        encoded.write(Instant::now() + Duration::from_secs(age), &mut bytes);
        let apps: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(apps["a"]["config_age_s"], age);
    }
    assert_eq!(applications_alone(&state)["a"]["version"], "2");
}
