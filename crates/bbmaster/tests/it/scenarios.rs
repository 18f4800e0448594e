//! What operators see of hosts, end to end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bbmaster::Config;
use bbmaster::collect::Policy;
use bbmaster::store::{NewDesired, PutError};
use futures_util::future::join_all;
use protocol::rest::{EventKind, EventQuery};
use protocol::{Apps, HostId};
use serde_json::{Value, json};

use crate::agent::{Agent, Script};
use crate::client::Client;
use crate::fleet::{Database, Fleet, eventually, on_both, until};

on_both!(
    a_put_before_the_host_exists_is_delivered_when_it_appears,
    a_host_that_converges_ends_at_the_newest_put,
    a_failed_host_is_left_to_retry,
    a_converging_host_is_sent_nothing_until_the_desired_state_changes,
    a_host_that_does_nothing_is_not_flooded,
    a_host_that_refused_a_state_is_not_sent_it_again,
    duplicates_and_late_statuses_change_nothing_and_gaps_are_counted,
    an_invalid_status_goes_into_quarantine_and_the_others_are_stored,
    a_silent_host_is_marked_until_it_reports_again,
    a_restart_loses_nothing,
    events_are_followed_without_a_gap,
    several_masters_act_as_one,
    puts_of_one_batch_are_decided_one_by_one,
);

fn foo(version: &str) -> Value {
    json!({"foo": {"version": version, "config": {"main": {"port": 80}}}})
}

