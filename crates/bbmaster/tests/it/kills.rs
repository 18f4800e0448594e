//! The real program, killed again and again.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bus::Queue;
use bus::amqp::{self, AmqpSettings, Login, Secret};
use harness::rabbitmq::RabbitMq;
use protocol::HostId;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::agent::{Agent, Script};
use crate::client::Client;
use crate::fleet::until;

/// Hosts, and PUTs to each.
const HOSTS: u32 = 10;
const PUTS: u32 = 10;

struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(node: &RabbitMq, vhost: &str, state: &Path, port: u16) -> Program {
    let settings = [
        format!("bbmaster.listen=127.0.0.1:{port}"),
        format!("bbmaster.state_dir={}", state.display()),
        "bbmaster.log_level_name=WARNING".to_owned(),
        "amqp.host=127.0.0.1".to_owned(),
        format!("amqp.port={}", node.port()),
        format!("amqp.virtual_host={vhost}"),
        "amqp.connection_retry_period=1".to_owned(),
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_bbmaster"));
    command.arg("--config").arg("/dev/null");
    for setting in settings {
        command.args(["--set", &setting]);
    }
    Program(command.stderr(Stdio::inherit()).spawn().unwrap())
}

async fn wait_until_serving(port: u16) {
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
        sleep(Duration::from_millis(20)).await;
    }
}

/// Repeated until it is answered: what was not may have been done or not, and is the same again.
async fn put(client: &Client, host: u32, version: u32) {
    let body = json!({"foo": {"version": version.to_string()}});
    loop {
        if let Some(answer) = client.try_put(&format!("/v1/hosts/h{host}/apps"), &body).await {
            answer.expect(200);
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_killed_loses_no_desired_state_and_doubles_no_event() {
    let node = RabbitMq::shared().await.unwrap();
    let vhost = node.add_vhost().await.unwrap();
    let state = tempfile::tempdir().unwrap();
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let client = Client::new((Ipv4Addr::LOCALHOST, port).into());
    let agents: Vec<Agent> = (0..HOSTS)
        .map(|n| {
            let host = format!("h{n}");
            let settings = AmqpSettings {
                login: Some(Login {
                    username: RabbitMq::USER.into(),
                    password: Secret::new(RabbitMq::PASSWORD),
                }),
                virtual_host: vhost.clone(),
                ..AmqpSettings::new("127.0.0.1", node.port())
            };
            let queue = Queue::of_agent(&HostId::new(host.clone()).unwrap(), None);
            Agent::start_on(amqp::connect(settings, queue), &host, Script::Converges)
        })
        .collect();
    let mut program = start(&node, &vhost, state.path(), port);
    wait_until_serving(port).await;

    let putting = tokio::spawn({
        let client = client.clone();
        async move {
            for version in 1..=PUTS {
                for host in 0..HOSTS {
                    put(&client, host, version).await;
                }
            }
        }
    });
    let mut kills = 0;
    while !putting.is_finished() || kills < 10 {
        // At any point of its life: while it starts, connects, pings, writes, sends.
        sleep(Duration::from_millis(fastrand::u64(30..700))).await;
        drop(program);
        kills += 1;
        program = start(&node, &vhost, state.path(), port);
        if kills % 3 == 0 {
            wait_until_serving(port).await;
        }
    }
    putting.await.unwrap();
    wait_until_serving(port).await;

    let newest = PUTS.to_string();
    for host in 0..HOSTS {
        until(&client, &format!("/v1/hosts/h{host}"), |host| {
            host["satisfied"] == true && host["apps"]["foo"]["version"].as_str() == Some(&newest)
        })
        .await;
    }
    for agent in &agents {
        assert_eq!(agent.apps().len(), 1);
    }
    // Each change once: a PUT that was repeated because its answer was lost is no second one.
    for host in 0..HOSTS {
        let page = client
            .get(&format!(
                "/v1/events?host_id=h{host}&kind=desired_changed&after=0"
            ))
            .await
            .expect(200);
        let versions: Vec<Value> = page["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["data"]["apps"]["foo"].clone())
            .collect();
        let expected: Vec<Value> = (1..=PUTS).map(|version| version.to_string().into()).collect();
        assert_eq!(versions, expected, "h{host} after {kills} kills");
    }
    let appeared = client.get("/v1/events?kind=host_appeared").await.expect(200);
    assert_eq!(appeared["events"].as_array().unwrap().len(), agents.len());
}
