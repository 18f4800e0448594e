//! FAULTS.md rows 6 and 10: the broker runs short of memory, or the queue or exchange is deleted.

use std::time::Duration;

use bus::amqp::{self, AmqpSettings};
use bus::{LinkState, Queue};
use harness::rabbitmq::RabbitMq;
use protocol::topic::{EXCHANGE, MASTER};
use tokio::time::{sleep, timeout};

use crate::support::{
    agent, assert_consuming, publish_until_routed, receive, receive_body, settings, wait_for, wait_until_up,
};

#[tokio::test]
async fn while_the_broker_blocks_publishers_messages_still_come_in_and_statuses_wait() {
    let node = RabbitMq::start().await.unwrap();
    let heartbeat = Duration::from_secs(1);
    let settings = AmqpSettings {
        heartbeat,
        ..settings(&node, "/")
    };
    let mut master = amqp::connect(settings.clone(), Queue::of_master("bbmaster", 100));
    let mut link = amqp::connect(settings, agent("host-a"));
    wait_until_up(&mut master).await;
    let epoch = wait_until_up(&mut link).await;
    assert_consuming(&mut link, "host-a").await;

    node.set_memory_watermark(0.0).await.unwrap();
    let publisher = link.publisher.clone();
    let mut status = tokio::spawn(async move { publisher.publish(MASTER, "status".into()).await });
    assert!(
        timeout(Duration::from_secs(1), &mut status).await.is_err(),
        "published in spite of the alarm"
    );

    // Published inside the broker, where publishers are not blocked.
    for _ in 0..3 {
        let exchange = format!("rabbit_misc:r(<<\"/\">>, exchange, <<\"{EXCHANGE}\">>)");
        node.ctl(&[
            "eval",
            &format!("rabbit_basic:publish({exchange}, <<\"host-a\">>, [], <<\"ping\">>)."),
        ])
        .await
        .unwrap();
        receive(&mut link).await.ack();
    }
    // Longer than the limit for silence.
    sleep(heartbeat * 3).await;
    assert!(!status.is_finished());
    assert_eq!(*link.state.borrow(), LinkState::Up { epoch });

    node.set_memory_watermark(0.4).await.unwrap();
    timeout(Duration::from_secs(10), status)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(receive_body(&mut master).await, "status");
    assert_consuming(&mut link, "host-a").await;
    assert_eq!(*link.state.borrow(), LinkState::Up { epoch });
}

async fn connected(probe_period: Duration) -> (RabbitMq, String, AmqpSettings) {
    let node = RabbitMq::shared().await.unwrap();
    let vhost = node.add_vhost().await.unwrap();
    let settings = AmqpSettings {
        probe_period,
        ..settings(&node, &vhost)
    };
    (node, vhost, settings)
}

#[tokio::test]
async fn a_deleted_queue_is_declared_bound_and_consumed_again() {
    let (node, vhost, settings) = connected(Duration::from_secs(60)).await;
    let mut link = amqp::connect(settings, agent("host-a"));
    link.topics.send_replace(["app_foo".to_owned()].into());
    let before = wait_until_up(&mut link).await;

    node.delete_queue(&vhost, "bbslave-q-host-a").await.unwrap();

    wait_for(
        &mut link,
        |state| matches!(state, LinkState::Up { epoch } if *epoch > before),
    )
    .await;
    for key in ["host-a", "slaves", "app_foo"] {
        publish_until_routed(&link, key, key).await;
        assert_eq!(receive_body(&mut link).await, key);
    }
}

/// The first agent that publishes declares the exchange again. The others must notice that they no
/// longer receive messages.
#[tokio::test]
async fn after_the_exchange_was_deleted_everyone_hears_again() {
    let (node, vhost, settings) = connected(Duration::from_secs(1)).await;
    let mut master = amqp::connect(settings.clone(), Queue::of_master("bbmaster", 100));
    let mut a = amqp::connect(settings.clone(), agent("host-a"));
    let mut b = amqp::connect(settings, agent("host-b"));
    for link in [&mut master, &mut a, &mut b] {
        wait_until_up(link).await;
    }

    node.delete_exchange(&vhost, EXCHANGE).await.unwrap();

    for (link, key) in [(&mut a, "host-a"), (&mut b, "host-b"), (&mut master, MASTER)] {
        assert_consuming(link, key).await;
    }
    publish_until_routed(&master, "host-b", "from the master").await;
    assert_eq!(receive_body(&mut b).await, "from the master");
}
