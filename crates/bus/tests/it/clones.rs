//! FAULTS.md row 13: two agents with one host id.

use std::time::Duration;

use bus::amqp::{self, AmqpSettings};
use bus::{LinkState, Queue};
use harness::rabbitmq::RabbitMq;
use protocol::topic::MASTER;
use tokio::time::Instant;

use crate::support::{agent, assert_consuming, receive_body, settings, wait_for, wait_until_up};

#[tokio::test]
async fn a_clone_is_told_after_three_heartbeats_can_report_it_and_takes_over_when_the_other_goes() {
    let node = RabbitMq::shared().await.unwrap();
    let vhost = node.add_vhost().await.unwrap();
    let heartbeat = Duration::from_secs(1);
    let settings = AmqpSettings {
        heartbeat,
        ..settings(&node, &vhost)
    };
    let mut master = amqp::connect(settings.clone(), Queue::of_master("bbmaster", 100));
    let mut first = amqp::connect(settings.clone(), agent("host-a"));
    wait_until_up(&mut master).await;
    wait_until_up(&mut first).await;

    let mut second = amqp::connect(settings, agent("host-a"));
    let down = wait_for(&mut second, |state| {
        format!("{state:?}").contains("in use by another consumer")
    })
    .await;
    let refused = Instant::now();
    assert!(
        matches!(down, LinkState::Down { .. }),
        "it may be our own dead connection: {down:?}"
    );
    wait_for(&mut second, |state| matches!(state, LinkState::Clone { .. })).await;
    let took = refused.elapsed();
    assert!(took >= heartbeat * 2 && took <= heartbeat * 5, "{took:?}");

    second.publisher.publish(MASTER, "clone!".into()).await.unwrap();
    assert_eq!(receive_body(&mut master).await, "clone!");
    // The other agent is informed; its bindings and messages stay as they are.
    wait_for(&mut first, |state| {
        matches!(state, LinkState::Contested { epoch: 1, .. })
    })
    .await;
    second.topics.send_replace(["app_of_the_clone".to_owned()].into());
    assert_consuming(&mut first, "host-a").await;
    assert!(
        first
            .publisher
            .publish("app_of_the_clone", "x".into())
            .await
            .is_err()
    );

    drop(first);
    wait_until_up(&mut second).await;
    assert_consuming(&mut second, "host-a").await;
    assert_consuming(&mut second, "app_of_the_clone").await;
    // It ignores its own report to the other agent.
    assert_eq!(*second.state.borrow(), LinkState::Up { epoch: 1 });
}

#[tokio::test]
async fn the_one_that_has_the_queue_hears_of_its_clone_and_when_that_is_gone() {
    let node = RabbitMq::shared().await.unwrap();
    let vhost = node.add_vhost().await.unwrap();
    let settings = AmqpSettings {
        heartbeat: Duration::from_secs(1),
        ..settings(&node, &vhost)
    };
    let mut first = amqp::connect(settings.clone(), agent("host-a"));
    wait_until_up(&mut first).await;
    let second = amqp::connect(settings, agent("host-a"));
    let state = wait_for(&mut first, |state| matches!(state, LinkState::Contested { .. })).await;
    assert!(format!("{state:?}").contains("duplicate host id"), "{state:?}");
    drop(second);
    wait_for(&mut first, |state| *state == LinkState::Up { epoch: 1 }).await;
    assert_consuming(&mut first, "host-a").await;
}
