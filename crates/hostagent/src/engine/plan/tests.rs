use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use protocol::{Category, Config};
use serde_json::{Value, json};

use super::*;
use host::{Contract, ContractKind, HostError, ServiceState};

/// The `data` of a `set_config`, its applications' versions given as `1`.
fn desired(data: Value) -> Apps {
    serde_json::from_value(data).unwrap()
}

/// An application `name` at version 1-1, managed, its one service running and enabled.
fn there(name: &str) -> (AppName, ObservedApp) {
    let state = ServiceState {
        running: true,
        enabled: Some(true),
        instance: None,
        masked: false,
    };
    let app = ObservedApp {
        package: name.into(),
        version: "1-1".into(),
        broken: false,
        managed: true,
        url: None,
        rank: None,
        contract: contract(ContractKind::Hook),
        service_errors: BTreeMap::new(),
        outdated: BTreeSet::new(),
        services: BTreeMap::from([(name.to_owned(), Some(state))]),
        config: Arc::new(Ok(Config::new())),
        config_unfinished: false,
        healthy: true,
        config_read_at: None,
    };
    (AppName::new(name).unwrap(), app)
}

fn observed(apps: impl IntoIterator<Item = (AppName, ObservedApp)>) -> Observed {
    Observed {
        apps: apps.into_iter().collect(),
        packages: Arc::default(),
        files: BTreeMap::new(),
    }
}

fn contract(kind: ContractKind) -> Result<Arc<Contract>, HostError> {
    Ok(Arc::new(Contract {
        kind,
        services: None,
        watched_files: Arc::default(),
        has_checks: false,
        stamp: None,
    }))
}

/// Each step as `app: what`, each fault as `app! phase category`.
fn lines(plan: &Plan) -> Vec<String> {
    let steps = shown(plan)
        .into_iter()
        .map(|step| format!("{}: {}", step.app, step.text));
    let faults = plan
        .faults
        .iter()
        .map(|f| format!("{}! {:?} {:?}", f.app, f.phase, f.category));
    steps.chain(faults).collect()
}

fn plan_of(data: Value, apps: impl IntoIterator<Item = (AppName, ObservedApp)>) -> Plan {
    let (desired, observed) = (desired(data), observed(apps));
    plan(
        &desired_targets(&desired, &observed, Family::Deb),
        &observed,
        Family::Deb,
    )
}

fn plan_lines(data: Value, apps: impl IntoIterator<Item = (AppName, ObservedApp)>) -> Vec<String> {
    lines(&plan_of(data, apps))
}

fn change(mut app: (AppName, ObservedApp), change: impl FnOnce(&mut ObservedApp)) -> (AppName, ObservedApp) {
    change(&mut app.1);
    app
}

#[test]
fn what_is_as_desired_needs_nothing() {
    assert_eq!(plan_lines(json!({"a": {"version": "1"}}), [there("a")]), [""; 0]);
    assert_eq!(
        plan_lines(json!({"a": {"version": "1-1"}}), [there("a")]),
        [""; 0]
    );
    assert_eq!(plan_lines(json!({}), []), [""; 0]);
}

#[test]
fn what_is_absent_is_installed_then_configured_then_run() {
    let data = json!({"a": {"version": "1", "config": {"s": {"k": 1}}}});
    assert_eq!(
        plan_lines(data, []),
        [
            "a: install version 1",
            "a: configure s.k",
            "a: enable and start its services"
        ]
    );
}

#[test]
fn versions_change_in_place() {
    assert_eq!(
        plan_lines(json!({"a": {"version": "2"}}), [there("a")]),
        ["a: upgrade from 1-1 to 2"]
    );
    assert_eq!(
        plan_lines(json!({"a": {"version": "0.9"}}), [there("a")]),
        ["a: downgrade from 1-1 to 0.9"]
    );
    assert_eq!(
        plan_lines(json!({"a": {"version": "1-2"}}), [there("a")]),
        ["a: upgrade from 1-1 to 1-2"]
    );
}

#[test]
fn a_half_installed_package_is_installed_again() {
    let broken = change(there("a"), |a| a.broken = true);
    assert_eq!(
        plan_lines(json!({"a": {"version": "1"}}), [broken]),
        ["a: reinstall version 1"]
    );
}

#[test]
fn what_is_not_desired_is_stopped_and_removed() {
    assert_eq!(
        plan_lines(json!({}), [there("a")]),
        ["a: stop a before removal", "a: remove package a 1-1"]
    );
}

#[test]
fn nothing_unmanaged_is_ever_removed() {
    assert_eq!(
        plan_lines(json!({}), [change(there("a"), |a| a.managed = false)]),
        [""; 0]
    );
}

