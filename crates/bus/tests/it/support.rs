//! Helpers of these tests: settings, waiting, and links.

use std::time::Duration;

use bus::amqp::{AmqpSettings, Login, Secret};
use bus::{Delivery, Link, LinkState, PublishError, Queue};
use harness::rabbitmq::RabbitMq;
use protocol::HostId;
use tokio::time::{Instant, sleep, timeout};

/// Longest wait for anything. Tests of a time limit have their own.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Settings for the user `guest` in `vhost`, with times that are short enough for tests.
pub fn settings(node: &RabbitMq, vhost: &str) -> AmqpSettings {
    AmqpSettings {
        login: Some(Login {
            username: RabbitMq::USER.into(),
            password: Secret::new(RabbitMq::PASSWORD),
        }),
        virtual_host: vhost.into(),
        retry_period: Duration::from_millis(300),
        ..AmqpSettings::new("127.0.0.1", node.port())
    }
}

pub fn agent(host_id: &str) -> Queue {
    Queue::of_agent(&HostId::new(host_id).unwrap(), None)
}

/// Waits until the link's state satisfies `wanted`.
pub async fn wait_for(link: &mut Link, wanted: impl FnMut(&LinkState) -> bool) -> LinkState {
    if let Ok(state) = timeout(PATIENCE, link.state.wait_for(wanted)).await {
        return state.expect("the link ended").clone();
    }
    panic!("still {:?}", *link.state.borrow())
}

pub async fn wait_until_up(link: &mut Link) -> u64 {
    match wait_for(link, LinkState::is_up).await {
        LinkState::Up { epoch } => epoch,
        other => panic!("{other:?}"),
    }
}

/// The next delivery, not acknowledged.
pub async fn receive(link: &mut Link) -> Delivery {
    timeout(PATIENCE, link.deliveries.recv())
        .await
        .expect("nothing was delivered")
        .expect("the link ended")
}

/// The next delivery's body, acknowledged.
pub async fn receive_body(link: &mut Link) -> String {
    let delivery = receive(link).await;
    let body = String::from_utf8(delivery.body.clone()).unwrap();
    delivery.ack();
    body
}

/// Publishes until the message is routed: bindings may take a moment.
pub async fn publish_until_routed(link: &Link, routing_key: &str, body: &str) {
    let until = Instant::now() + PATIENCE;
    loop {
        match link.publisher.publish(routing_key, body.into()).await {
            Ok(()) => return,
            Err(PublishError::Unroutable | PublishError::Disconnected) if Instant::now() < until => {
                sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{routing_key}: {error}"),
        }
    }
}

/// Checks that messages reach `host` (whose id is `host_id`), and no others.
pub async fn assert_consuming(host: &mut Link, host_id: &str) {
    publish_until_routed(host, host_id, "ping").await;
    assert_eq!(receive_body(host).await, "ping");
}
