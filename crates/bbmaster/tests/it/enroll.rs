//! Enrolment: `hostagent enroll` against a master with RabbitMQ's management API.

use std::path::{Path, PathBuf};

use bbmaster::broker_setup::{AdminLogin, BrokerNames, ManagementApi, ensure, wanted};
use bbmaster::collect::Policy;
use bbmaster::enroll::Enrollment;
use bbmaster::settings::{Settings, Sources};
use bbmaster::{Config, Master};
use bus::amqp::{self, AmqpSettings, Roots, Secret, TlsSettings};
use bus::{LinkState, Queue};
use harness::certificates::Authority;
use harness::rabbitmq::{Options, RabbitMq};
use hostagent::commands::enroll::{EnrollArgs, enroll};
use hostagent::settings as agent;
use serde_json::{Value, json};

use crate::agent::{Agent, Script};
use crate::client::{Answer, Client};
use crate::fleet::{Database, Fleet, until};

/// The settings of a new host.
struct NewHost {
    folder: tempfile::TempDir,
    id: String,
}

impl NewHost {
    fn new(id: &str) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            id: id.to_owned(),
        }
    }

    fn sources(&self) -> Sources {
        Sources {
            file: Some(self.folder.path().join("hostagent.conf")),
            overrides: vec![
                format!("hostagent.host_id={}", self.id),
                format!("hostagent.root={}", self.folder.path().display()),
            ],
            ..Sources::default()
        }
    }

    fn settings(&self) -> agent::Settings {
        agent::Settings::load(&self.sources()).unwrap().settings
    }

    /// Does what `hostagent enroll` does. The error is its text.
    async fn enroll(&self, master: &str, token: &str, ca: Option<PathBuf>) -> Result<(), String> {
        let request = EnrollArgs {
            master: master.parse().unwrap(),
            token: Some(token.to_owned()),
            ca,
            allow_plain_http: false,
        };
        let done = enroll(&self.sources(), &self.settings(), request).await;
        done.map(drop).map_err(|error| format!("{error:#}"))
    }

    /// The broker of the settings that enrolment has written.
    fn broker(&self) -> AmqpSettings {
        let agent::Settings { amqp, ssl, .. } = self.settings();
        let tls = (!ssl.disable).then(|| TlsSettings {
            roots: ssl.ca_certs.map_or(Roots::System, Roots::File),
            client: None,
            server_name: None,
        });
        AmqpSettings {
            tls,
            login: Some(amqp::Login {
                username: amqp.username,
                password: Secret::new(amqp.password.unwrap().expose()),
            }),
            virtual_host: amqp.virtual_host,
            ..AmqpSettings::new(amqp.host, amqp.port.unwrap())
        }
    }

    fn queue(&self) -> Queue {
        Queue::of_agent(&protocol::HostId::new(self.id.clone()).unwrap(), None)
    }
}

fn settings(node: &RabbitMq, management: &str, password: &str) -> Settings {
    let sources = Sources {
        overrides: [
            "amqp.host=127.0.0.1",
            &format!("amqp.port={}", node.port()),
            "amqp.virtual_host=backbone",
            "amqp.username=bbmaster",
            "amqp.password=of the master",
            &format!("enroll.management={management}"),
            &format!("enroll.username={}", RabbitMq::USER),
            &format!("enroll.password={password}"),
        ]
        .map(str::to_owned)
        .into(),
        ..Sources::default()
    };
    Settings::load(&sources).unwrap().settings
}

async fn master(settings: &Settings, database: &Database) -> (Master, Client) {
    let config = Config {
        enrollment: Enrollment::of(settings).unwrap(),
        policy: Policy {
            require_user_id: true,
            host_user: Some(BrokerNames::USUAL_HOST_USER.to_owned()),
            ..Config::local().policy
        },
        ..Config::local()
    };
    let link = amqp::connect(settings.broker(), settings.queue());
    let master = Master::start(config, database.open().await, link).await.unwrap();
    let client = Client::new(master.address());
    (master, client)
}

async fn post(client: &Client, path: &str, body: &Value) -> Answer {
    client
        .send("POST", path, &[], Some(body.to_string().as_bytes()))
        .await
}

/// Creates a token and returns its secret.
async fn token(client: &Client, new: Value) -> String {
    let made = post(client, "/v1/enroll-tokens/", &new).await.expect(201);
    made["secret"].as_str().unwrap().to_owned()
}