#[test]
fn the_agent_itself_is_never_removed_by_omission() {
    assert_eq!(plan_lines(json!({}), [there("hostagent")]), [""; 0]);
    let renamed = change(there("agent"), |a| a.package = "hostagent".into());
    assert_eq!(plan_lines(json!({}), [renamed]), [""; 0]);
}

#[test]
fn what_was_installed_by_others_is_adopted_and_then_treated_like_any() {
    let foreign = || change(there("a"), |a| a.managed = false);
    assert_eq!(
        plan_lines(json!({"a": {"version": "1"}}), [foreign()]),
        ["a: adopt package a"]
    );
    assert_eq!(
        plan_lines(json!({"a": {"version": "2"}}), [foreign()]),
        ["a: adopt package a", "a: upgrade from 1-1 to 2"]
    );
}

#[test]
fn services_are_brought_to_running_and_enabled_or_neither() {
    let stopped = || {
        change(there("a"), |a| {
            a.services.insert(
                "a".into(),
                Some(ServiceState {
                    running: false,
                    enabled: Some(false),
                    instance: None,
                    masked: false,
                }),
            );
        })
    };
    assert_eq!(
        plan_lines(json!({"a": {"version": "1"}}), [stopped()]),
        ["a: enable a", "a: start a"]
    );
    assert_eq!(
        plan_lines(json!({"a": {"version": "1", "running": false}}), [stopped()]),
        [""; 0]
    );
    assert_eq!(
        plan_lines(json!({"a": {"version": "1", "running": false}}), [there("a")]),
        ["a: disable a", "a: stop a"]
    );
    let fixed = change(there("a"), |a| {
        a.services.insert(
            "a".into(),
            Some(ServiceState {
                running: true,
                enabled: None,
                instance: None,
                masked: false,
            }),
        );
    });
    assert_eq!(
        plan_lines(json!({"a": {"version": "1", "running": false}}), [fixed]),
        ["a: stop a"]
    );
}

#[test]
fn services_can_be_told_apart() {
    let two = || {
        change(there("a"), |a| {
            a.services.insert(
                "b".into(),
                Some(ServiceState {
                    running: true,
                    enabled: Some(true),
                    instance: None,
                    masked: false,
                }),
            );
        })
    };
    let data = json!({"a": {"version": "1", "service_states": {"a": true, "b": false}}});
    assert_eq!(plan_lines(data, [two()]), ["a: disable b", "a: stop b"]);
    let data = json!({"a": {"version": "1", "service_states": {"c": true}}});
    assert_eq!(plan_lines(data, [two()]), ["a! Service NotFound"]);
}

#[test]
fn running_without_a_service_is_a_fault() {
    let none = || change(there("a"), |a| a.services.clear());
    assert_eq!(
        plan_lines(json!({"a": {"version": "1"}}), [none()]),
        ["a! Service NotFound"]
    );
    assert_eq!(
        plan_lines(json!({"a": {"version": "1", "running": false}}), [none()]),
        [""; 0]
    );
    let missing = change(there("a"), |a| {
        a.services = BTreeMap::from([("gone".to_owned(), None)])
    });
    assert_eq!(
        plan_lines(json!({"a": {"version": "1"}}), [missing]),
        ["a! Service NotFound"]
    );
}

#[test]
fn config_changes_only_by_what_differs() {
    let configured = || {
        let config = json!({"s": {"same": "8080", "other": "x", "extra": 1}});
        change(there("a"), |a| {
            a.config = Arc::new(Ok(serde_json::from_value(config).unwrap()))
        })
    };
    let data =
        json!({"a": {"version": "1", "config": {"s": {"same": 8080, "other": "y"}, "t": {"new": true}}}});
    assert_eq!(plan_lines(data, [configured()]), ["a: configure s.other, t.new"]);
    let subset = json!({"a": {"version": "1", "config": {"s": {"extra": 1}}}});
    assert_eq!(plan_lines(subset, [configured()]), [""; 0]);
}

#[test]
fn a_config_that_was_written_but_not_taken_up_is_written_again() {
    let data = || json!({"a": {"version": "1", "config": {"s": {"k": 1}}}});
    let written = |kind| {
        change(there("a"), |a| {
            a.config = Arc::new(Ok(serde_json::from_value(json!({"s": {"k": 1}})).unwrap()));
            a.config_unfinished = true;
            a.contract = contract(kind);
        })
    };
    let again = "a: finish an interrupted change of the config";
    assert_eq!(plan_lines(data(), [written(ContractKind::Manifest)]), [again]);
    assert_eq!(plan_lines(data(), [written(ContractKind::None)]), [""; 0]);
}

