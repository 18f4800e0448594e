//! Golden files: each message as on the wire, formatted for reading.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use protocol::plan::{PlanFault, PlanStep, Undo};
use protocol::spec::Rank;
use protocol::status::{AgentInfo, Health, Rejected, ServiceStatus};
use protocol::{
    AppName, AppSpec, AppStatus, Apps, Category, Config, ErrorReport, HostId, Inbound, Limits, Phase,
    PlanAnswer, SetConfig, State, Status, decode, encode_ping, encode_plan, schema,
};
use serde_json::{Value, json};

use crate::arbitrary::plain_spec;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// Compares `text` with the file. With UPDATE_GOLDEN set, writes the file first.
fn assert_same_as_file(path: &Path, text: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, text).unwrap();
    }
    let file = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(
        text,
        file,
        "{} differs; UPDATE_GOLDEN=1 rewrites it",
        path.display()
    );
}

/// Compares an encoded message with its golden file, and returns the file's bytes.
fn assert_golden(name: &str, encoded: &[u8]) -> Vec<u8> {
    let value: Value = serde_json::from_slice(encoded).unwrap();
    assert_same_as_file(&golden(name), &format!("{value:#}\n"));
    std::fs::read(golden(name)).unwrap()
}

fn app(name: &str) -> AppName {
    AppName::new(name).unwrap()
}

fn config() -> Config {
    BTreeMap::from([(
        "DEFAULT".into(),
        BTreeMap::from([("debug".into(), json!(false)), ("port".into(), json!(8158))]),
    )])
}

fn desired() -> Apps {
    Apps::from([
        (app("app_bar"), plain_spec("2.1")),
        (
            app("app_foo"),
            AppSpec {
                version: "1.0.2-3".into(),
                url: Some("https://packages.example.org/app-foo_1.0.2-3_amd64.deb".into()),
                package: Some("app-foo".into()),
                sha256: Some("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".into()),
                running: true,
                config: config(),
                service_states: Some(BTreeMap::from([
                    ("app-foo-api".into(), true),
                    ("app-foo-worker".into(), false),
                ])),
                rank: Some(Rank(10.0)),
                requires: vec![app("app_bar")],
            },
        ),
    ])
}

fn service(running: bool) -> ServiceStatus {
    ServiceStatus {
        running,
        enabled: running,
    }
}

fn observed() -> BTreeMap<AppName, AppStatus> {
    BTreeMap::from([
        (
            app("app_bar"),
            AppStatus {
                version: "2.1".into(),
                package_version: "1:2.1-4".into(),
                package: "app_bar".into(),
                url: None,
                running: true,
                config: Config::new(),
                services: BTreeMap::new(),
                health: Health::Unknown,
                config_age_s: None,
            },
        ),
        (
            app("app_foo"),
            AppStatus {
                version: "1.0.2-3".into(),
                package_version: "1.0.2-3".into(),
                package: "app-foo".into(),
                url: Some("https://packages.example.org/app-foo_1.0.2-3_amd64.deb".into()),
                running: true,
                config: config(),
                services: BTreeMap::from([
                    ("app-foo-api".into(), service(true)),
                    ("app-foo-worker".into(), service(false)),
                ]),
                health: Health::Ok,
                config_age_s: Some(42),
            },
        ),
    ])
}

fn status_ok() -> Status {
    Status {
        host_id: HostId::new("02:FC:00:00:00:01").unwrap(),
        status: State::Ok,
        detail: None,
        info: BTreeMap::from([
            ("hostname".into(), json!("node1.example.org")),
            ("os_family".into(), json!("Linux")),
            ("arch".into(), json!("x86_64")),
            ("os_info".into(), json!("debian 12 bookworm")),
        ]),
        apps: observed(),
        desired_apps: None,
        errors: Vec::new(),
        last_rejected: None,
        host_agent: AgentInfo {
            version: "0.1.0".into(),
            uptime_s: 86_400,
            rss_kib: 5_120,
        },
        generation: Some(7),
        reply_to: Some("req-1".into()),
        seq: 12,
        boot_id: "5b0c8f5e-0c4b-4a43-9a54-3d2d1c9e7f10".into(),
        timestamp: "2025-01-02T03:04:05.678901Z".into(),
    }
}

fn status_converging() -> Status {
    Status {
        status: State::Converging,
        detail: Some("waiting for the package lock".into()),
        apps: BTreeMap::new(),
        desired_apps: Some(desired()),
        ..status_ok()
    }
}

fn status_errors() -> Status {
    let failed = |app, phase, category, message: &str| ErrorReport {
        app,
        phase,
        category,
        message: message.into(),
        attempt: 1,
        next_retry: None,
        rolled_back: false,
    };
    let refused = "$.data.app_foo.version: is missing; a string is needed";
    Status {
        status: State::Errors,
        desired_apps: Some(desired()),
        errors: vec![
            failed(None, Phase::Decode, Category::Invalid, refused),
            ErrorReport {
                attempt: 3,
                next_retry: Some("2025-01-02T03:05:05Z".into()),
                ..failed(
                    Some(app("app_bar")),
                    Phase::Download,
                    Category::Network,
                    "packages.example.org: connection refused",
                )
            },
            ErrorReport {
                rolled_back: true,
                ..failed(
                    Some(app("app_foo")),
                    Phase::Health,
                    Category::Unhealthy,
                    "service app-foo-api did not stay up for 10 s",
                )
            },
        ],
        last_rejected: Some(Rejected {
            reason: refused.into(),
            timestamp: "2025-01-02T03:04:05.678901Z".into(),
            id: Some("req-2".into()),
        }),
        reply_to: Some("req-2".into()),
        ..status_ok()
    }
}

