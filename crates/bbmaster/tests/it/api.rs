//! Requests and their answers.

use serde_json::{Value, json};

use crate::agent::{Agent, Script};
use crate::fleet::{Database, Fleet, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_are_found_by_every_filter_and_page_by_page() {
    hosts_are_found(Fleet::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_are_found_by_every_filter_and_page_by_page_in_postgres() {
    if let Some(database) = Database::postgres() {
        hosts_are_found(Fleet::new(database)).await;
    }
}

async fn hosts_are_found(fleet: Fleet) {
    let (_master, client) = fleet.master().await;
    let _agents: Vec<Agent> = (0..5)
        .map(|n| Agent::start(&fleet.broker, &format!("02:00:0{n}"), Script::Converges))
        .collect();
    until(&client, "/v1/hosts", |page| page["total"] == 5).await;
    client
        .put(
            "/v1/hosts/02:00:03/labels",
            &json!({"site": "berlin", "role": ""}),
        )
        .await
        .expect(200);
    client
        .put("/v1/hosts/02:00:04/apps", &json!({"foo": {"version": "7"}}))
        .await
        .expect(200);
    client
        .put("/v1/hosts/away/apps", &json!({"foo": {"version": "8"}}))
        .await
        .expect(200);
    until(&client, "/v1/hosts/02:00:04", |host| host["satisfied"] == true).await;
    for (query, expected) in [
        (
            "",
            vec!["02:00:00", "02:00:01", "02:00:02", "02:00:03", "02:00:04", "away"],
        ),
        ("status=missing", vec!["away"]),
        ("responding=false", vec!["away"]),
        ("application=foo", vec!["02:00:04"]),
        ("application=foo&version=7", vec!["02:00:04"]),
        ("application=foo&version=8", vec![]),
        ("label=site", vec!["02:00:03"]),
        ("label=site%3Dberlin,role", vec!["02:00:03"]),
        ("label=site%3Dparis", vec![]),
        ("text=00:02.EXAMPLE", vec!["02:00:02"]),
        ("text=%25", vec![]),
        ("text=AWA", vec!["away"]),
        (
            "text=example&status=ok&responding=true&application=foo",
            vec!["02:00:04"],
        ),
        ("text=example&status=errors", vec![]),
        ("version=7", vec!["02:00:04"]),
        ("version=7&label=site", vec![]),
        ("label=role&status=ok", vec!["02:00:03"]),
        ("responding=true&satisfied=true&label=site", vec!["02:00:03"]),
        ("text=BOOKWORM&label=site", vec!["02:00:03"]),
        ("satisfied=false&status=missing", vec!["away"]),
    ] {
        let page = client.get(&format!("/v1/hosts/?{query}")).await.expect(200);
        let ids: Vec<&str> = page["hosts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|host| host["host_id"].as_str().unwrap())
            .collect();
        assert_eq!(ids, expected, "{query}");
        assert_eq!(page["total"], expected.len(), "{query}");
        let all = client.get(&format!("/v1/hosts/ids/?{query}")).await.expect(200);
        assert_eq!(all["ids"], json!(expected), "{query}");
    }
    let mut seen = Vec::new();
    let mut path = "/v1/hosts/ids?limit=4".to_owned();
    loop {
        let page = client.get(&path).await.expect(200);
        seen.extend(page["ids"].as_array().unwrap().clone());
        match page["next"].as_str() {
            Some(next) => path = format!("/v1/hosts/ids?limit=4&after={next}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 6);
    for (query, length) in [("limit=4", 4), ("limit=4&after=02:00:03", 2), ("limit=6", 6)] {
        let page = client.get(&format!("/v1/hosts/?{query}")).await.expect(200);
        assert_eq!(page["hosts"].as_array().unwrap().len(), length, "{query}");
        assert_eq!(page["total"], 6, "{query}");
    }
    let usage = client.get("/v1/apps/").await.expect(200);
    assert_eq!(
        usage["apps"],
        json!([{"name": "foo", "installed": {"7": 1}, "desired": {"7": 1, "8": 1}, "running": 1, "failing": 0}])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_names_the_generation_it_replaces() {
    let fleet = Fleet::sqlite();
    let (_master, client) = fleet.master().await;
    let put = async |if_match: Option<&str>, version: &str| {
        let headers: Vec<(&str, &str)> = if_match.map(|tag| ("If-Match", tag)).into_iter().collect();
        let body = json!({"foo": {"version": version}}).to_string();
        client
            .send("PUT", "/v1/hosts/h1/apps", &headers, Some(body.as_bytes()))
            .await
    };
    for (if_match, version, status, generation) in [
        (Some("*"), "1", 412, 0),
        (Some("\"0\""), "1", 200, 1),
        (Some("\"0\""), "2", 412, 1),
        (Some("\"1\""), "2", 200, 2),
        // The same again is not a change.
        (None, "2", 200, 2),
        (Some("\"7\", \"2\""), "3", 200, 3),
        (Some("*"), "4", 200, 4),
        (Some("4"), "5", 400, 4),
        (Some(""), "5", 400, 4),
    ] {
        let answer = put(if_match, version).await;
        assert_eq!(answer.status, status, "{if_match:?}");
        if status == 200 {
            assert_eq!(answer.header("etag"), Some(format!("\"{generation}\"").as_str()));
        } else {
            assert_eq!(answer.json()["path"], "If-Match");
        }
    }
    assert_eq!(client.get("/v1/hosts/h1/apps").await.expect(200)["generation"], 4);
    let changes = client.get("/v1/events?kind=desired_changed").await.expect(200);
    assert_eq!(changes["events"].as_array().unwrap().len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_name_the_invalid_value() {
    let fleet = Fleet::sqlite();
    let (_master, client) = fleet.master().await;
    let long = "x".repeat(3 << 20);
    for (method, path, body, status, place) in [
        (
            "PUT",
            "/v1/hosts/h1/apps",
            r#"{"foo": {"version": 1}}"#,
            422,
            "$.foo.version",
        ),
        ("PUT", "/v1/hosts/h1/apps", r#"{"foo": {}}"#, 422, "$.foo.version"),
        (
            "PUT",
            "/v1/hosts/h1/apps",
            r#"{"a b": {"version": "1"}}"#,
            422,
            r#"$["a b"]"#,
        ),
        (
            "PUT",
            "/v1/hosts/h1/apps",
            r#"{"h1": {"version": "1"}}"#,
            422,
            r#"$["h1"]"#,
        ),
        ("PUT", "/v1/hosts/h1/apps", "nonsense", 422, "$"),
        ("PUT", "/v1/hosts/h1/apps?dry_run=maybe", "{}", 400, "query"),
        ("PUT", "/v1/hosts/h1/apps", &long, 413, ""),
        ("PUT", "/v1/hosts/a%20b/apps", "{}", 400, "id"),
        ("PUT", "/v1/hosts/a%00b/apps", "{}", 400, "name"),
        ("PUT", "/v1/hosts/a%FFb/apps", "{}", 400, ""),
        ("PUT", "/v1/hosts/h1/labels", r#"{"-": "x"}"#, 422, "$"),
        ("PUT", "/v1/hosts/h1/labels", r#"{"x": "a,b"}"#, 422, r#"$["x"]"#),
        ("PUT", "/v1/hosts/h1/labels", r#"{"x": 1}"#, 422, "$"),
        ("GET", "/v1/hosts/h1", "", 404, ""),
        ("GET", "/v1/hosts/h1/apps", "", 404, ""),
        ("DELETE", "/v1/hosts/h1", "", 404, ""),
        ("GET", "/v1/hosts/?limit=0", "", 400, "limit"),
        ("GET", "/v1/hosts/?limit=x", "", 400, "query"),
        ("GET", "/v1/hosts/?colour=red", "", 400, "query"),
        ("GET", "/v1/hosts/?text=%00", "", 400, "query"),
        ("GET", "/v1/events?kind=nothing", "", 400, "query"),
        ("GET", "/v1/nothing", "", 404, ""),
        ("PATCH", "/v1/hosts/h1", "", 405, ""),
        ("POST", "/v1/hosts/h1/ping?wait=1e9", "", 400, "wait"),
        ("POST", "/v1/hosts/h1/ping", "", 409, ""),
        (
            "POST",
            "/v1/tokens/",
            r#"{"name": "-", "role": "admin"}"#,
            422,
            "$.name",
        ),
        (
            "POST",
            "/v1/tokens/",
            r#"{"name": "x", "role": "king"}"#,
            422,
            "$",
        ),
        ("DELETE", "/v1/tokens/nobody", "", 404, ""),
    ] {
        let body = (!body.is_empty()).then_some(body.as_bytes());
        let answer = client.send(method, path, &[], body).await;
        let what = format!("{method} {path}");
        assert_eq!(answer.status, status, "{what}");
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json"),
            "{what}"
        );
        let problem = answer.json();
        assert_eq!(problem["status"], status, "{what}");
        assert_eq!(
            problem["path"].as_str().unwrap_or_default(),
            place,
            "{what}: {problem}"
        );
    }
    let cut_off = [("Last-Event-ID", "soon")];
    let answer = client.send("GET", "/v1/events", &cut_off, None).await;
    assert_eq!(answer.expect(400)["path"], "Last-Event-ID");
    let text = [("Content-Type", "text/plain")];
    let answer = client
        .send("PUT", "/v1/hosts/h1/labels", &text, Some(b"{}"))
        .await;
    assert_eq!(answer.status, 415);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ping_measures_the_round_trip() {
    let fleet = Fleet::sqlite();
    let (_master, client) = fleet.master().await;
    let _agent = Agent::start(&fleet.broker, "h1", Script::Converges);
    until(&client, "/v1/hosts/h1", |host| host["status"] == "ok").await;
    let answer = client.post("/v1/hosts/h1/ping").await.expect(200);
    assert!(answer["round_trip_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(client.post("/v1/hosts/h1/ping?wait=0").await.status, 202);
    assert_eq!(client.post("/v1/ping/").await.status, 202);
    until(&client, "/v1/hosts/h1", |host| host["seq"].as_u64() >= Some(4)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_is_sent_without_a_new_generation() {
    let fleet = Fleet::sqlite();
    let (_master, client) = fleet.master().await;
    let path = "/v1/hosts/h1/retry";
    assert_eq!(client.post(path).await.status, 404);
    client
        .put("/v1/hosts/h1/labels", &json!({"a": "b"}))
        .await
        .expect(200);
    let answer = client.post(path).await;
    assert_eq!(answer.expect(409)["type"], "urn:backbone:nothing-desired");
    client
        .put("/v1/hosts/h1/apps", &json!({"foo": {"version": "1"}}))
        .await
        .expect(200);
    let answer = client.post(path).await;
    assert_eq!(answer.expect(409)["type"], "urn:backbone:host-away");

    let agent = Agent::start(&fleet.broker, "h1", Script::Fails);
    until(&client, "/v1/hosts/h1", |host| host["status"] == "errors").await;
    let asked = || agent.received().iter().filter(|message| message.retry).count();
    assert_eq!(asked(), 0);
    assert_eq!(client.post(path).await.expect(202), json!({"generation": 1}));
    until(&client, "/v1/hosts/h1", |_| asked() == 1).await;
    let events = client.get("/v1/events?kind=retry_asked").await.expect(200);
    assert_eq!(events["events"].as_array().unwrap().len(), 1, "{events}");
    assert_eq!(events["events"][0]["host_id"], "h1");
    assert_eq!(client.get("/v1/hosts/h1/apps").await.expect(200)["generation"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_asks_the_host_and_changes_nothing() {
    let fleet = Fleet::sqlite();
    let mut config = bbmaster::Config::local();
    config.plan_timeout = std::time::Duration::from_millis(300);
    let (_master, client) = fleet.master_with(config).await;
    let path = "/v1/hosts/h1/apps?dry_run=true";
    let body = json!({"foo": {"version": "1"}});
    assert_eq!(client.put(path, &body).await.status, 409);

    let queue = bus::Queue::of_agent(&protocol::HostId::new("h1").unwrap(), None);
    let mut link = fleet.broker.connect(queue);
    link.state.wait_for(bus::LinkState::is_up).await.unwrap();
    let no_answer = client.put(path, &body).await;
    assert_eq!(no_answer.status, 504);
    plan_question(&mut link).await;

    for (kind, status) in [("plan", 200), ("status", 501)] {
        let asked = tokio::spawn({
            let (client, body) = (client.clone(), body.clone());
            async move { client.put(path, &body).await }
        });
        let question = plan_question(&mut link).await;
        assert_eq!(question["data"]["foo"]["version"], "1");
        let answer = match kind {
            "plan" => json!({"opcode": "plan", "data": {"host_id": "h1", "reply_to": question["id"],
                "hash": "3f9a1c0b", "steps": [{"app": "foo", "action": "install", "text": "install 1",
                "undo": {"possible": true, "how": "it is removed"}}]}}),
            _ => {
                json!({"opcode": "status", "data": {"host_id": "h1", "status": "ok", "reply_to": question["id"]}})
            }
        };
        link.publisher
            .publish("master", answer.to_string().into_bytes())
            .await
            .unwrap();
        let answer = asked.await.unwrap().expect(status);
        if kind == "plan" {
            assert_eq!(answer["steps"][0]["text"], "install 1");
        }
    }
    assert_eq!(client.get("/v1/hosts/h1/apps").await.expect(200)["generation"], 0);
}

/// The next question for a plan. The ping at the start of the master is skipped.
async fn plan_question(link: &mut bus::Link) -> Value {
    loop {
        let delivery = link.deliveries.recv().await.unwrap();
        let message: Value = serde_json::from_slice(&delivery.body).unwrap();
        delivery.ack();
        if message["opcode"] == "plan" {
            return message;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_without_a_broker_reports_it() {
    let fleet = Fleet::sqlite();
    let (_master, client) = fleet.master().await;
    until(&client, "/readyz", |health| health["problems"] == json!([])).await;
    fleet.broker.stop();
    let problem = loop {
        let answer = client.get("/readyz").await;
        if answer.status == 503 {
            break answer.json();
        }
    };
    assert_eq!(problem["problems"][0], "there is no connection to the broker");
    assert_eq!(client.post("/v1/ping").await.status, 503);
    client
        .put("/v1/hosts/h1/apps", &json!({"foo": {"version": "1"}}))
        .await
        .expect(200);
    fleet.broker.start();
    let agent = Agent::start(&fleet.broker, "h1", Script::Converges);
    until(&client, "/v1/hosts/h1", |host| host["satisfied"] == true).await;
    assert_eq!(agent.apps().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_runs_only_what_the_master_serves() {
    let fleet = Fleet::sqlite();
    let (_master, client) = fleet.master().await;
    for (path, kind) in [
        ("/", "text/html"),
        ("/ui.js", "text/javascript"),
        ("/ui.css", "text/css"),
    ] {
        let answer = client.get(path).await;
        assert!(answer.header("content-type").unwrap().starts_with(kind));
        assert!(
            answer
                .header("content-security-policy")
                .unwrap()
                .contains("default-src 'none'")
        );
        let text = String::from_utf8(answer.body).unwrap();
        assert!(!text.contains("http://") && !text.contains("https://"), "{path}");
        assert!(!text.contains("innerHTML"), "{path}");
    }
}
