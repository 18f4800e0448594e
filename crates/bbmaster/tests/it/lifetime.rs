//! What an operator does to a host over some days, with the real agent on RabbitMQ and the real
//! program as master.

use std::time::Duration;

use bus::amqp;
use harness::http::HttpServer;
use harness::rabbitmq::RabbitMq;
use serde_json::{Value, json};

use crate::fleet::until_within;
use crate::masters::{Masters, Setup, broker, in_every_setup};
use crate::real::{self, RealHost};

in_every_setup!(a_host_converges_to_the_last_put_whenever_it_was_made);

/// Time for one convergence with real packages.
const PATIENCE: Duration = Duration::from_secs(60);

fn runs<'a>(app: &'a str, version: &'a str, generation: u64) -> impl Fn(&Value) -> bool + 'a {
    move |host| {
        let app = &host["apps"][app];
        host["satisfied"] == true
            && host["status"] == "ok"
            && host["reported_generation"] == generation
            && (&app["version"], &app["running"]) == (&json!(version), &json!(true))
    }
}

async fn a_host_converges_to_the_last_put_whenever_it_was_made(setup: Setup) {
    let node = RabbitMq::shared().await.unwrap();
    let vhost = node.add_vhost().await.unwrap();
    let server = HttpServer::start().await.unwrap();
    let built = tempfile::tempdir().unwrap();
    let package = |version| real::serve(&server, built.path(), "shop", version);
    let [first, second, third, fourth] = ["1.0", "2.0", "3.0", "4.0"].map(package);
    let mut masters = Masters::start(&node, &vhost, &setup);
    for which in 0..setup.masters {
        masters.wait_until_serving(which).await;
    }
    let client = masters.client(0);
    let mut operator = masters.operator();
    let apps = "/v1/hosts/h1/apps";

    // Before the host exists.
    operator.put(apps, &first).await;
    assert_eq!(client.get("/v1/hosts/h1").await.expect(200)["status"], "missing");
    let mut host = RealHost::new("h1");
    host.start_agent(amqp::connect(broker(&node, &vhost), host.queue()));
    until_within(PATIENCE, &client, "/v1/hosts/h1", runs("shop", "1.0", 1)).await;

    // While it converges.
    operator.put(apps, &second).await;
    let is_at_it = |host: &Value| host["status"] == "converging" && host["reported_generation"] == 2;
    until_within(PATIENCE, &client, "/v1/hosts/h1", is_at_it).await;
    operator.put(apps, &third).await;
    until_within(PATIENCE, &client, "/v1/hosts/h1", runs("shop", "3.0", 3)).await;

    // While it is not connected. One of several masters is killed meanwhile.
    host.stop_agent().await;
    operator.put(apps, &fourth).await;
    if setup.masters > 1 {
        masters.end(setup.masters - 1);
    }
    host.start_agent(amqp::connect(broker(&node, &vhost), host.queue()));
    until_within(PATIENCE, &client, "/v1/hosts/h1", runs("shop", "4.0", 4)).await;
    host.stop_agent().await;

    let events = client
        .get("/v1/events?kind=desired_changed&after=0&host_id=h1")
        .await
        .expect(200);
    let generations: Vec<&Value> = events["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| &event["data"]["generation"])
        .collect();
    assert_eq!(generations, [1, 2, 3, 4]);
}
