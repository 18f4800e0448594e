//! Existing exchanges and queues are used as they are. FAULTS.md row 12: publishing without a bound
//! queue.

use std::time::Duration;

use bus::amqp::{self, AmqpSettings, Login, Secret};
use bus::{LinkState, PublishError, Queue};
use harness::rabbitmq::RabbitMq;
use protocol::topic::{EXCHANGE, MASTER};

use crate::support::{agent, assert_consuming, receive, receive_body, settings, wait_for, wait_until_up};

async fn node_and_vhost() -> (RabbitMq, String) {
    let node = RabbitMq::shared().await.unwrap();
    let vhost = node.add_vhost().await.unwrap();
    (node, vhost)
}

/// A transient exchange of type `topic`, as in an older deployment.
async fn declare_topic_exchange(node: &RabbitMq, vhost: &str) {
    let name = format!("rabbit_misc:r(<<\"{vhost}\">>, exchange, <<\"{EXCHANGE}\">>)");
    let declare = format!("rabbit_exchange:declare({name}, topic, false, false, false, [], <<\"test\">>).");
    node.ctl(&["eval", &declare]).await.unwrap();
}

/// A user with these permissions, and settings for it.
async fn user(node: &RabbitMq, vhost: &str, permissions: [&str; 3]) -> (String, AmqpSettings) {
    let name = format!("user-{vhost}");
    node.add_user(&name, "word", vhost, permissions).await.unwrap();
    let login = Login {
        username: name.clone(),
        password: Secret::new("word"),
    };
    (
        name,
        AmqpSettings {
            login: Some(login),
            ..settings(node, vhost)
        },
    )
}

#[tokio::test]
async fn without_a_master_a_status_is_unroutable_although_the_broker_acknowledges_it() {
    let (node, vhost) = node_and_vhost().await;
    let mut link = amqp::connect(settings(&node, &vhost), agent("host-a"));
    let epoch = wait_until_up(&mut link).await;
    assert_eq!(
        link.publisher.publish(MASTER, "status".into()).await,
        Err(PublishError::Unroutable)
    );

    let mut master = amqp::connect(settings(&node, &vhost), Queue::of_master("bbmaster", 100));
    wait_until_up(&mut master).await;
    assert_eq!(link.publisher.publish(MASTER, "status".into()).await, Ok(()));
    let status = receive(&mut master).await;
    assert_eq!(status.user_id.as_deref(), Some(RabbitMq::USER));
    assert_eq!(
        *link.state.borrow(),
        LinkState::Up { epoch },
        "an unroutable message is no reason to reconnect"
    );
}

#[tokio::test]
async fn an_exchange_of_another_type_and_a_queue_with_other_arguments_are_used_as_they_are() {
    let (node, vhost) = node_and_vhost().await;
    declare_topic_exchange(&node, &vhost).await;
    let other = Queue {
        expires: Some(Duration::from_secs(3600)),
        ..agent("host-a")
    };
    let mut link = amqp::connect(settings(&node, &vhost), other);
    wait_until_up(&mut link).await;
    let bus::Link {
        deliveries,
        mut state,
        ..
    } = link;
    drop(deliveries);
    while state.changed().await.is_ok() {}

    let mut link = amqp::connect(settings(&node, &vhost), agent("host-a"));
    wait_until_up(&mut link).await;
    assert_consuming(&mut link, "host-a").await;
    let queues = node
        .ctl(&["list_queues", "-p", &vhost, "name", "arguments"])
        .await
        .unwrap();
    assert!(queues.contains("3600000"), "{queues}");
}

#[tokio::test]
async fn a_user_who_may_not_declare_uses_what_is_there_or_says_what_is_missing() {
    let (node, vhost) = node_and_vhost().await;
    let (_, restricted) = user(&node, &vhost, ["^$", ".*", ".*"]).await;
    let mut link = amqp::connect(restricted, agent("host-a"));
    wait_for(&mut link, |state| {
        format!("{state:?}").contains("exchange \\\"pf9-bbone\\\" does not exist")
    })
    .await;

    let mut master = amqp::connect(settings(&node, &vhost), Queue::of_master("bbmaster", 100));
    wait_until_up(&mut master).await;
    wait_for(&mut link, |state| {
        format!("{state:?}").contains("queue \\\"bbslave-q-host-a\\\" does not exist")
    })
    .await;

    // Declares the queue and ends.
    let mut maker = amqp::connect(settings(&node, &vhost), agent("host-a"));
    wait_until_up(&mut maker).await;
    drop(maker);
    wait_until_up(&mut link).await;
    assert_consuming(&mut link, "host-a").await;
}

#[tokio::test]
async fn a_user_who_may_publish_to_the_master_only_consumes_without_probes() {
    let (node, vhost) = node_and_vhost().await;
    declare_topic_exchange(&node, &vhost).await;
    let (name, restricted) = user(&node, &vhost, [".*", ".*", ".*"]).await;
    node.ctl(&[
        "set_topic_permissions",
        "-p",
        &vhost,
        &name,
        EXCHANGE,
        "^master$",
        ".*",
    ])
    .await
    .unwrap();
    let mut master = amqp::connect(settings(&node, &vhost), Queue::of_master("bbmaster", 100));
    wait_until_up(&mut master).await;
    let mut link = amqp::connect(restricted, agent("host-a"));
    // The first probe ends a connection. No second probe is sent.
    wait_for(&mut link, |state| *state == LinkState::Up { epoch: 2 }).await;
    master.publisher.publish("host-a", "ping".into()).await.unwrap();
    assert_eq!(receive_body(&mut link).await, "ping");
    link.publisher.publish(MASTER, "status".into()).await.unwrap();
    assert_eq!(receive_body(&mut master).await, "status");
    assert_eq!(*link.state.borrow(), LinkState::Up { epoch: 2 });
}