fn set_up(node: &RabbitMq, management: &str) {
    let names = BrokerNames {
        vhost: "backbone".into(),
        master: "bbmaster".into(),
        master_password: Some("of the master".into()),
        master_queue: "bbmaster-q".into(),
        quorum: false,
        host_user: BrokerNames::USUAL_HOST_USER.into(),
        apps: Vec::new(),
    };
    let guest = AdminLogin {
        user: RabbitMq::USER.into(),
        password: RabbitMq::PASSWORD.into(),
    };
    let api = ManagementApi::new(management, &guest, None).unwrap();
    for item in wanted(&names, &[]) {
        ensure(&api, &item, false).unwrap();
    }
    assert!(node.management_port() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_enrols_with_a_token_and_then_works() {
    let node = RabbitMq::start_with(Options { management: true }).await.unwrap();
    let management = format!("http://127.0.0.1:{}", node.management_port());
    set_up(&node, &management);
    let database = Database::sqlite();
    let (_master, client) = master(&settings(&node, &management, RabbitMq::PASSWORD), &database).await;
    let url = format!("http://{}", client.address());

    let once = token(&client, json!({"name": "once"})).await;
    assert!(once.starts_with("bbe_"));
    let host = NewHost::new("02:FC:00:00:00:01");
    host.enroll(&url, &once, None).await.unwrap();
    let written = host.folder.path().join("hostagent.conf.d/90-enrolled.conf");
    assert!(is_private(&written));

    // With its own user it can report, and gets its desired state.
    let agent = Agent::start_on(
        amqp::connect(host.broker(), host.queue()),
        &host.id,
        Script::Converges,
    );
    let path = format!("/v1/hosts/{}", host.id);
    client
        .put(&format!("{path}/apps"), &json!({"foo": {"version": "1"}}))
        .await
        .expect(200);
    until(&client, &path, |host| host["satisfied"] == true).await;
    drop(agent);

    // The token is used up. A token for new hosts does not work for a known host.
    let other = NewHost::new("h2");
    let error = other.enroll(&url, &once, None).await.unwrap_err();
    assert!(error.contains("has been used up"), "{error}");
    let two = token(&client, json!({"name": "two", "uses": 2})).await;
    let error = host.enroll(&url, &two, None).await.unwrap_err();
    assert!(error.contains("already known"), "{error}");
    other.enroll(&url, &two, None).await.unwrap();
    let left = client.get("/v1/enroll-tokens/").await.expect(200);
    assert_eq!(left["tokens"][1]["uses_left"], 1, "{left}");

    // A token for this host gives it a new password.
    let before = host.broker();
    let again = token(&client, json!({"name": "again", "host_id": host.id})).await;
    let error = other.enroll(&url, &again, None).await.unwrap_err();
    assert!(error.contains("for host 02:FC"), "{error}");
    host.enroll(&url, &again, None).await.unwrap();
    let refused = amqp::connect(before, host.queue());
    let mut state = refused.state.clone();
    let down = |state: &LinkState| matches!(state, LinkState::Down { reason } if !reason.is_empty());
    state.wait_for(down).await.unwrap();
    let taken = amqp::connect(host.broker(), host.queue());
    taken.state.clone().wait_for(LinkState::is_up).await.unwrap();

    let events = client
        .get("/v1/events?kind=host_enrolled&after=0")
        .await
        .expect(200);
    let hosts: Vec<&Value> = events["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| &event["host_id"])
        .collect();
    assert_eq!(hosts, [host.id.as_str(), "h2", host.id.as_str()]);
    let shown = client.get("/v1/enroll-tokens/").await;
    assert!(!String::from_utf8_lossy(&shown.body).contains("bbe_"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_a_host_enrols_only_at_a_trusted_master_and_then_trusts_the_broker() {
    let node = RabbitMq::start_with(Options { management: true }).await.unwrap();
    let management = format!("http://127.0.0.1:{}", node.management_port());
    set_up(&node, &management);
    let folder = tempfile::tempdir().unwrap();
    let [ours, foreign] = ["ours", "foreign"].map(|name| Authority::new(name).unwrap());
    let file = |name: &str| folder.path().join(name);
    ours.write_certificate(&file("ours.pem")).unwrap();
    foreign.write_certificate(&file("foreign.pem")).unwrap();
    let (certificate, key) = (file("master.pem"), file("master.key"));
    ours.server(&["localhost"])
        .unwrap()
        .write(&certificate, &key)
        .unwrap();

    let mut settings = settings(&node, &management, RabbitMq::PASSWORD);
    settings.enroll.amqp_host = Some("localhost".into());
    settings.enroll.amqp_port = Some(node.tls_port());
    settings.enroll.amqp_tls = Some(true);
    settings.enroll.amqp_ca = Some(node.authority_file());
    let config = Config {
        enrollment: Enrollment::of(&settings).unwrap(),
        tls: Some((certificate, key)),
        ..Config::local()
    };
    let database = Database::sqlite();
    let secret = {
        let (_plain, client) = master(&settings, &database).await;
        token(&client, json!({"name": "once"})).await
    };
    let link = amqp::connect(settings.broker(), settings.queue());
    let over_tls = Master::start(config, database.open().await, link).await.unwrap();
    let port = over_tls.address().port();
    let (url, by_address) = (
        format!("https://localhost:{port}"),
        format!("https://127.0.0.1:{port}"),
    );

    // The token is sent neither to a master with another authority nor to one with another name.
    let host = NewHost::new("02:FC:00:00:00:01");
    for (url, ca, expected) in [
        (&url, Some("foreign.pem"), "UnknownIssuer"),
        (&url, None, "UnknownIssuer"),
        (&by_address, Some("ours.pem"), "not valid for name"),
    ] {
        let error = host.enroll(url, &secret, ca.map(file)).await.unwrap_err();
        assert!(error.contains(expected), "{ca:?}: {error}");
    }
    host.enroll(&url, &secret, Some(file("ours.pem"))).await.unwrap();
    let written = host.folder.path().join("hostagent.conf.d");
    assert!(is_private(&written.join("90-enrolled.conf")));
    let settings = host.settings();
    assert!(!settings.ssl.disable);
    assert_eq!(
        (settings.amqp.host.as_str(), settings.amqp.port),
        ("localhost", Some(node.tls_port()))
    );
    let ca = settings.ssl.ca_certs.unwrap();
    assert_eq!(
        std::fs::read(&ca).unwrap(),
        std::fs::read(node.authority_file()).unwrap()
    );
    // It connects with the written settings, over TLS, and not with another authority.
    let link = amqp::connect(host.broker(), host.queue());
    link.state.clone().wait_for(LinkState::is_up).await.unwrap();
    drop(link);
    std::fs::copy(file("foreign.pem"), &ca).unwrap();
    let link = amqp::connect(host.broker(), host.queue());
    let refused = |state: &LinkState| format!("{state:?}").contains("UnknownIssuer");
    link.state.clone().wait_for(refused).await.unwrap();
}

fn is_private(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(file).unwrap().permissions().mode() & 0o077 == 0
}

/// A broker whose management API does not answer.
async fn master_that_cannot_ask(fleet: &Fleet) -> (Master, Client) {
    let sources = Sources {
        overrides: [
            "enroll.management=http://127.0.0.1:1",
            "enroll.username=admin",
            "enroll.password=x",
        ]
        .map(str::to_owned)
        .into(),
        ..Sources::default()
    };
    let settings = Settings::load(&sources).unwrap().settings;
    let config = Config {
        enrollment: Enrollment::of(&settings).unwrap(),
        ..Config::local()
    };
    fleet.master_with(config).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_token_gets_a_reason_and_a_failed_broker_uses_no_token() {
    for fleet in [Some(Database::sqlite()), Database::postgres()]
        .into_iter()
        .flatten()
        .map(Fleet::new)
    {
        let (_master, client) = master_that_cannot_ask(&fleet).await;
        let url = format!("http://{}", client.address());
        let host = NewHost::new("h1");
        let good = token(&client, json!({"name": "good"})).await;
        for _ in 0..2 {
            let error = host.enroll(&url, &good, None).await.unwrap_err();
            assert!(error.contains("The token can be used again"), "{error}");
        }
        let short = token(&client, json!({"name": "short", "expires_in": 1})).await;
        loop {
            let error = host.enroll(&url, &short, None).await.unwrap_err();
            if error.contains("has expired, at 2") {
                break;
            }
            assert!(error.contains("can be used again"), "{error}");
        }
        let revoked = token(&client, json!({"name": "revoked"})).await;
        client
            .send("DELETE", "/v1/enroll-tokens/revoked", &[], None)
            .await
            .expect(204);
        for secret in [revoked.as_str(), "bbe_wrong"] {
            let error = host.enroll(&url, secret, None).await.unwrap_err();
            assert!(error.contains("unknown or revoked"), "{error}");
        }
        // Of many requests at once, one succeeds.
        let answers = (0..8).map(|n| {
            let client = client.with_token(&good);
            async move {
                post(&client, "/v1/enroll", &json!({"host_id": format!("h{n}")}))
                    .await
                    .status
            }
        });
        let mut answers = futures_util::future::join_all(answers).await;
        answers.sort_unstable();
        assert!(
            answers.iter().all(|status| [401, 503].contains(status)),
            "{answers:?}"
        );
        let listed = client.get("/v1/enroll-tokens/").await.expect(200);
        assert_eq!(listed["tokens"][0]["uses_left"], 1, "{listed}");
        assert!(
            !host
                .folder
                .path()
                .join("hostagent.conf.d/90-enrolled.conf")
                .exists()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_new_token_is_refused_with_the_invalid_value() {
    let fleet = Fleet::sqlite();
    let (_master, client) = fleet.master().await;
    for (body, status, path) in [
        (json!({"name": ""}), 422, "$.name"),
        (json!({"name": "x", "uses": 0}), 422, "$.uses"),
        (
            json!({"name": "x", "expires_in": 40_000_000}),
            422,
            "$.expires_in",
        ),
        (json!({"name": "x", "host_id": "a b"}), 422, "$"),
        (json!({"name": "x", "role": "admin"}), 422, "$"),
    ] {
        let answer = post(&client, "/v1/enroll-tokens/", &body).await;
        assert_eq!(answer.expect(status)["path"], path, "{body}");
    }
    // This master has no [enroll] settings.
    let off = post(&client, "/v1/enroll-tokens/", &json!({"name": "x"})).await;
    assert_eq!(off.expect(409)["type"], "urn:backbone:enrolment-off");
}
