//! FAULTS.md row 8: many agents lose the broker at once. (10,000 are simulated in `backoff`.)

use std::time::Duration;

use bus::amqp::{self, AmqpSettings};
use harness::proxy::Proxy;
use harness::rabbitmq::RabbitMq;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{agent, assert_consuming, settings, wait_until_up};

#[tokio::test]
async fn five_hundred_agents_come_back_at_no_more_than_100_a_second() {
    const AGENTS: usize = 500;
    let node = RabbitMq::start().await.unwrap();
    let proxy = Proxy::start(node.port()).unwrap();
    let settings = AmqpSettings {
        port: proxy.port,
        // The rule for a fleet of this size: hosts / 66.
        retry_period: Duration::from_secs(8),
        ..settings(&node, "/")
    };
    let mut links = Vec::new();
    for n in 0..AGENTS {
        links.push(amqp::connect(settings.clone(), agent(&format!("host-{n}"))));
        // One after another, as hosts boot.
        sleep(Duration::from_millis(10)).await;
    }
    for link in &mut links {
        timeout(Duration::from_secs(60), wait_until_up(link))
            .await
            .unwrap();
    }

    node.kill9().await.unwrap();
    let before = proxy.accepted();
    let restarting = tokio::spawn(async move {
        node.start_again().await.unwrap();
        node
    });
    let mut per_second = Vec::new();
    let mut last = before;
    let until = Instant::now() + Duration::from_secs(60);
    while links.iter().any(|link| !link.state.borrow().is_up()) || !restarting.is_finished() {
        assert!(Instant::now() < until, "not all are back: {per_second:?}");
        sleep(Duration::from_secs(1)).await;
        let now = proxy.accepted();
        per_second.push(now - last);
        last = now;
    }
    assert!(per_second.iter().all(|rate| *rate <= 100), "{per_second:?}");
    assert!(last - before >= AGENTS, "{per_second:?}");
    assert_consuming(&mut links[0], "host-0").await;
    assert_consuming(&mut links[AGENTS - 1], &format!("host-{}", AGENTS - 1)).await;
    drop(restarting.await.unwrap());
}
