//! The demo over RabbitMQ, with each agent in a separate process.

use std::path::{Path, PathBuf};
use std::process::Command;

use harness::rabbitmq::RabbitMq;

use crate::run::Run;

/// The agent's program in the folder of the demo's. A test run of the whole workspace builds it; a
/// test run of this crate alone builds it here.
fn hostagent() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_demo")).with_file_name("hostagent");
    if !program.exists() {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "-p", "hostagent", "-p", "demo"])
            .status()
            .unwrap();
        assert!(built.success());
    }
    program
}

fn url(node: &RabbitMq, vhost: &str) -> String {
    let (user, password, port) = (RabbitMq::USER, RabbitMq::PASSWORD, node.port());
    format!("amqp://{user}:{password}@127.0.0.1:{port}/{vhost}")
}

#[tokio::test]
async fn the_same_day_over_rabbitmq_leaves_the_broker_as_it_was() {
    let node = RabbitMq::shared().await.unwrap();
    let vhost = node.add_vhost().await.unwrap();
    let program = hostagent();
    let url = url(&node, &vhost);
    // Twice: the first run must leave nothing that would stop the second.
    for _ in 0..2 {
        let (code, text) = Run::start(&["--broker", &url, "--hostagent", program.to_str().unwrap()]).end();
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("Bus: RabbitMQ at 127.0.0.1:"), "{text}");
        assert!(text.contains("All hosts are as desired"), "{text}");
        for sign in ["DIFFERENT", "ERROR: Channel", "WARN"] {
            assert!(!text.contains(sign), "{text}");
        }
        let queues = node.ctl(&["list_queues", "-p", &vhost, "name"]).await.unwrap();
        assert!(
            !queues.contains("bbslave") && !queues.contains("demo"),
            "{queues}"
        );
        let exchanges = node.ctl(&["list_exchanges", "-p", &vhost, "name"]).await.unwrap();
        assert!(!exchanges.contains(protocol::topic::EXCHANGE), "{exchanges}");
    }
}

#[tokio::test]
async fn a_virtual_host_with_a_fleet_is_left_alone() {
    let node = RabbitMq::shared().await.unwrap();
    let vhost = node.add_vhost().await.unwrap();
    let fleet = bus::amqp::connect(
        bus::amqp::AmqpSettings {
            login: Some(bus::amqp::Login {
                username: RabbitMq::USER.into(),
                password: bus::amqp::Secret::new(RabbitMq::PASSWORD),
            }),
            virtual_host: vhost.clone(),
            ..bus::amqp::AmqpSettings::new("127.0.0.1", node.port())
        },
        bus::Queue::of_agent(&protocol::HostId::new("a-real-host").unwrap(), None),
    );
    let mut state = fleet.state.clone();
    state.wait_for(bus::LinkState::is_up).await.unwrap();
    let program = hostagent();
    let arguments = [
        "--broker",
        &url(&node, &vhost),
        "--hostagent",
        program.to_str().unwrap(),
    ];
    let (code, text) = Run::start(&arguments).end();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("a fleet may be using it"), "{text}");
    let exchanges = node.ctl(&["list_exchanges", "-p", &vhost, "name"]).await.unwrap();
    assert!(exchanges.contains(protocol::topic::EXCHANGE), "{exchanges}");
    assert!(fleet.state.borrow().is_up());
    let queues = node.ctl(&["list_queues", "-p", &vhost, "name"]).await.unwrap();
    assert_eq!(
        queues.trim().lines().filter(|line| *line != "name").count(),
        1,
        "{queues}"
    );
}
