//! `broker-setup` against RabbitMQ's management API: what it creates is enough for masters and
//! hosts, and not more.

use std::time::Duration;

use bbmaster::broker_setup::{
    AdminLogin, BrokerItem, BrokerNames, EnsureOutcome, ManagementApi, ensure, wanted,
};
use bbmaster::{Config, Master};
use bus::amqp::{self, AmqpSettings, Secret};
use bus::{LinkState, PublishError, Queue};
use harness::rabbitmq::{Options, RabbitMq};
use protocol::HostId;
use serde_json::json;

use crate::agent::{Agent, Script};
use crate::client::Client;
use crate::fleet::{Database, until};

fn names() -> BrokerNames {
    BrokerNames {
        vhost: "backbone".into(),
        master: "bbmaster".into(),
        master_password: Some("of the master".into()),
        master_queue: "bbmaster-q".into(),
        quorum: false,
        host_user: "host-{host_id}".into(),
        apps: Vec::new(),
    }
}

fn login(node: &RabbitMq, user: &str, password: &str) -> AmqpSettings {
    AmqpSettings {
        login: Some(amqp::Login {
            username: user.into(),
            password: Secret::new(password),
        }),
        virtual_host: "backbone".into(),
        retry_period: Duration::from_millis(300),
        ..AmqpSettings::new("127.0.0.1", node.port())
    }
}

