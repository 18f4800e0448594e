//! One desired state for many hosts: `PUT /v1/apps/`.

use std::process::Command;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::agent::{Agent, Script};
use crate::client::Client;
use crate::fleet::{Database, Fleet, on_both, until};

on_both!(
    only_matching_hosts_are_changed,
    a_dry_run_only_counts,
    all_of_more_hosts_than_a_page_or_a_commit_takes,
    a_request_must_say_which_hosts,
    a_host_that_another_master_has_deleted_is_created_again,
);

fn foo(version: &str) -> Value {
    json!({"foo": {"version": version}})
}

async fn label(client: &Client, host: &str, role: &str) {
    let path = format!("/v1/hosts/{host}/labels");
    client.put(&path, &json!({"role": role})).await.expect(200);
}

/// Two web servers and a database server. All have reported.
async fn three(fleet: &Fleet, client: &Client) -> Vec<Agent> {
    let hosts = [("w1", "web"), ("w2", "web"), ("d1", "db")];
    let agents = hosts.map(|(host, _)| Agent::start(&fleet.broker, host, Script::Converges));
    until(client, "/v1/hosts/?status=ok", |page| page["total"] == 3).await;
    for (host, role) in hosts {
        label(client, host, role).await;
    }
    agents.into()
}

async fn only_matching_hosts_are_changed(fleet: Fleet) {
    let (_master, client) = fleet.master().await;
    let agents = three(&fleet, &client).await;
    let set = client
        .put("/v1/apps/?label=role=web", &foo("1"))
        .await
        .expect(200);
    assert_eq!(set, json!({"hosts": 2, "changed": 2}));
    let web = "/v1/hosts/?label=role=web&application=foo&version=1&satisfied=true";
    until(&client, web, |page| page["total"] == 2).await;
    assert!(agents[2].received().is_empty());
    assert_eq!(client.get("/v1/hosts/d1/apps").await.expect(200)["generation"], 0);
    // Each host has its own generation and its own event.
    client.put("/v1/hosts/w2/apps", &foo("2")).await.expect(200);
    let set = client.put("/v1/apps?label=role=web", &foo("2")).await.expect(200);
    assert_eq!(set, json!({"hosts": 2, "changed": 1}));
    let generation = async |host: &str| {
        let desired = client.get(&format!("/v1/hosts/{host}/apps")).await.expect(200);
        desired["generation"].clone()
    };
    assert_eq!(
        (generation("w1").await, generation("w2").await),
        (json!(2), json!(2))
    );
    let events = client.get("/v1/events?kind=desired_changed").await.expect(200);
    assert_eq!(events["events"].as_array().unwrap().len(), 4, "{events:#}");
    // The change affects what the filter matches: hosts are chosen before it.
    let set = client
        .put("/v1/apps/?application=foo&satisfied=true", &json!({}))
        .await;
    let set = set.expect(200);
    assert_eq!(set["hosts"], set["changed"]);
    // No matching host is not an error.
    let set = client
        .put("/v1/apps/?label=role=none", &foo("1"))
        .await
        .expect(200);
    assert_eq!(set, json!({"hosts": 0, "changed": 0}));
}

async fn a_dry_run_only_counts(fleet: Fleet) {
    let (_master, client) = fleet.master().await;
    let _agents = three(&fleet, &client).await;
    client.put("/v1/hosts/w1/apps", &foo("1")).await.expect(200);
    for (query, hosts, changed) in [("all=true", 3, 2), ("label=role=web", 2, 1), ("text=d1", 1, 1)] {
        let path = format!("/v1/apps/?{query}&dry_run=true");
        let set = client.put(&path, &foo("1")).await.expect(200);
        assert_eq!(set, json!({"hosts": hosts, "changed": changed}), "{query}");
    }
    let events = client.get("/v1/events?kind=desired_changed").await.expect(200);
    assert_eq!(events["events"].as_array().unwrap().len(), 1);
}

async fn all_of_more_hosts_than_a_page_or_a_commit_takes(fleet: Fleet) {
    let (_master, client) = fleet.master().await;
    let names: Vec<String> = (0..1_203).map(|n| format!("h{n:04}")).collect();
    for some in names.chunks(60) {
        let puts = some.iter().map(|name| {
            let (client, path) = (client.clone(), format!("/v1/hosts/{name}/apps"));
            async move { client.put(&path, &foo("1")).await.expect(200) }
        });
        join_all(puts).await;
    }
    let set = client.put("/v1/apps/?all=true", &foo("2")).await.expect(200);
    assert_eq!(set, json!({"hosts": 1203, "changed": 1203}));
    let usage = client.get("/v1/apps/").await.expect(200);
    assert_eq!(usage["apps"][0]["desired"], json!({"2": 1203}));
    let set = client.put("/v1/apps/?all=true", &foo("2")).await.expect(200);
    assert_eq!(set, json!({"hosts": 1203, "changed": 0}));
}

