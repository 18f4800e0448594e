//! Desired states that are conditional on a plan (`only_if_plan`).

use harness::http::HttpServer;
use serde_json::{Value, json};

use crate::agent::{Agent, Script};
use crate::fleet::{Fleet, eventually, until};
use crate::real::{self, RealHost};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_takes_a_state_for_its_plan_and_refuses_one_for_another_plan() {
    let fleet = Fleet::sqlite();
    let (_master, client) = fleet.master().await;
    let server = HttpServer::start().await.unwrap();
    let built = tempfile::tempdir().unwrap();
    let shop = real::serve(&server, built.path(), "shop", "1.0");
    let mut host = RealHost::new("h1");
    host.start_agent(fleet.broker.connect(host.queue()));
    until(&client, "/v1/hosts/h1", |host| host["status"] == "ok").await;

    let put = async |query: &str| client.put(&format!("/v1/hosts/h1/apps?{query}"), &shop).await;
    let plan = put("dry_run=true").await.expect(200);
    let hash = plan["hash"].as_str().unwrap();

    let other = put("only_if_plan=0123abcd").await.expect(200);
    assert_eq!(
        (&other["generation"], &other["only_if_plan"]),
        (&json!(1), &json!("0123abcd"))
    );
    until(&client, "/v1/events?host_id=h1&kind=status_changed", |page| {
        let mut events = page["events"].as_array().unwrap().iter();
        events.any(|event| {
            event["data"]["errors"][0]["phase"] == "check"
                && event["message"]
                    .as_str()
                    .unwrap()
                    .contains(&format!("the plan is {hash} by now, not 0123abcd"))
        })
    })
    .await;
    let refused = until(&client, "/v1/hosts/h1", |host| {
        host["last_rejected"]["id"] == "desired-1"
    })
    .await;
    assert_eq!(refused["apps"], json!({}));
    assert_eq!(refused["satisfied"], false);

    assert_eq!(
        put(&format!("only_if_plan={hash}")).await.expect(200)["generation"],
        2
    );
    let taken = until(&client, "/v1/hosts/h1", |host| host["satisfied"] == true).await;
    assert_eq!(taken["apps"]["shop"]["running"], true);
    host.stop_agent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_condition_is_sent_until_the_host_has_taken_the_state() {
    let fleet = Fleet::sqlite();
    let (_master, client) = fleet.master().await;
    let agent = Agent::start(&fleet.broker, "h1", Script::Converges);
    until(&client, "/v1/hosts/h1", |host| host["status"] == "ok").await;
    let apps = json!({"foo": {"version": "1"}});
    let put = async |query: &str| client.put(&format!("/v1/hosts/h1/apps?{query}"), &apps).await;
    for (query, status, generation) in [
        ("only_if_plan=abcdef", 200, 1),
        // The same again is not a change. With another plan, or with none, it is.
        ("only_if_plan=abcdef", 200, 1),
        ("only_if_plan=fedcba", 200, 2),
        ("", 200, 3),
        ("only_if_plan=abcdef", 200, 4),
        ("only_if_plan=short", 400, 0),
        ("only_if_plan=ABCDEF", 400, 0),
        ("only_if_plan=", 400, 0),
    ] {
        let answer = put(query).await;
        let path = (answer.status == 400).then(|| json!("only_if_plan"));
        let body = answer.expect(status);
        match path {
            None => assert_eq!(body["generation"], generation, "{query}"),
            Some(path) => assert_eq!(body["path"], path, "{query}"),
        }
    }
    until(&client, "/v1/hosts/h1", |host| {
        host["satisfied"] == true && host["reported_generation"] == 4
    })
    .await;
    agent.lose_apps();
    agent.report().await;
    eventually("it gets back what it lost", || agent.apps().len() == 1).await;
    let of_the_last: Vec<_> = agent
        .received()
        .into_iter()
        .filter(|set| set.generation == Some(4))
        .map(|set| set.only_if_plan)
        .collect();
    assert_eq!(of_the_last.first().cloned().flatten().as_deref(), Some("abcdef"));
    assert_eq!(of_the_last.last(), Some(&None));
    let events = client
        .get("/v1/events?kind=desired_changed&after=0")
        .await
        .expect(200);
    let plans: Vec<&Value> = events["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| &event["data"]["only_if_plan"])
        .collect();
    assert_eq!(
        plans,
        [&json!("abcdef"), &json!("fedcba"), &Value::Null, &json!("abcdef")]
    );
}
