//! Valid values of every message.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use protocol::plan::{PlanFault, PlanStep, Undo};
use protocol::spec::Rank;
use protocol::status::{AgentInfo, Health, Rejected, ServiceStatus};
use protocol::{
    AppName, AppSpec, AppStatus, Apps, Category, Config, ErrorReport, HostId, Phase, PlanAnswer, SetConfig,
    State, Status,
};
use serde_json::Value;

pub fn config_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(any::<String>(), inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn config() -> impl Strategy<Value = Config> {
    btree_map(".{0,8}", btree_map(".{0,8}", config_value(), 0..3), 0..3)
}

pub fn app_name() -> impl Strategy<Value = AppName> {
    "[A-Za-z0-9][A-Za-z0-9+._-]{0,127}".prop_filter_map("a reserved name", |name| AppName::new(name).ok())
}

fn spec() -> impl Strategy<Value = AppSpec> {
    (
        "[!-,.0-~][!-.0-~]{0,255}",
        option::of("(http|HTTPS|file):[ -~]{0,40}"),
        option::of("[A-Za-z0-9][A-Za-z0-9+._-]{0,20}"),
        option::of("[0-9a-f]{64}"),
        any::<bool>(),
        config(),
        option::of(btree_map(
            "[A-Za-z0-9][A-Za-z0-9+._@-]{0,20}",
            any::<bool>(),
            0..3,
        )),
        option::of(proptest::num::f64::NORMAL.prop_map(Rank)),
    )
        .prop_map(
            |(version, url, package, sha256, running, config, service_states, rank)| AppSpec {
                version,
                url,
                package,
                sha256,
                running,
                config,
                service_states,
                rank,
                requires: Vec::new(),
            },
        )
}

pub fn apps() -> impl Strategy<Value = Apps> {
    let required = vec(any::<prop::sample::Index>(), 0..3);
    btree_map(app_name(), (spec(), required), 0..4).prop_map(|apps| {
        let names: Vec<AppName> = apps.keys().cloned().collect();
        let requiring = |(name, (spec, required)): (AppName, (AppSpec, Vec<prop::sample::Index>))| {
            let required: BTreeSet<&AppName> = required.iter().map(|index| index.get(&names)).collect();
            let requires = required
                .into_iter()
                .filter(|other| **other != name)
                .cloned()
                .collect();
            (name, AppSpec { requires, ..spec })
        };
        apps.into_iter().map(requiring).collect()
    })
}

pub fn set_config() -> impl Strategy<Value = SetConfig> {
    let hash = option::of("[0-9a-f]{6,64}");
    (
        option::of(".{0,60}"),
        option::of(any::<u64>()),
        hash,
        any::<bool>(),
        apps(),
    )
        .prop_map(|(id, generation, only_if_plan, retry, apps)| SetConfig {
            id,
            generation,
            only_if_plan,
            retry,
            apps,
        })
}

pub fn plan_answer() -> impl Strategy<Value = PlanAnswer> {
    let undo = (any::<bool>(), ".{0,8}").prop_map(|(possible, how)| Undo { possible, how });
    let step = (app_name(), ".{0,8}", any::<String>(), undo).prop_map(|(app, action, text, undo)| PlanStep {
        app,
        action,
        text,
        undo,
    });
    let fault = (
        app_name(),
        proptest::sample::select(PHASES),
        proptest::sample::select(CATEGORIES),
        any::<String>(),
    )
        .prop_map(|(app, phase, category, message)| PlanFault {
            app,
            phase,
            category,
            message,
        });
    (
        host_id(),
        option::of(".{0,8}"),
        "[0-9a-f]{6,64}",
        vec(step, 0..3),
        vec(fault, 0..3),
        option::of(any::<String>()),
    )
        .prop_map(|(host_id, reply_to, hash, steps, faults, error)| PlanAnswer {
            host_id,
            reply_to,
            hash,
            steps,
            faults,
            error,
        })
}

fn host_id() -> impl Strategy<Value = HostId> {
    "[0-9A-F:]{1,17}".prop_filter_map("no host id", |id| HostId::new(id).ok())
}

fn app_status() -> impl Strategy<Value = AppStatus> {
    let service = any::<(bool, bool)>().prop_map(|(running, enabled)| ServiceStatus { running, enabled });
    (
        (".{0,8}", ".{0,8}", ".{0,8}", option::of(".{0,8}")),
        any::<bool>(),
        config(),
        btree_map(".{0,8}", service, 0..3),
        prop_oneof![Just(Health::Ok), Just(Health::Failing), Just(Health::Unknown)],
        option::of(any::<u64>()),
    )
        .prop_map(
            |((version, package_version, package, url), running, config, services, health, config_age_s)| {
                AppStatus {
                    version,
                    package_version,
                    package,
                    url,
                    running,
                    config,
                    services,
                    health,
                    config_age_s,
                }
            },
        )
}

fn error_report() -> impl Strategy<Value = ErrorReport> {
    (
        option::of(app_name()),
        proptest::sample::select(PHASES),
        proptest::sample::select(CATEGORIES),
        any::<String>(),
        any::<u32>(),
        option::of(".{0,20}"),
        any::<bool>(),
    )
        .prop_map(
            |(app, phase, category, message, attempt, next_retry, rolled_back)| ErrorReport {
                app,
                phase,
                category,
                message,
                attempt,
                next_retry,
                rolled_back,
            },
        )
}

pub fn status() -> impl Strategy<Value = Status> {
    let rejected =
        (any::<String>(), ".{0,8}", option::of(".{0,8}")).prop_map(|(reason, timestamp, id)| Rejected {
            reason,
            timestamp,
            id,
        });
    let agent = (".{0,8}", any::<u64>(), any::<u64>()).prop_map(|(version, uptime_s, rss_kib)| AgentInfo {
        version,
        uptime_s,
        rss_kib,
    });
    (
        (
            host_id(),
            prop_oneof![Just(State::Ok), Just(State::Converging), Just(State::Errors)],
            option::of(".{0,20}"),
        ),
        btree_map(".{0,8}", config_value(), 0..3),
        btree_map(app_name(), app_status(), 0..3),
        option::of(apps()),
        vec(error_report(), 0..3),
        option::of(rejected),
        agent,
        (option::of(any::<u64>()), option::of(".{0,20}")),
        (any::<u64>(), ".{0,20}", ".{0,20}"),
    )
        .prop_map(
            |(
                (host_id, status, detail),
                info,
                apps,
                desired_apps,
                errors,
                last_rejected,
                host_agent,
                (generation, reply_to),
                (seq, boot_id, timestamp),
            )| Status {
                host_id,
                status,
                detail,
                info,
                apps,
                desired_apps,
                errors,
                last_rejected,
                host_agent,
                generation,
                reply_to,
                seq,
                boot_id,
                timestamp,
            },
        )
}

pub const PHASES: &[Phase] = &[
    Phase::Connect,
    Phase::Decode,
    Phase::Observe,
    Phase::Download,
    Phase::Verify,
    Phase::Check,
    Phase::Install,
    Phase::Remove,
    Phase::Configure,
    Phase::Service,
    Phase::Health,
    Phase::Rollback,
];

pub const CATEGORIES: &[Category] = &[
    Category::Invalid,
    Category::Conflict,
    Category::Network,
    Category::Locked,
    Category::DiskSpace,
    Category::Verification,
    Category::NotFound,
    Category::Dependency,
    Category::Script,
    Category::Timeout,
    Category::Unhealthy,
    Category::Host,
];

/// An application as only its version makes it.
pub fn plain_spec(version: &str) -> AppSpec {
    AppSpec {
        version: version.into(),
        url: None,
        package: None,
        sha256: None,
        running: true,
        config: BTreeMap::new(),
        service_states: None,
        rank: None,
        requires: Vec::new(),
    }
}