async fn a_put_before_the_host_exists_is_delivered_when_it_appears(fleet: Fleet) {
    let (_master, client) = fleet.master().await;
    let put = client.put("/v1/hosts/h1/apps", &foo("1.0")).await;
    assert_eq!(put.header("etag"), Some("\"1\""));
    let host = client.get("/v1/hosts/h1").await.expect(200);
    assert_eq!(host["status"], "missing");
    assert_eq!(host["desired_apps"]["foo"]["version"], "1.0");

    let agent = Agent::start(&fleet.broker, "h1", Script::Converges);
    let host = until(&client, "/v1/hosts/h1/", |host| host["satisfied"] == true).await;
    assert_eq!(host["status"], "ok");
    assert_eq!(host["apps"]["foo"]["version"], "1.0");
    assert_eq!(
        (&host["generation"], &host["reported_generation"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(agent.received().len(), 1);
    assert_eq!(agent.received()[0].id.as_deref(), Some("desired-1"));
}

async fn a_host_that_converges_ends_at_the_newest_put(fleet: Fleet) {
    let (_master, client) = fleet.master().await;
    let agent = Agent::start(&fleet.broker, "h1", Script::Converges);
    until(&client, "/v1/hosts/h1", |host| host["status"] == "ok").await;
    for version in 1..=20 {
        client
            .put("/v1/hosts/h1/apps", &foo(&version.to_string()))
            .await
            .expect(200);
    }
    let host = until(&client, "/v1/hosts/h1", |host| {
        host["satisfied"] == true && host["apps"]["foo"]["version"] == "20"
    })
    .await;
    assert_eq!(host["generation"], 20);
    assert_eq!(agent.apps().len(), 1);

    agent.lose_apps();
    agent.report().await;
    eventually("it gets back what it lost", || agent.apps().len() == 1).await;
    client.put("/v1/hosts/h1/apps", &json!({})).await.expect(200);
    eventually("nothing is left", || agent.apps().is_empty()).await;
}

async fn a_failed_host_is_left_to_retry(fleet: Fleet) {
    let (_master, client) = fleet.master().await;
    let agent = Agent::start(&fleet.broker, "h1", Script::Fails);
    client.put("/v1/hosts/h1/apps", &foo("1.0")).await.expect(200);
    let host = until(&client, "/v1/hosts/h1", |host| host["status"] == "errors").await;
    assert_eq!(host["errors"][0]["message"], "the package's script failed");
    let list = client.get("/v1/hosts/?status=errors").await.expect(200);
    assert_eq!(list["hosts"][0]["error"], "foo: the package's script failed");
    for seq in 3..6 {
        agent.report().await;
        until(&client, "/v1/hosts/h1", |host| host["seq"].as_u64() >= Some(seq)).await;
    }
    assert_eq!(agent.received().len(), 1);
}

async fn a_converging_host_is_sent_nothing_until_the_desired_state_changes(fleet: Fleet) {
    let (_master, client) = fleet.master().await;
    let agent = Agent::start(&fleet.broker, "h1", Script::Hangs);
    until(&client, "/v1/hosts/h1", |host| host["status"] == "ok").await;
    for (version, seq) in [("1", 3), ("2", 5)] {
        client.put("/v1/hosts/h1/apps", &foo(version)).await.expect(200);
        until(&client, "/v1/hosts/h1", |host| host["status"] == "converging").await;
        agent.report().await;
        until(&client, "/v1/hosts/h1", |host| host["seq"].as_u64() >= Some(seq)).await;
    }
    let generations: Vec<_> = agent.received().iter().map(|set| set.generation).collect();
    assert_eq!(generations, [Some(1), Some(2)]);
}

async fn a_host_that_does_nothing_is_not_flooded(fleet: Fleet) {
    let (_master, client) = fleet.master().await;
    let agent = Agent::start(&fleet.broker, "h1", Script::Ignores);
    client.put("/v1/hosts/h1/apps", &foo("1.0")).await.expect(200);
    for seq in 2..8 {
        agent.report().await;
        until(&client, "/v1/hosts/h1", |host| host["seq"].as_u64() >= Some(seq)).await;
    }
    let received = agent.received().len();
    // Once for the PUT, and once more if the first status arrived after that.
    assert!((1..=2).contains(&received), "sent {received} times");
}

async fn a_host_that_refused_a_state_is_not_sent_it_again(fleet: Fleet) {
    let (_master, client) = fleet.master().await;
    let agent = Agent::start(&fleet.broker, "h1", Script::Rejects);
    until(&client, "/v1/hosts/h1", |host| host["status"] == "ok").await;
    client.put("/v1/hosts/h1/apps", &foo("1.0")).await.expect(200);
    until(&client, "/v1/hosts/h1", |host| {
        host["last_rejected"]["id"] == "desired-1"
    })
    .await;
    agent.report().await;
    client.put("/v1/hosts/h1/apps", &foo("2.0")).await.expect(200);
    until(&client, "/v1/hosts/h1", |host| {
        host["last_rejected"]["id"] == "desired-2"
    })
    .await;
    let generations: Vec<_> = agent.received().iter().map(|set| set.generation).collect();
    assert_eq!(generations, [Some(1), Some(2)]);
}

fn status(host: &str, boot_id: &str, seq: u64, state: &str) -> Vec<u8> {
    json!({"opcode": "status", "data": {"host_id": host, "status": state, "boot_id": boot_id, "seq": seq}})
        .to_string()
        .into_bytes()
}

async fn duplicates_and_late_statuses_change_nothing_and_gaps_are_counted(fleet: Fleet) {
    let (_master, client) = fleet.master().await;
    let voice = Agent::start(&fleet.broker, "voice", Script::Ignores);
    for (boot_id, seq, state) in [
        ("b1", 1, "ok"),
        ("b1", 1, "errors"),
        // 2 and 3 are lost or late.
        ("b1", 4, "converging"),
        ("b1", 3, "errors"),
        ("b2", 1, "ok"),
        ("b1", 5, "errors"),
        ("b2", 2, "converging"),
    ] {
        voice.publish(&status("h1", boot_id, seq, state)).await;
    }
    let host = until(&client, "/v1/hosts/h1", |host| {
        host["boot_id"] == "b2" && host["seq"] == 2
    })
    .await;
    assert_eq!(
        (&host["status"], &host["lost_statuses"]),
        (&json!("converging"), &json!(2))
    );
    let events = client.get("/v1/events?host_id=h1&after=0").await.expect(200);
    let messages: Vec<&str> = events["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["message"].as_str().unwrap())
        .collect();
    assert_eq!(
        messages,
        [
            "reported for the first time: ok",
            "ok -> converging",
            "converging -> ok",
            "ok -> converging"
        ]
    );
    // A batch is counted shortly after it is stored.
    for line in [
        r#"bbmaster_statuses_total{result="duplicate"} 1"#,
        r#"bbmaster_statuses_total{result="late"} 2"#,
        "bbmaster_lost_statuses_total 2",
        r#"bbmaster_hosts{status="converging"} 1"#,
    ] {
        until_counted(&client, line).await;
    }
}

async fn until_counted(client: &Client, line: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let metrics = String::from_utf8(client.get("/metrics").await.body).unwrap();
        if metrics.contains(line) {
            return;
        }
        assert!(Instant::now() < deadline, "{line} is not in\n{metrics}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn an_invalid_status_goes_into_quarantine_and_the_others_are_stored(fleet: Fleet) {
    let config = Config {
        policy: Policy {
            host_user: Some("host-{host_id}".into()),
            ..Config::local().policy
        },
        ..Config::local()
    };
    let (_master, client) = fleet.master_with(config).await;
    let agent = Agent::start(&fleet.broker, "h1", Script::Ignores);
    for bad in [
        b"not json".as_slice(),
        b"",
        b"\xff\xfe",
        br#"{"opcode": "status"}"#,
        br#"{"opcode": "status", "data": {"host_id": "master", "status": "ok"}}"#,
        br#"{"opcode": "status", "data": {"host_id": "h1", "status": "splendid"}}"#,
        br#"{"opcode": "dance", "data": {}}"#,
        // Sent by the user of h1.
        &status("h2", "b", 1, "ok"),
    ] {
        agent.publish(bad).await;
    }
    // Texts that PostgreSQL does not accept in a column.
    let nul = json!({"opcode": "status", "data": {"host_id": "h1", "status": "errors", "boot_id": "b\u{0}",
        "seq": u64::MAX, "info": {"hostname": "h\u{0}1"}, "apps": {"foo": {"version": "1\u{0}", "running": true}},
        "errors": [{"phase": "install", "category": "script", "message": "a\u{0}b", "attempt": 1,
            "rolled_back": false}]}});
    agent.publish(nul.to_string().as_bytes()).await;
    let host = until(&client, "/v1/hosts/h1", |host| host["status"] == "errors").await;
    assert_eq!(host["errors"][0]["message"], "a\u{0}b");
    assert_eq!(client.get("/v1/hosts/h2").await.status, 404);
    let metrics = String::from_utf8(client.get("/metrics").await.body).unwrap();
    let line = r#"bbmaster_statuses_total{result="quarantined"} 8"#;
    assert!(metrics.contains(line), "{metrics}");
}

async fn a_silent_host_is_marked_until_it_reports_again(fleet: Fleet) {
    let config = Config {
        silent_after: Duration::from_millis(500),
        ..Config::local()
    };
    let (_master, client) = fleet.master_with(config).await;
    let agent = Agent::start(&fleet.broker, "h1", Script::Ignores);
    until(&client, "/v1/hosts/h1", |host| host["responding"] == true).await;
    until(&client, "/v1/hosts/h1", |host| host["responding"] == false).await;
    agent.report().await;
    until(&client, "/v1/events?host_id=h1", |page| {
        let kinds: Vec<_> = page["events"]
            .as_array()
            .unwrap()
            .iter()
            .rev()
            .take(3)
            .map(|event| event["kind"].as_str().unwrap())
            .collect();
        kinds == ["host_appeared", "host_silent", "host_returned"]
    })
    .await;
}

async fn a_restart_loses_nothing(fleet: Fleet) {
    let (master, client) = fleet.master().await;
    let agent = Agent::start(&fleet.broker, "h1", Script::Converges);
    until(&client, "/v1/hosts/h1", |host| host["status"] == "ok").await;
    client
        .put("/v1/hosts/h1/labels", &json!({"site": "berlin"}))
        .await
        .expect(200);
    client.put("/v1/hosts/h2/apps", &foo("3")).await.expect(200);
    // Dropped without a stop, as if it was killed.
    drop(master);
    agent.report().await;
    agent.lose_apps();
    let (_master, client) = fleet.master().await;
    let h1 = until(&client, "/v1/hosts/h1", |host| host["seq"].as_u64() >= Some(2)).await;
    assert_eq!(h1["labels"], json!({"site": "berlin"}));
    let h2 = client.get("/v1/hosts/h2/apps").await.expect(200);
    assert_eq!(h2["apps"]["foo"]["version"], "3");
    let events = client.get("/v1/events?after=0").await.expect(200);
    let kinds: Vec<_> = events["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["kind"].clone())
        .collect();
    assert_eq!(kinds, ["host_appeared", "labels_changed", "desired_changed"]);
    Agent::start(&fleet.broker, "h2", Script::Converges);
}

async fn events_are_followed_without_a_gap(fleet: Fleet) {
    let (_master, client) = fleet.master().await;
    let mut live = client.events("/v1/events").await;
    let mut of_h2 = client.events("/v1/events?host_id=h2&kind=labels_changed").await;
    for turn in 0..5 {
        for host in ["h1", "h2"] {
            let labels = json!({"turn": turn.to_string()});
            client
                .put(&format!("/v1/hosts/{host}/labels"), &labels)
                .await
                .expect(200);
        }
    }
    let mut last = 0;
    for turn in 0..5 {
        for host in ["h1", "h2"] {
            let event = live.next().await;
            assert_eq!(event["host_id"], host);
            assert_eq!(event["author"], "anonymous");
            assert_eq!(event["data"]["labels"]["turn"], turn.to_string());
            assert!(event["id"].as_u64().unwrap() > last);
            last = event["id"].as_u64().unwrap();
        }
        assert_eq!(of_h2.next().await["data"]["labels"]["turn"], turn.to_string());
    }
    let mut again = client.events(&format!("/v1/events?after={}", last - 1)).await;
    assert_eq!(again.next().await["id"], last);
}

/// SQLite has one master. Two are an old and a new one during a restart.
async fn several_masters_act_as_one(fleet: Fleet) {
    let (_first, one) = fleet.master().await;
    let (_second, two) = fleet.master().await;
    let mut heard_by_two = two.events("/v1/events?kind=desired_changed").await;
    let agents: Vec<Agent> = (0..10)
        .map(|n| Agent::start(&fleet.broker, &format!("h{n}"), Script::Converges))
        .collect();
    for (n, client) in (0..10).zip([&one, &two].into_iter().cycle()) {
        client
            .put(&format!("/v1/hosts/h{n}/apps"), &foo("1"))
            .await
            .expect(200);
    }
    for _ in 0..10 {
        heard_by_two.next().await;
    }
    until(&one, "/v1/hosts/?satisfied=true", |page| page["total"] == 10).await;
    assert!(agents.iter().all(|agent| agent.apps().len() == 1));
    if let Database::Postgres(_) = fleet.database {
        // The answer may arrive at either master; only one of them asked.
        for _ in 0..6 {
            let answer = two.post("/v1/hosts/h3/ping").await;
            assert_eq!(answer.expect(200)["status"], "ok");
        }
    }
    let appeared = two.get("/v1/events?kind=host_appeared").await.expect(200);
    assert_eq!(appeared["events"].as_array().unwrap().len(), 10);
}

async fn puts_of_one_batch_are_decided_one_by_one(fleet: Fleet) {
    let store = fleet.database.open().await;
    let host = |name: String| HostId::new(name).unwrap();
    let apps = |version: &str| -> Arc<Apps> { Arc::new(serde_json::from_value(foo(version)).unwrap()) };
    let put = async |name: String, apps: Arc<Apps>, if_match: Option<&[u64]>| {
        let new = NewDesired {
            apps,
            only_if_plan: None,
            if_match,
            author: "me".into(),
        };
        store.put_desired(&host(name), new).await
    };
    let mut puts = Vec::new();
    for n in 0..60 {
        // Two of each. One refers to the generation that another one makes, one to a missing
        // generation, and one to a host that does not exist.
        puts.push(put(format!("h{n}"), apps("1"), None));
        puts.push(put(format!("h{n}"), apps("2"), Some(&[1])));
        puts.push(put(format!("h{n}"), apps("3"), Some(&[7])));
        puts.push(put(format!("never{n}"), apps("1"), Some(&[1])));
    }
    let answers = join_all(puts).await;
    for four in answers.chunks(4) {
        let [first, second, refused, unknown] = four else {
            unreachable!()
        };
        let first = first.as_ref().unwrap();
        let second = second.as_ref().unwrap();
        assert_eq!((first.desired.generation, second.desired.generation), (1, 2));
        assert!(first.is_change && second.is_change);
        for (refused, expected) in [(refused, 2), (unknown, 0)] {
            assert!(
                matches!(refused, Err(PutError::GenerationChanged { current }) if *current == expected),
                "{refused:?}"
            );
        }
    }
    for n in 0..60 {
        let stored = store.desired(&host(format!("h{n}"))).await.unwrap().unwrap();
        assert_eq!((stored.apps, stored.generation), (apps("2"), 2));
        // What was refused has left nothing in the database.
        assert!(store.host(&host(format!("never{n}"))).await.unwrap().is_none());
    }
    let wanted = EventQuery {
        kind: Some(EventKind::DesiredChanged),
        ..EventQuery::default()
    };
    assert_eq!(store.events(&wanted, 1000).await.unwrap().events.len(), 120);
    // The same again is not a change.
    let again = put("h1".to_owned(), apps("2"), None).await.unwrap();
    assert_eq!((again.desired.generation, again.is_change), (2, false));
    let usage = store.apps().await.unwrap();
    assert_eq!(usage.apps[0].desired, [("2".to_owned(), 60)].into());
}