fn run(base: &str, items: &[BrokerItem], dry_run: bool) -> Vec<EnsureOutcome> {
    let guest = AdminLogin {
        user: RabbitMq::USER.into(),
        password: RabbitMq::PASSWORD.into(),
    };
    let api = ManagementApi::new(base, &guest, None).unwrap();
    items
        .iter()
        .map(|item| ensure(&api, item, dry_run).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_creates_what_is_needed_and_nothing_else() {
    let node = RabbitMq::start_with(Options { management: true }).await.unwrap();
    let base = format!("http://127.0.0.1:{}", node.management_port());
    let hosts = ["02:FC:00:00:00:01", "02:FC:00:00:00:02"].map(|id| HostId::new(id).unwrap());
    let with_passwords = hosts.clone().map(|host| {
        let password = format!("of {host}");
        (host, password)
    });
    let items = wanted(&names(), &with_passwords);
    creates_each_item_once(&node, &base, &items).await;
    creates_a_cluster_and_keeps_an_operators_limits(&node, &base).await;
    let [one, two] = &hosts;
    a_host_and_a_master_work(&node, one).await;
    other_messages_cannot_be_read(&node, one, two).await;
}

async fn creates_each_item_once(node: &RabbitMq, base: &str, items: &[BrokerItem]) {
    assert!(items.iter().any(|item| item.what == "policy backbone-hosts"));
    let all = |outcome| vec![outcome; items.len()];
    assert_eq!(run(base, items, true), all(EnsureOutcome::WouldMake));
    assert_eq!(run(base, items, false), all(EnsureOutcome::Made));
    assert_eq!(run(base, items, false), all(EnsureOutcome::Kept));
    assert_eq!(run(base, items, true), all(EnsureOutcome::Kept));
    let listed = node
        .ctl(&["list_queues", "-p", "backbone", "name", "policy", "arguments"])
        .await
        .unwrap();
    for (queue, policy) in [
        ("bbmaster-q", "backbone-masters"),
        ("bbslave-q-", "backbone-hosts"),
    ] {
        let of_queue = listed.lines().find(|line| line.starts_with(queue)).unwrap();
        assert!(of_queue.contains(policy), "{listed}");
        // The host could not declare it again.
        assert!(!of_queue.contains("x-expires"), "{listed}");
    }
}

async fn creates_a_cluster_and_keeps_an_operators_limits(node: &RabbitMq, base: &str) {
    let clustered = BrokerNames {
        vhost: "clustered".into(),
        quorum: true,
        ..names()
    };
    let clustered = wanted(&clustered, &[]);
    let made = run(base, &clustered, false);
    assert!(made.contains(&EnsureOutcome::Made) && !made.contains(&EnsureOutcome::Conflict));
    node.ctl(&[
        "set_policy",
        "-p",
        "clustered",
        "backbone-masters",
        "^bbmaster-q$",
        r#"{"max-length-bytes": 1000}"#,
        "--apply-to",
        "queues",
    ])
    .await
    .unwrap();
    assert_eq!(
        run(base, &clustered, false),
        vec![EnsureOutcome::Kept; clustered.len()]
    );
    let types = node
        .ctl(&["list_queues", "-p", "clustered", "name", "type"])
        .await
        .unwrap();
    assert!(types.contains("quorum"), "{types}");
}

fn login_of(node: &RabbitMq, host: &HostId) -> AmqpSettings {
    login(node, &names().host_user(host), &format!("of {host}"))
}

/// Each with its own user.
async fn a_host_and_a_master_work(node: &RabbitMq, one: &HostId) {
    let database = Database::sqlite();
    let link = amqp::connect(
        login(node, "bbmaster", "of the master"),
        Queue::of_master("bbmaster-q", 100),
    );
    let config = Config {
        policy: bbmaster::collect::Policy {
            require_user_id: true,
            host_user: Some(names().host_user),
            ..Config::local().policy
        },
        ..Config::local()
    };
    let master = Master::start(config, database.open().await, link).await.unwrap();
    let client = Client::new(master.address());
    let agent = Agent::start_on(
        amqp::connect(login_of(node, one), Queue::of_agent(one, None)),
        one.as_str(),
        Script::Converges,
    );
    let path = format!("/v1/hosts/{one}");
    client
        .put(&format!("{path}/apps"), &json!({"foo": {"version": "1"}}))
        .await
        .expect(200);
    until(&client, &path, |host| host["satisfied"] == true).await;
    drop(agent);
}

/// Neither another host's nor the masters'.
async fn other_messages_cannot_be_read(node: &RabbitMq, one: &HostId, two: &HostId) {
    let mut link = amqp::connect(login_of(node, one), Queue::of_agent(one, None));
    link.state.wait_for(LinkState::is_up).await.unwrap();
    for key in [two.as_str(), "slaves", "foo"] {
        let sent = link.publisher.publish(key, b"{}".to_vec()).await;
        assert!(
            matches!(sent, Err(PublishError::Refused | PublishError::Disconnected)),
            "{key}: {sent:?}"
        );
        link.state.wait_for(LinkState::is_up).await.unwrap();
    }
    for queue in [
        Queue::of_agent(two, None),
        Queue::of_master("bbmaster-q", 1),
        Queue {
            topics: [two.as_str().to_owned()].into(),
            ..Queue::of_agent(one, None)
        },
        Queue {
            topics: ["master".to_owned()].into(),
            ..Queue::of_agent(one, None)
        },
    ] {
        let mut link = amqp::connect(login_of(node, one), queue.clone());
        let state = link
            .state
            .wait_for(|state| {
                *state
                    != LinkState::Down {
                        reason: String::new(),
                    }
            })
            .await
            .unwrap()
            .clone();
        assert!(matches!(state, LinkState::Down { .. }), "{queue:?}: {state:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_of_another_type_is_a_conflict() {
    let node = RabbitMq::start_with(Options { management: true }).await.unwrap();
    let base = format!("http://127.0.0.1:{}", node.management_port());
    let names = BrokerNames {
        vhost: "/".into(),
        ..names()
    };
    let mut agent = amqp::connect(
        AmqpSettings {
            virtual_host: "/".into(),
            ..login(&node, RabbitMq::USER, RabbitMq::PASSWORD)
        },
        Queue::of_agent(&HostId::new("h1").unwrap(), None),
    );
    agent.state.wait_for(LinkState::is_up).await.unwrap();
    let items = wanted(&names, &[]);
    assert_eq!(
        run(&base, &items[..2], false),
        [EnsureOutcome::Kept, EnsureOutcome::Conflict]
    );
}
