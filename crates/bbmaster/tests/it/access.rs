//! Who may do what, route by route.

use std::collections::BTreeMap;

use bbmaster::Config;
use bbmaster::api::{Access, routes};
use bbmaster::settings::Anonymous;
use protocol::rest::Role;
use serde_json::json;

use crate::client::Client;
use crate::fleet::Fleet;

/// Every route, and the least role that it needs (`None`: nobody needs to say who they are). A route that
/// is not in here fails the test below: whoever adds one must say here, too, whom it is for.
const EXPECTED: &[(&str, &str, Option<Role>)] = &[
    ("GET", "/v1/hosts/", Some(Role::Viewer)),
    ("GET", "/v1/hosts/ids/", Some(Role::Viewer)),
    ("GET", "/v1/hosts/{id}", Some(Role::Viewer)),
    ("DELETE", "/v1/hosts/{id}", Some(Role::Admin)),
    ("GET", "/v1/hosts/{id}/apps", Some(Role::Viewer)),
    ("PUT", "/v1/hosts/{id}/apps", Some(Role::Operator)),
    ("GET", "/v1/hosts/{id}/labels", Some(Role::Viewer)),
    ("PUT", "/v1/hosts/{id}/labels", Some(Role::Operator)),
    ("POST", "/v1/hosts/{id}/ping", Some(Role::Operator)),
    ("POST", "/v1/ping", Some(Role::Operator)),
    ("GET", "/v1/apps/", Some(Role::Viewer)),
    ("GET", "/v1/events", Some(Role::Viewer)),
    ("GET", "/v1/tokens/", Some(Role::Admin)),
    ("POST", "/v1/tokens/", Some(Role::Admin)),
    ("DELETE", "/v1/tokens/{name}", Some(Role::Admin)),
    ("GET", "/v1/whoami", Some(Role::Viewer)),
    ("GET", "/healthz", None),
    ("GET", "/readyz", None),
    ("GET", "/metrics", Some(Role::Viewer)),
    ("GET", "/openapi.json", None),
    ("GET", "/", None),
    ("GET", "/ui.js", None),
    ("GET", "/ui.css", None),
];

#[test]
fn every_route_is_meant_for_whom_it_lets_in() {
    let expected: BTreeMap<(&str, &str), Option<Role>> = EXPECTED
        .iter()
        .map(|(method, path, role)| ((*method, *path), *role))
        .collect();
    let routes = routes();
    let actual: BTreeMap<(&str, &str), Option<Role>> = routes
        .iter()
        .map(|route| {
            let role = match route.access {
                Access::Open => None,
                Access::Needs(role) => Some(role),
            };
            ((route.method.as_str(), route.path), role)
        })
        .collect();
    assert_eq!(actual, expected);
}

async fn token(client: &Client, name: &str, role: Role) -> Client {
    let new = json!({"name": name, "role": role}).to_string();
    let made = client
        .send("POST", "/v1/tokens/", &[], Some(new.as_bytes()))
        .await
        .expect(201);
    client.with_token(made["secret"].as_str().unwrap())
}

/// One of each, the first by grace of there being none.
async fn tokens(client: &Client) -> [(Role, Client); 3] {
    let admin = token(client, "root", Role::Admin).await;
    let operator = token(&admin, "oper", Role::Operator).await;
    let viewer = token(&admin, "view", Role::Viewer).await;
    [
        (Role::Viewer, viewer),
        (Role::Operator, operator),
        (Role::Admin, admin),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_route_refuses_nobody_and_lesser_roles() {
    let fleet = Fleet::sqlite();
    let (_master, nobody) = fleet.master().await;
    let holders = tokens(&nobody).await;
    for (method, path, needed) in EXPECTED {
        let path = path.replace("{id}", "h1").replace("{name}", "x");
        let what = format!("{method} {path}");
        let ask = async |client: &Client| client.send(method, &path, &[], None).await.status;
        let Some(needed) = needed else {
            assert!([200, 503].contains(&ask(&nobody).await), "{what}");
            continue;
        };
        assert_eq!(ask(&nobody).await, 401, "{what}");
        assert_eq!(ask(&nobody.with_token("bbm_wrong")).await, 401, "{what}");
        for (role, client) in &holders {
            let status = ask(client).await;
            match role < needed {
                true => assert_eq!(status, 403, "{what} as {role:?}"),
                // It comes in; whether it then finds what it asks for is another matter.
                false => assert!(![401, 403].contains(&status), "{what} as {role:?}: {status}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_did_it_is_in_the_events_and_a_revoked_token_is_worth_nothing() {
    let fleet = Fleet::sqlite();
    let (_master, nobody) = fleet.master().await;
    let [(_, viewer), (_, operator), (_, admin)] = tokens(&nobody).await;
    assert_eq!(viewer.get("/v1/whoami").await.expect(200)["role"], "viewer");
    operator
        .put("/v1/hosts/h1/apps", &json!({"foo": {"version": "1"}}))
        .await
        .expect(200);
    let by_oper = admin.get("/v1/events?author=oper").await.expect(200);
    assert_eq!(by_oper["events"][0]["kind"], "desired_changed");
    assert_eq!(
        admin.send("DELETE", "/v1/tokens/oper", &[], None).await.status,
        204
    );
    assert_eq!(operator.get("/v1/whoami").await.status, 401);
    let body = json!({"name": "view", "role": "admin"}).to_string();
    assert_eq!(
        admin
            .send("POST", "/v1/tokens/", &[], Some(body.as_bytes()))
            .await
            .status,
        409
    );
    let shown = admin.get("/v1/tokens/").await;
    assert!(!String::from_utf8_lossy(&shown.body).contains("bbm_"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_tokens_only_this_machine_may_ask() {
    let fleet = Fleet::sqlite();
    let (_master, client) = fleet.master().await;
    let ask = async |headers: &[(&str, &str)]| client.send("GET", "/v1/hosts", headers, None).await.status;
    assert_eq!(ask(&[]).await, 200);
    assert_eq!(ask(&[("Host", "rebound.example")]).await, 401);
    assert_eq!(ask(&[("Origin", "http://evil.example")]).await, 401);

    let config = Config {
        anonymous: Anonymous::No,
        ..Config::local()
    };
    let (_strict, client) = fleet.master_with(config).await;
    assert_eq!(client.get("/v1/hosts").await.status, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_this_machine_nothing_starts_without_a_token() {
    let fleet = Fleet::sqlite();
    let config = Config {
        listen: ([0, 0, 0, 0], 0).into(),
        ..Config::local()
    };
    let link = fleet.broker.connect(bus::Queue::of_master("q", 10));
    let started = bbmaster::Master::start(config, fleet.database.open().await, link).await;
    let error = started.err().unwrap().to_string();
    assert!(error.contains("bbmaster token create"), "{error}");
}
