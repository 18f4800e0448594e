//! `dist/rabbitmq/definitions.json`, for operators who set up brokers from a file: the same as what
//! `broker-setup` creates. `UPDATE_DEFINITIONS=1` writes the file from what `broker-setup` has
//! created.

use std::path::Path;

use bbmaster::broker_setup::{AdminLogin, BrokerNames, EnsureOutcome, ManagementApi, ensure, wanted};
use harness::rabbitmq::{Options, RabbitMq};
use protocol::HostId;
use serde_json::{Value, json};

const FILE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../dist/rabbitmq/definitions.json"
);
/// The one host in the file.
const HOST: &str = "02:00:00:00:00:01";

fn outcomes(node: &RabbitMq, dry_run: bool) -> Vec<EnsureOutcome> {
    let names = BrokerNames {
        vhost: "backbone".into(),
        master: "bbmaster".into(),
        master_password: Some("not set by the file".into()),
        master_queue: "bbmaster-q".into(),
        quorum: false,
        host_user: BrokerNames::USUAL_HOST_USER.into(),
        apps: Vec::new(),
    };
    let guest = AdminLogin {
        user: RabbitMq::USER.into(),
        password: RabbitMq::PASSWORD.into(),
    };
    let base = format!("http://127.0.0.1:{}", node.management_port());
    let api = ManagementApi::new(&base, &guest, None).unwrap();
    let hosts = [(HostId::new(HOST).unwrap(), "not set by the file".to_owned())];
    let items = wanted(&names, &hosts);
    items
        .iter()
        .map(|item| ensure(&api, item, dry_run).unwrap())
        .collect()
}

/// Only what Backbone needs, and without passwords: a user without a password cannot log in.
fn ours(mut exported: Value) -> Value {
    let mut kept = json!({});
    for kind in [
        "vhosts",
        "users",
        "permissions",
        "topic_permissions",
        "exchanges",
        "queues",
        "bindings",
        "policies",
    ] {
        let mut entries = exported[kind].take();
        let entries = entries.as_array_mut().unwrap();
        entries.retain(|entry| match kind {
            "vhosts" => entry["name"] == "backbone",
            "users" => entry["name"] != RabbitMq::USER,
            _ => entry["vhost"] == "backbone" && entry["user"] != RabbitMq::USER,
        });
        for entry in entries.iter_mut().filter(|_| kind == "users") {
            entry["password_hash"] = "".into();
        }
        entries.sort_by_key(Value::to_string);
        kept[kind] = entries.clone().into();
    }
    kept
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_creates_what_broker_setup_creates() {
    let node = RabbitMq::start_with(Options { management: true }).await.unwrap();
    if std::env::var_os("UPDATE_DEFINITIONS").is_some() {
        outcomes(&node, false);
        let exported = node.ctl(&["--silent", "export_definitions", "-"]).await.unwrap();
        let text = serde_json::to_string_pretty(&ours(serde_json::from_str(&exported).unwrap())).unwrap();
        std::fs::create_dir_all(Path::new(FILE).parent().unwrap()).unwrap();
        std::fs::write(FILE, text + "\n").unwrap();
        return;
    }
    node.ctl(&["import_definitions", FILE]).await.unwrap();
    let found = outcomes(&node, true);
    assert_eq!(found, vec![EnsureOutcome::Kept; found.len()]);
    // And nothing else.
    let exported = node.ctl(&["--silent", "export_definitions", "-"]).await.unwrap();
    let file: Value = serde_json::from_slice(&std::fs::read(FILE).unwrap()).unwrap();
    let exported = ours(serde_json::from_str(&exported).unwrap());
    for (kind, entries) in exported.as_object().unwrap() {
        // The spelling of an entry depends on RabbitMQ's version.
        let count = |entries: &Value| entries.as_array().map(Vec::len);
        assert_eq!(count(entries), count(&file[kind]), "{kind}");
    }
    // Nobody can log in before a password is set.
    let login = node.ctl(&["authenticate_user", "bbmaster", ""]).await;
    assert!(login.is_err(), "{login:?}");
}
