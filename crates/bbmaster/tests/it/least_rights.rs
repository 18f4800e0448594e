//! What somebody can do who has stolen the login of a host: each attack is tried over raw AMQP, and
//! refused.

use bbmaster::broker_setup::{AdminLogin, BrokerNames, ManagementApi, ensure, wanted};
use bbmaster::collect::Policy;
use bbmaster::{Config, Master};
use bus::amqp::{AmqpSettings, Secret};
use bus::{Queue, amqp};
use harness::rabbitmq::{Options, RabbitMq};
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
    ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind};
use protocol::topic::{EXCHANGE, agent_queue};
use protocol::{HostId, topic};
use serde_json::json;

use crate::client::Client;
use crate::fleet::{Database, until};

const MASTERS: &str = "bbmaster-q";
const ONE: &str = "02:FC:00:00:00:01";
const TWO: &str = "02:FC:00:00:00:02";

/// A use of a host's login.
enum Deed {
    Consume(String),
    Get(String),
    Purge(String),
    Delete(String),
    Declare(String),
    /// Bind the host's own queue to this key.
    Bind(&'static str),
    BindAnothers(String),
    DeclareExchange,
    DeleteExchange,
    /// Exchange and routing key.
    Publish(&'static str, String),
    /// Publish a status with this `user_id`.
    PublishAs(&'static str),
}

impl Deed {
    async fn attempt(&self, channel: &Channel) -> lapin::Result<()> {
        let (none, own) = (FieldTable::default, agent_queue(&id(ONE)));
        match self {
            Self::Consume(queue) => {
                let options = BasicConsumeOptions::default();
                let name = queue.as_str().into();
                channel
                    .basic_consume(name, "".into(), options, none())
                    .await
                    .map(drop)
            }
            Self::Get(queue) => {
                let got = channel.basic_get(queue.as_str().into(), BasicGetOptions::default());
                got.await.map(drop)
            }
            Self::Purge(queue) => {
                let purged = channel.queue_purge(queue.as_str().into(), QueuePurgeOptions::default());
                purged.await.map(drop)
            }
            Self::Delete(queue) => {
                let deleted = channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default());
                deleted.await.map(drop)
            }
            Self::Declare(queue) => {
                let options = QueueDeclareOptions::default();
                channel
                    .queue_declare(queue.as_str().into(), options, none())
                    .await
                    .map(drop)
            }
            Self::Bind(key) => bind(channel, &own, key).await,
            Self::BindAnothers(queue) => bind(channel, queue, topic::SLAVES).await,
            Self::DeclareExchange => {
                let options = ExchangeDeclareOptions::default();
                let kind = ExchangeKind::Fanout;
                channel
                    .exchange_declare("mine".into(), kind, options, none())
                    .await
            }
            Self::DeleteExchange => {
                channel
                    .exchange_delete(EXCHANGE.into(), ExchangeDeleteOptions::default())
                    .await
            }
            Self::Publish(exchange, key) => publish(channel, exchange, key, BasicProperties::default()).await,
            Self::PublishAs(user) => {
                let forged = BasicProperties::default().with_user_id((*user).into());
                publish(channel, EXCHANGE, topic::MASTER, forged).await
            }
        }
    }
}

async fn bind(channel: &Channel, queue: &str, key: &str) -> lapin::Result<()> {
    let options = QueueBindOptions::default();
    let (queue, key) = (queue.into(), key.into());
    channel
        .queue_bind(queue, EXCHANGE.into(), key, options, FieldTable::default())
        .await
}

/// Waits for the confirm: a refusal closes the channel.
async fn publish(
    channel: &Channel,
    exchange: &str,
    key: &str,
    properties: BasicProperties,
) -> lapin::Result<()> {
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let options = BasicPublishOptions::default();
    let sent = channel.basic_publish(exchange.into(), key.into(), options, b"{}", properties);
    let confirmed: Confirmation = sent.await?.await?;
    assert!(confirmed.is_ack());
    Ok(())
}

fn id(host: &str) -> HostId {
    HostId::new(host).unwrap()
}

fn names() -> BrokerNames {
    BrokerNames {
        vhost: "backbone".into(),
        master: "bbmaster".into(),
        master_password: Some("of the master".into()),
        master_queue: MASTERS.into(),
        quorum: false,
        host_user: BrokerNames::USUAL_HOST_USER.into(),
        apps: vec!["shop".into()],
    }
}

fn login(node: &RabbitMq, user: &str, password: &str) -> AmqpSettings {
    AmqpSettings {
        login: Some(amqp::Login {
            username: user.into(),
            password: Secret::new(password),
        }),
        virtual_host: "backbone".into(),
        ..AmqpSettings::new("127.0.0.1", node.port())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hosts_login_gives_access_to_its_own_messages_only() {
    let node = RabbitMq::start_with(Options { management: true }).await.unwrap();
    let guest = AdminLogin {
        user: RabbitMq::USER.into(),
        password: RabbitMq::PASSWORD.into(),
    };
    let management = format!("http://127.0.0.1:{}", node.management_port());
    let api = ManagementApi::new(&management, &guest, None).unwrap();
    let hosts = [ONE, TWO].map(|host| (id(host), format!("password-of-{host}")));
    for item in wanted(&names(), &hosts) {
        ensure(&api, &item, false).unwrap();
    }
    // A colon must be escaped in a URL.
    let user = format!("host-{ONE}").replace(':', "%3A");
    let password = hosts[0].1.replace(':', "%3A");
    let url = format!("amqp://{user}:{password}@127.0.0.1:{}/backbone", node.port());
    let connection = Connection::connect(&url, ConnectionProperties::default())
        .await
        .unwrap();
    let (own, others) = (agent_queue(&id(ONE)), agent_queue(&id(TWO)));
    let key = |key: &str| key.to_owned();
    use Deed::*;
    for (name, deed, refused) in [
        ("consume its own queue", Consume(own.clone()), None),
        ("bind its own key", Bind(ONE), None),
        ("bind the key of all", Bind("slaves"), None),
        ("bind an application that is allowed", Bind("shop"), None),
        ("report", Publish(EXCHANGE, key(topic::MASTER)), None),
        (
            "consume another's queue",
            Consume(others.clone()),
            Some("ACCESS_REFUSED"),
        ),
        (
            "consume the masters' queue",
            Consume(key(MASTERS)),
            Some("ACCESS_REFUSED"),
        ),
        (
            "get from another's queue",
            Get(others.clone()),
            Some("ACCESS_REFUSED"),
        ),
        (
            "empty another's queue",
            Purge(others.clone()),
            Some("ACCESS_REFUSED"),
        ),
        (
            "delete another's queue",
            Delete(others.clone()),
            Some("ACCESS_REFUSED"),
        ),
        (
            "delete its own queue",
            Delete(own.clone()),
            Some("ACCESS_REFUSED"),
        ),
        (
            "make a queue that another will use",
            Declare(key("bbslave-q-h3")),
            Some("ACCESS_REFUSED"),
        ),
        ("hear another's key", Bind(TWO), Some("ACCESS_REFUSED")),
        ("hear all reports", Bind("master"), Some("ACCESS_REFUSED")),
        ("hear all there is", Bind("#"), Some("ACCESS_REFUSED")),
        (
            "hear an application that is not allowed",
            Bind("vault"),
            Some("ACCESS_REFUSED"),
        ),
        (
            "bind another's queue",
            BindAnothers(others.clone()),
            Some("ACCESS_REFUSED"),
        ),
        ("make an exchange", DeclareExchange, Some("ACCESS_REFUSED")),
        ("delete the exchange", DeleteExchange, Some("ACCESS_REFUSED")),
        (
            "command another host",
            Publish(EXCHANGE, key(TWO)),
            Some("ACCESS_REFUSED"),
        ),
        (
            "command all hosts",
            Publish(EXCHANGE, key("slaves")),
            Some("ACCESS_REFUSED"),
        ),
        (
            "command by application",
            Publish(EXCHANGE, key("shop")),
            Some("ACCESS_REFUSED"),
        ),
        (
            "go past the exchange",
            Publish("", others.clone()),
            Some("ACCESS_REFUSED"),
        ),
        (
            "go past it by another way",
            Publish("amq.direct", others.clone()),
            Some("ACCESS_REFUSED"),
        ),
        (
            "report as another host",
            PublishAs("host-02:FC:00:00:00:02"),
            Some("PRECONDITION_FAILED"),
        ),
        (
            "report as the master",
            PublishAs("bbmaster"),
            Some("PRECONDITION_FAILED"),
        ),
    ] {
        // One channel each: a refusal closes it.
        let channel = connection.create_channel().await.unwrap();
        let done = deed.attempt(&channel).await;
        match (done, refused) {
            (Ok(()), None) => drop(channel.close(200, "done".into()).await),
            (Err(error), Some(code)) => assert!(error.to_string().contains(code), "{name}: {error}"),
            (done, refused) => panic!("{name}: {done:?}, expected {refused:?}"),
        }
    }
    drop(connection);
    a_status_in_the_name_of_another_host_goes_into_quarantine(&node, &hosts[0].1).await;
}

async fn a_status_in_the_name_of_another_host_goes_into_quarantine(node: &RabbitMq, password: &str) {
    let database = Database::sqlite();
    let config = Config {
        policy: Policy {
            require_user_id: true,
            host_user: Some(names().host_user),
            ..Config::local().policy
        },
        ..Config::local()
    };
    let link = amqp::connect(
        login(node, "bbmaster", "of the master"),
        Queue::of_master(MASTERS, 100),
    );
    let master = Master::start(config, database.open().await, link).await.unwrap();
    let client = Client::new(master.address());
    let user = format!("host-{ONE}");
    let mut host = amqp::connect(login(node, &user, password), Queue::of_agent(&id(ONE), None));
    host.state.wait_for(bus::LinkState::is_up).await.unwrap();
    for (seq, as_host) in [(1, TWO), (2, ONE)] {
        let status = json!({"opcode": "status", "data":
            {"host_id": as_host, "status": "ok", "boot_id": "b", "seq": seq}});
        let body = status.to_string().into_bytes();
        host.publisher.publish(topic::MASTER, body).await.unwrap();
    }
    until(&client, &format!("/v1/hosts/{ONE}"), |host| {
        host["status"] == "ok"
    })
    .await;
    assert_eq!(client.get(&format!("/v1/hosts/{TWO}")).await.status, 404);
}
