//! The whole agent over amqps, its client certificate for a login, among masters that it may or may not trust.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bus::amqp::{AmqpSettings, ClientCertificate, Login, Roots, Secret, TlsSettings};
use bus::{Delivery, Link, LinkState, Queue, amqp};
use harness::certificates::Authority;
use harness::packages::{Family, Sandbox};
use harness::rabbitmq::RabbitMq;
use protocol::{Phase, Status};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

const HOST: &str = "certified";
/// The name in the client certificate that the node's authority has signed.
const CLIENT: &str = "backbone-client";
const PATIENCE: Duration = Duration::from_secs(30);

struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_agent(node: &RabbitMq, vhost: &str, folder: &Path, root: &Path) -> Agent {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hostagent"));
    for setting in [
        format!("hostagent.host_id={HOST}"),
        format!("hostagent.root={}", root.display()),
        "hostagent.connection_retry_period=1".into(),
        "hostagent.package_family=deb".into(),
        "amqp.host=localhost".into(),
        format!("amqp.port={}", node.tls_port()),
        format!("amqp.virtual_host={vhost}"),
        format!("amqp.username={CLIENT}"),
        format!("amqp.trusted_users={}", RabbitMq::USER),
        format!("ssl.ca_certs={}", node.authority_file().display()),
        format!("ssl.certfile={}", folder.join("client.pem").display()),
        format!("ssl.keyfile={}", folder.join("client.key").display()),
    ] {
        command.args(["--set", &setting]);
    }
    let log = File::create(folder.join("log")).unwrap();
    Agent(command.stdout(Stdio::null()).stderr(log).spawn().unwrap())
}

/// A link over TLS, consuming a queue called `queue`.
async fn link(node: &RabbitMq, vhost: &str, login: Option<Login>, queue: &str) -> Link {
    let (certificate, key) = node.client_files();
    let client = login.is_none().then_some(ClientCertificate { certificate, key });
    let settings = AmqpSettings {
        virtual_host: vhost.into(),
        login,
        tls: Some(TlsSettings {
            roots: Roots::File(node.authority_file()),
            client,
            server_name: None,
        }),
        ..AmqpSettings::new("localhost", node.tls_port())
    };
    let mut link = amqp::connect(settings, Queue::of_master(queue, 16));
    timeout(PATIENCE, link.state.wait_for(LinkState::is_up))
        .await
        .unwrap()
        .unwrap();
    link
}

/// The status that answers the message `id`.
async fn answer(link: &mut Link, id: &str) -> (Status, Delivery) {
    loop {
        let delivery = timeout(PATIENCE, link.deliveries.recv()).await.unwrap().unwrap();
        let status = Status::decode(&delivery.body, protocol::Limits::default()).unwrap();
        if status.reply_to.as_deref() == Some(id) {
            return (status, delivery);
        }
        delivery.ack();
    }
}

async fn say(link: &Link, id: &str) {
    let message = json!({"opcode": "set_config", "id": id, "data": {}});
    let until = Instant::now() + PATIENCE;
    // Unroutable until the agent's queue is there.
    while let Err(error) = link
        .publisher
        .publish(HOST, message.to_string().into_bytes())
        .await
    {
        assert!(Instant::now() < until, "{error}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn the_agent_logs_in_by_certificate_and_obeys_those_it_trusts() {
    let node = RabbitMq::shared().await.unwrap();
    let vhost = node.add_vhost().await.unwrap();
    // Shared by all runs against this node; the second time it is there already.
    let _ = node.ctl(&["add_user", CLIENT, "unused"]).await;
    let permissions = ["set_permissions", "-p", &vhost, CLIENT, ".*", ".*", ".*"];
    node.ctl(&permissions).await.unwrap();
    let sandbox = Sandbox::temporary(Family::Deb).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (certfile, keyfile) = (folder.path().join("client.pem"), folder.path().join("client.key"));

    // A certificate that nobody here has signed: refused, and tried again.
    let foreign = Authority::new("Another CA").unwrap().client(CLIENT).unwrap();
    foreign.write(&certfile, &keyfile).unwrap();
    let _agent = start_agent(&node, &vhost, folder.path(), sandbox.root());
    let log = folder.path().join("log");
    let until = Instant::now() + PATIENCE;
    while !fs::read_to_string(&log).unwrap().contains("alert") {
        assert!(Instant::now() < until, "{}", fs::read_to_string(&log).unwrap());
        sleep(Duration::from_millis(50)).await;
    }

    // The good one is put in its place, as when a certificate is renewed: no restart.
    let (certificate, key) = node.client_files();
    fs::copy(key, &keyfile).unwrap();
    fs::copy(certificate, &certfile).unwrap();

    let login = Login {
        username: RabbitMq::USER.into(),
        password: Secret::new(RabbitMq::PASSWORD),
    };
    let mut trusted = link(&node, &vhost, Some(login), "trusted").await;
    say(&trusted, "from-trusted").await;
    let (status, delivery) = answer(&mut trusted, "from-trusted").await;
    assert!(status.errors.is_empty(), "{:?}", status.errors);
    // RabbitMQ vouches for the host's name, too.
    assert_eq!(delivery.user_id.as_deref(), Some(CLIENT));
    delivery.ack();

    // The same host's own certificate is not trusted to give orders.
    let stranger = link(&node, &vhost, None, "stranger").await;
    say(&stranger, "from-stranger").await;
    let (status, delivery) = answer(&mut trusted, "from-stranger").await;
    delivery.ack();
    let error = &status.errors[0];
    assert_eq!(error.phase, Phase::Decode);
    assert!(error.message.contains("trusted_users"), "{}", error.message);
    let users = ["list_connections", "user", "auth_mechanism", "vhost"];
    let users = node.ctl(&users).await.unwrap();
    assert!(users.contains(&format!("{CLIENT}\tEXTERNAL\t{vhost}")), "{users}");
}
