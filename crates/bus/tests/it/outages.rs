//! FAULTS.md rows 1, 2, 3 and 11: the broker or the network fails and recovers.

use std::time::Duration;

use bus::amqp::{self, AmqpSettings};
use bus::{PublishError, Queue};
use harness::proxy::{Mode, Proxy};
use harness::rabbitmq::RabbitMq;
use protocol::topic;
use tokio::time::{Instant, timeout};

use crate::support::{agent, assert_consuming, settings, wait_for, wait_until_up};

/// Time limit from the broker's return to the first message.
const PROMISED: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_broker_killed_and_started_again_is_consumed_within_10_s() {
    let node = RabbitMq::start().await.unwrap();
    // The default retry period, not the short one of tests.
    let retry_period = Duration::from_secs(5);
    let mut link = amqp::connect(
        AmqpSettings {
            retry_period,
            ..settings(&node, "/")
        },
        agent("host-a"),
    );
    let before = wait_until_up(&mut link).await;

    node.kill9().await.unwrap();
    wait_for(&mut link, |state| !state.is_up()).await;
    node.start_again().await.unwrap();

    timeout(PROMISED, async {
        assert!(wait_until_up(&mut link).await > before);
        assert_consuming(&mut link, "host-a").await;
    })
    .await
    .expect("consuming within 10 s");
}

async fn behind_a_proxy() -> (RabbitMq, Proxy, AmqpSettings) {
    let node = RabbitMq::shared().await.unwrap();
    let vhost = node.add_vhost().await.unwrap();
    let proxy = Proxy::start(node.port()).unwrap();
    let settings = AmqpSettings {
        port: proxy.port,
        ..settings(&node, &vhost)
    };
    (node, proxy, settings)
}

#[tokio::test]
async fn after_a_tcp_reset_it_consumes_again_within_10_s() {
    let (_node, proxy, settings) = behind_a_proxy().await;
    let retry_period = Duration::from_secs(5);
    let mut link = amqp::connect(
        AmqpSettings {
            retry_period,
            ..settings
        },
        agent("host-a"),
    );
    let before = wait_until_up(&mut link).await;

    proxy.reset_all();

    timeout(PROMISED, async {
        wait_for(&mut link, |state| !state.is_up()).await;
        assert!(wait_until_up(&mut link).await > before);
        assert_consuming(&mut link, "host-a").await;
    })
    .await
    .expect("consuming within 10 s");
}

#[tokio::test]
async fn silence_is_noticed_within_two_heartbeats() {
    let (_node, proxy, settings) = behind_a_proxy().await;
    let heartbeat = Duration::from_secs(2);
    let handshake_timeout = Duration::from_millis(500);
    let mut link = amqp::connect(
        AmqpSettings {
            heartbeat,
            handshake_timeout,
            ..settings
        },
        agent("host-a"),
    );
    wait_until_up(&mut link).await;
    assert_consuming(&mut link, "host-a").await;

    let frozen = Instant::now();
    proxy.set(Mode::Freeze);
    let state = wait_for(&mut link, |state| !state.is_up()).await;
    assert!(
        frozen.elapsed() <= heartbeat * 2,
        "{:?}: {state:?}",
        frozen.elapsed()
    );

    proxy.set(Mode::Forward);
    wait_until_up(&mut link).await;
    assert_consuming(&mut link, "host-a").await;
}

/// In this case lapin's own recovery would stay in "Reconnecting" for ever.
#[tokio::test]
async fn a_peer_that_is_mute_during_the_reconnect_holds_nothing_up() {
    let (_node, proxy, settings) = behind_a_proxy().await;
    let handshake_timeout = Duration::from_millis(300);
    let mut link = amqp::connect(
        AmqpSettings {
            handshake_timeout,
            ..settings
        },
        agent("host-a"),
    );
    wait_until_up(&mut link).await;

    proxy.set(Mode::Mute);
    proxy.reset_all();
    wait_for(&mut link, |state| {
        format!("{state:?}").contains("did not complete the AMQP handshake")
    })
    .await;

    proxy.set(Mode::Forward);
    wait_until_up(&mut link).await;
    assert_consuming(&mut link, "host-a").await;
}

/// FAULTS.md row 11: any timeout. The broker and our own queue work. Only the queue that we publish
/// to is blocked, like a quorum queue without a majority.
#[tokio::test]
async fn what_is_never_confirmed_is_told_its_publisher_and_all_resumes() {
    let node = RabbitMq::start().await.unwrap();
    let mut master = amqp::connect(settings(&node, "/"), Queue::of_master("bbmaster-q", 10));
    wait_until_up(&mut master).await;
    let confirm_timeout = Duration::from_secs(2);
    let mut link = amqp::connect(
        AmqpSettings {
            confirm_timeout,
            ..settings(&node, "/")
        },
        agent("host-a"),
    );
    let before = wait_until_up(&mut link).await;
    let process_of_the_queue = "lists:foreach(fun(Q) -> sys:FUNCTION(amqqueue:get_pid(Q)) end, [Q || Q <- \
        rabbit_amqqueue:list(), element(4, amqqueue:get_name(Q)) =:= <<\"bbmaster-q\">>]).";
    let tell = async |function: &str| {
        let eval = process_of_the_queue.replace("FUNCTION", function);
        node.ctl(&["eval", &eval]).await.unwrap();
    };
    tell("suspend").await;
    let since = Instant::now();
    let published = timeout(PROMISED, link.publisher.publish(topic::MASTER, b"{}".to_vec())).await;
    assert!(
        matches!(published, Ok(Err(PublishError::Disconnected))),
        "{published:?}"
    );
    assert!(since.elapsed() >= confirm_timeout);
    assert!(wait_until_up(&mut link).await > before);
    assert_consuming(&mut link, "host-a").await;

    tell("resume").await;
    let published = timeout(PROMISED, link.publisher.publish(topic::MASTER, b"{}".to_vec())).await;
    assert!(matches!(published, Ok(Ok(()))), "{published:?}");
}
