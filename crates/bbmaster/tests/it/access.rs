//! Access to each route.

use bbmaster::Config;
use bbmaster::api::{Access, routes};
use bbmaster::settings::Anonymous;
use protocol::rest::Role;
use serde_json::json;

use crate::client::Client;
use crate::fleet::{Database, Fleet};

/// Every route and what it requires of its caller. A route that is missing here fails the test
/// below, so whoever adds a route must state here who may call it.
const EXPECTED: &[(&str, &str, Access)] = &[
    ("GET", "/v1/hosts/", Access::Needs(Role::Viewer)),
    ("GET", "/v1/hosts/ids/", Access::Needs(Role::Viewer)),
    ("GET", "/v1/hosts/{id}", Access::Needs(Role::Viewer)),
    ("DELETE", "/v1/hosts/{id}", Access::Needs(Role::Admin)),
    ("GET", "/v1/hosts/{id}/apps", Access::Needs(Role::Viewer)),
    ("PUT", "/v1/hosts/{id}/apps", Access::Needs(Role::Operator)),
    ("GET", "/v1/hosts/{id}/labels", Access::Needs(Role::Viewer)),
    ("PUT", "/v1/hosts/{id}/labels", Access::Needs(Role::Operator)),
    ("POST", "/v1/hosts/{id}/ping", Access::Needs(Role::Operator)),
    ("POST", "/v1/hosts/{id}/retry", Access::Needs(Role::Operator)),
    ("POST", "/v1/ping", Access::Needs(Role::Operator)),
    ("GET", "/v1/apps/", Access::Needs(Role::Viewer)),
    ("PUT", "/v1/apps/", Access::Needs(Role::Operator)),
    ("GET", "/v1/events", Access::Needs(Role::Viewer)),
    ("GET", "/v1/tokens/", Access::Needs(Role::Admin)),
    ("POST", "/v1/tokens/", Access::Needs(Role::Admin)),
    ("DELETE", "/v1/tokens/{name}", Access::Needs(Role::Admin)),
    ("GET", "/v1/whoami", Access::Needs(Role::Viewer)),
    ("GET", "/v1/enroll-tokens/", Access::Needs(Role::Operator)),
    ("POST", "/v1/enroll-tokens/", Access::Needs(Role::Operator)),
    (
        "DELETE",
        "/v1/enroll-tokens/{name}",
        Access::Needs(Role::Operator),
    ),
    ("POST", "/v1/enroll", Access::NeedsEnrollToken),
    ("GET", "/healthz", Access::Open),
    ("GET", "/readyz", Access::Open),
    ("GET", "/metrics", Access::Needs(Role::Viewer)),
    ("GET", "/openapi.json", Access::Open),
    ("GET", "/", Access::Open),
    ("GET", "/ui.js", Access::Open),
    ("GET", "/ui.css", Access::Open),
];

#[test]
fn every_route_requires_what_the_table_says() {
    let mut expected: Vec<(&str, &str, Access)> = EXPECTED.to_vec();
    let routes = routes();
    let mut actual: Vec<(&str, &str, Access)> = routes
        .iter()
        .map(|route| (route.method.as_str(), route.path, route.access))
        .collect();
    expected.sort_by_key(|(method, path, _)| (*path, *method));
    actual.sort_by_key(|(method, path, _)| (*path, *method));
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

/// One token per role. The first is made without a token, while there is none.
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
async fn each_route_refuses_callers_without_a_token_and_lower_roles() {
    let fleet = Fleet::sqlite();
    let (_master, nobody) = fleet.master().await;
    let holders = tokens(&nobody).await;
    for (method, path, needed) in EXPECTED {
        let path = path.replace("{id}", "h1").replace("{name}", "x");
        let what = format!("{method} {path}");
        let ask = async |client: &Client| client.send(method, &path, &[], None).await.status;
        if let Access::Open = needed {
            assert!([200, 503].contains(&ask(&nobody).await), "{what}");
            continue;
        }
        assert_eq!(ask(&nobody).await, 401, "{what}");
        assert_eq!(ask(&nobody.with_token("bbm_wrong")).await, 401, "{what}");
        for (role, client) in &holders {
            let status = ask(client).await;
            match needed {
                Access::Needs(needed) if role < needed => assert_eq!(status, 403, "{what} as {role:?}"),
                // The request is admitted. Whether it then succeeds does not matter here.
                Access::Needs(_) | Access::Open => {
                    assert!(![401, 403].contains(&status), "{what} as {role:?}: {status}");
                }
                // A token of the other kind.
                Access::NeedsEnrollToken => assert_eq!(status, 401, "{what} as {role:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_have_their_author_and_a_revoked_token_is_refused() {
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
async fn without_tokens_only_this_machine_is_admitted() {
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

async fn revoking_the_last_token_admits_nobody(database: Database) {
    let fleet = Fleet::new(database);
    let (master, nobody) = fleet.master().await;
    assert_eq!(nobody.get("/v1/hosts").await.status, 200);
    let admin = token(&nobody, "root", Role::Admin).await;
    assert_eq!(
        admin.send("DELETE", "/v1/tokens/root", &[], None).await.status,
        204
    );
    assert_eq!(nobody.get("/v1/hosts").await.status, 401);
    assert_eq!(admin.get("/v1/hosts").await.status, 401);

    // Nor does another master on this database.
    drop(master);
    let (_master, nobody) = fleet.master().await;
    let answer = nobody.get("/v1/hosts").await.expect(401);
    let detail = answer["detail"].as_str().unwrap();
    assert!(detail.contains("bbmaster token create"), "{detail}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoking_the_last_token_admits_nobody_on_sqlite() {
    revoking_the_last_token_admits_nobody(Database::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoking_the_last_token_admits_nobody_on_postgres() {
    if let Some(database) = Database::postgres() {
        revoking_the_last_token_admits_nobody(database).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listening_on_the_network_requires_a_token() {
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