#[test]
fn config_needs_a_contract_and_a_contract_that_answers() {
    let data = || json!({"a": {"version": "1", "config": {"s": {"k": 1}}}});
    let without = change(there("a"), |a| a.contract = contract(ContractKind::None));
    assert_eq!(plan_lines(data(), [without]), ["a! Configure Invalid"]);
    let hangs = HostError::new(Category::Timeout, "the hook did not end within 30 s");
    let unreadable = change(there("a"), |a| a.config = Arc::new(Err(hangs)));
    assert_eq!(plan_lines(data(), [unreadable]), ["a! Configure Timeout"]);
}

#[test]
fn what_is_wrong_with_the_old_version_does_not_fault_the_new_one() {
    let serviceless = change(there("a"), |a| a.services.clear());
    assert_eq!(
        plan_lines(json!({"a": {"version": "2"}}), [serviceless]),
        ["a: upgrade from 1-1 to 2"]
    );
}

#[test]
fn work_goes_by_rank_and_removals_in_reverse() {
    let data = json!({
        "a": {"version": "1"},
        "b": {"version": "1", "rank": 2},
        "c": {"version": "1", "rank": 1},
    });
    let installs: Vec<String> = plan_lines(data, [])
        .into_iter()
        .filter(|l| l.contains("install"))
        .collect();
    assert_eq!(
        installs,
        [
            "c: install version 1",
            "b: install version 1",
            "a: install version 1"
        ]
    );

    let ranked = |name: &str, rank: f64| {
        change(there(name), |a| {
            a.rank = Some(Rank(rank));
            a.services.clear();
        })
    };
    let unranked = change(there("z"), |a| a.services.clear());
    assert_eq!(
        plan_lines(json!({}), [ranked("b", 2.0), ranked("c", 1.0), unranked]),
        [
            "z: remove package z 1-1",
            "b: remove package b 1-1",
            "c: remove package c 1-1"
        ]
    );
}

#[test]
fn the_first_stage_holds_all_packages_and_nothing_else() {
    let data = json!({"a": {"version": "2", "running": false}, "b": {"version": "1"}});
    let plan = plan_of(data, [there("a"), there("c")]);
    let steps: Vec<String> = plan
        .packages
        .iter()
        .map(|step| format!("{}: {}", step.app, step.action))
        .collect();
    assert_eq!(
        steps,
        [
            "c: stop c before removal",
            "c: remove package c 1-1",
            "a: upgrade from 1-1 to 2",
            "b: install version 1"
        ]
    );
}

#[test]
fn a_plan_names_keys_for_people_and_values_only_in_json() {
    let data = json!({"a": {"version": "1", "config": {"s": {"password": "hunter2"}}}});
    let plan = plan_of(data, [there("a")]);
    assert!(!lines(&plan).concat().contains("hunter2"));
    assert_eq!(
        serde_json::to_value(json!({"steps": shown(&plan)})).unwrap(),
        json!({"steps": [{
            "app": "a",
            "action": "configure",
            "changes": [{"section": "s", "key": "password", "to": "hunter2"}],
        }]})
    );
}

#[test]
fn a_version_pattern_upgrades_and_never_downgrades() {
    let at = |version: &str| {
        let version = version.to_owned();
        change(there("a"), |a| a.version = version)
    };
    let data = || json!({"a": {"version": "1.22.*"}});
    assert_eq!(plan_lines(data(), [at("1.22.9-1")]), [""; 0]);
    assert_eq!(
        plan_lines(data(), [at("1.21.3-1")]),
        ["a: upgrade from 1.21.3-1 to 1.22.*"]
    );
    assert_eq!(plan_lines(data(), [at("1.23.1-1")]), ["a! Check Invalid"]);
    assert_eq!(plan_lines(json!({"a": {"version": "*"}}), [at("7-1")]), [""; 0]);
}

#[test]
fn a_service_whose_state_cannot_be_told_is_a_fault_of_its_application_alone() {
    let odd = change(there("a"), |a| {
        a.services.insert("a".into(), None);
        let error = HostError::new(Category::Script, "its status ended with 4");
        a.service_errors.insert("a".into(), error);
    });
    let data = json!({"a": {"version": "1"}, "b": {"version": "1"}});
    assert_eq!(plan_lines(data, [odd, there("b")]), ["a! Service Script"]);
}

#[test]
fn service_states_name_services_with_or_without_their_suffix() {
    let data = json!({"a": {"version": "1", "service_states": {"a.service": false}}});
    assert_eq!(plan_lines(data, [there("a")]), ["a: disable a", "a: stop a"]);
}

/// Field report R04: the master counts such a host as not as desired, so it must not be called ok.
#[test]
fn another_package_than_the_installed_one_is_a_fault() {
    let data = json!({"a": {"version": "1", "package": "a-ng"}});
    assert_eq!(plan_lines(data, [there("a")]), ["a! Check Invalid"]);
    let same = json!({"a": {"version": "1", "package": "a"}});
    assert_eq!(plan_lines(same, [there("a")]), [""; 0]);
}