async fn a_request_must_say_which_hosts(fleet: Fleet) {
    let (_master, client) = fleet.master().await;
    let _agents = three(&fleet, &client).await;
    for (query, body, status, path) in [
        ("", foo("1"), 400, "query"),
        ("dry_run=true", foo("1"), 400, "query"),
        ("all=false", foo("1"), 400, "query"),
        ("all=true&text=w", foo("1"), 400, "all"),
        ("all=yes", foo("1"), 400, "query"),
        // What a script sends whose variable is not set: it would match every host.
        ("text=", foo("1"), 400, "text"),
        ("text=%20", foo("1"), 400, "text"),
        ("label=&text=w", foo("1"), 400, "label"),
        ("lable=role=web", foo("1"), 400, "query"),
        ("all=true", json!({"foo": {}}), 422, "$.foo.version"),
        ("all=true", json!({"d1": {"version": "1"}}), 422, "$[\"d1\"]"),
    ] {
        let answer = client.put(&format!("/v1/apps/?{query}"), &body).await;
        assert_eq!(answer.status, status, "{query}: {}", answer.json());
        assert_eq!(answer.json()["path"], path, "{query}: {}", answer.json());
    }
    let events = client.get("/v1/events?kind=desired_changed").await.expect(200);
    assert!(events["events"].as_array().unwrap().is_empty(), "{events:#}");
}

async fn a_host_that_another_master_has_deleted_is_created_again(fleet: Fleet) {
    if let Database::Sqlite(_) = fleet.database {
        // SQLite has one master only.
        return;
    }
    let (_one, one) = fleet.master().await;
    let (_other, other) = fleet.master().await;
    for host in ["h1", "h2"] {
        let path = format!("/v1/hosts/{host}/apps");
        one.put(&path, &foo("1")).await.expect(200);
    }
    other.send("DELETE", "/v1/hosts/h1", &[], None).await.expect(204);
    one.put("/v1/hosts/h1/apps", &foo("2")).await.expect(200);
    let set = other.put("/v1/apps/?all=true", &foo("2")).await.expect(200);
    assert_eq!(set, json!({"hosts": 2, "changed": 1}));
}

/// Executes a statement in SQLite, without the master.
fn sqlite(database: &Database, statement: &str) {
    let Database::Sqlite(folder) = database else {
        panic!("no SQLite")
    };
    let program =
        "import sqlite3, sys\nwith sqlite3.connect(sys.argv[1], timeout=30) as db: db.execute(sys.argv[2])";
    let file = folder.path().join("bbmaster.db");
    let run = Command::new("python3")
        .args(["-c", program])
        .arg(file)
        .arg(statement)
        .output();
    let run = run.unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn if_the_database_fails_half_way_the_answer_has_the_count_and_a_repetition_finishes() {
    let fleet = Fleet::sqlite();
    let (_master, client) = fleet.master().await;
    for n in 0..40 {
        let path = format!("/v1/hosts/h{n:02}/apps");
        client.put(&path, &foo("1")).await.expect(200);
    }
    sqlite(
        &fleet.database,
        "CREATE TRIGGER no BEFORE INSERT ON desired WHEN NEW.host_id = 'h20' BEGIN SELECT RAISE(ABORT, 'no'); END",
    );
    let answer = client.put("/v1/apps/?all=true", &foo("2")).await.expect(503);
    let usage = client.get("/v1/apps/").await.expect(200);
    let have_it = usage["apps"][0]["desired"]["2"].as_u64().unwrap_or(0);
    assert!(have_it < 40, "{usage}");
    let said = format!("the database failed after {have_it} of 40 hosts were changed");
    assert!(
        answer["detail"].as_str().unwrap().starts_with(&said),
        "{said}: {answer}"
    );

    sqlite(&fleet.database, "DROP TRIGGER no");
    let set = client.put("/v1/apps/?all=true", &foo("2")).await.expect(200);
    assert_eq!(set, json!({"hosts": 40, "changed": 40 - have_it}));
}