#[test]
fn set_config_is_as_published() {
    let message = SetConfig {
        id: Some("req-1".into()),
        generation: Some(7),
        only_if_plan: Some("3f9a1c0b".into()),
        retry: true,
        apps: desired(),
    };
    let file = assert_golden("set_config.json", &message.encode());
    assert_eq!(decode(&file, Limits::default()), Ok(Inbound::SetConfig(message)));
}

#[test]
fn plan_is_as_published() {
    let file = assert_golden("plan.json", &encode_plan(&desired(), Some("req-1")));
    let id = Some("req-1".into());
    let apps = desired();
    assert_eq!(decode(&file, Limits::default()), Ok(Inbound::Plan { id, apps }));
}

#[test]
fn the_answer_to_a_plan_is_as_published() {
    let step = |name: &str, action: &str, text: &str, possible, how: &str| PlanStep {
        app: app(name),
        action: action.into(),
        text: text.into(),
        undo: Undo {
            possible,
            how: how.into(),
        },
    };
    let planned = PlanAnswer {
        host_id: HostId::new("02:FC:00:00:00:01").unwrap(),
        reply_to: Some("req-1".into()),
        hash: "3f9a1c0b".into(),
        steps: vec![
            step(
                "app_old",
                "remove",
                "remove app-old 1.0-1",
                false,
                "its package file is not in the cache, and no repository offers it",
            ),
            step(
                "app_foo",
                "install",
                "upgrade from 1.0.1-1 to 1.0.2-3",
                true,
                "app-foo 1.0.1-1 is installed again, from the cache",
            ),
        ],
        faults: vec![PlanFault {
            app: app("app_bar"),
            phase: Phase::Service,
            category: Category::NotFound,
            message: "app_bar ships no service that could run".into(),
        }],
        error: None,
    };
    let not_planned = PlanAnswer {
        hash: String::new(),
        steps: Vec::new(),
        faults: Vec::new(),
        error: Some("the package database could not be read: permission denied".into()),
        ..planned.clone()
    };
    for (name, answer) in [
        ("plan_answer.json", planned),
        ("plan_answer_error.json", not_planned),
    ] {
        let file = assert_golden(name, &answer.encode());
        assert_eq!(PlanAnswer::decode(&file, Limits::default()), Ok(answer), "{name}");
    }
}

#[test]
fn ping_is_as_published() {
    let file = assert_golden("ping.json", &encode_ping(Some("req-1")));
    let id = Some("req-1".into());
    assert_eq!(decode(&file, Limits::default()), Ok(Inbound::Ping { id }));
}

#[test]
fn status_is_as_published() {
    for (name, status) in [
        ("status_ok.json", status_ok()),
        ("status_converging.json", status_converging()),
        ("status_errors.json", status_errors()),
    ] {
        let file = assert_golden(name, &status.encode());
        assert_eq!(Status::decode(&file, Limits::default()), Ok(status), "{name}");
    }
}

/// Written by hand, as masters before Backbone send it. Never update this file.
#[test]
fn the_set_config_of_an_older_master_is_taken() {
    let file = std::fs::read(golden("set_config_of_older_master.json")).unwrap();
    let Ok(Inbound::SetConfig(message)) = decode(&file, Limits::default()) else {
        panic!("{:?}", decode(&file, Limits::default()));
    };
    let spec = &message.apps[&app("pf9-ostackhost")];
    assert_eq!((message.id, message.generation), (None, None));
    assert!(spec.running);
    assert_eq!(spec.rank, Some(Rank(2.0)));
    assert_eq!(spec.config["nova"]["DEFAULT"], json!({"debug": "True"}));
}

/// Written by hand, as agents before Backbone send it. Never update this file.
#[test]
fn the_status_of_an_older_agent_is_taken() {
    let file = std::fs::read(golden("status_of_older_agent.json")).unwrap();
    let status = Status::decode(&file, Limits::default()).unwrap();
    let observed = &status.apps[&app("pf9-ostackhost")];
    assert_eq!(observed.exact_version(), "1.0.0-1");
    assert_eq!(observed.health, Health::Unknown);
    assert_eq!((status.seq, status.boot_id.as_str()), (0, ""));
    assert_eq!(status.host_agent.version, "0.9");
}

#[test]
fn the_published_schemas_are_those_of_the_code() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schemas");
    for (name, schema) in schema::messages() {
        assert_same_as_file(&folder.join(name), &format!("{:#}\n", schema.as_value()));
    }
    let published = std::fs::read_dir(&folder).unwrap().count();
    assert_eq!(
        published,
        schema::messages().len(),
        "a file too many or too few in docs/schemas"
    );
}
