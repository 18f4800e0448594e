//! Behaviour that is the same in this process and on RabbitMQ.

use bus::local::LocalBroker;
use bus::{Link, LinkState, PublishError, Queue};
use harness::rabbitmq::RabbitMq;
use protocol::topic::{MASTER, SLAVES};

use crate::support::{
    agent, assert_consuming, publish_until_routed, receive, receive_body, settings, wait_for, wait_until_up,
};

/// Opens links to one broker.
trait Broker {
    fn connect(&self, queue: Queue) -> Link;
}

impl Broker for LocalBroker {
    fn connect(&self, queue: Queue) -> Link {
        LocalBroker::connect(self, queue)
    }
}

struct Rabbit {
    node: RabbitMq,
    vhost: String,
}

impl Broker for Rabbit {
    fn connect(&self, queue: Queue) -> Link {
        bus::amqp::connect(settings(&self.node, &self.vhost), queue)
    }
}

async fn rabbit() -> Rabbit {
    let node = RabbitMq::shared().await.unwrap();
    let vhost = node.add_vhost().await.unwrap();
    Rabbit { node, vhost }
}

#[tokio::test]
async fn messages_go_where_they_are_bound_in_process() {
    messages_go_where_they_are_bound(&LocalBroker::new()).await;
}

#[tokio::test]
async fn messages_go_where_they_are_bound_by_rabbitmq() {
    messages_go_where_they_are_bound(&rabbit().await).await;
}

async fn messages_go_where_they_are_bound(broker: &dyn Broker) {
    let mut master = broker.connect(Queue::of_master("bbmaster", 100));
    let mut a = broker.connect(agent("host-a"));
    let mut b = broker.connect(agent("host-b"));
    for link in [&mut master, &mut a, &mut b] {
        wait_until_up(link).await;
    }

    master.publisher.publish(SLAVES, "all".into()).await.unwrap();
    assert_eq!(receive_body(&mut a).await, "all");
    assert_eq!(receive_body(&mut b).await, "all");

    master.publisher.publish("host-b", "b only".into()).await.unwrap();
    assert_eq!(receive_body(&mut b).await, "b only");

    a.publisher.publish(MASTER, "status".into()).await.unwrap();
    let status = receive(&mut master).await;
    assert_eq!(
        (status.routing_key.as_str(), status.body.as_slice()),
        (MASTER, b"status".as_slice())
    );
    status.ack();

    let nowhere = master.publisher.publish("host-c", "x".into()).await;
    assert_eq!(nowhere, Err(PublishError::Unroutable));
}

#[tokio::test]
async fn topics_are_bound_and_unbound_as_they_change_in_process() {
    topics_are_bound_and_unbound_as_they_change(&LocalBroker::new()).await;
}

#[tokio::test]
async fn topics_are_bound_and_unbound_as_they_change_by_rabbitmq() {
    topics_are_bound_and_unbound_as_they_change(&rabbit().await).await;
}

async fn topics_are_bound_and_unbound_as_they_change(broker: &dyn Broker) {
    let mut host = broker.connect(agent("host-a"));
    let mut master = broker.connect(Queue::of_master("bbmaster", 100));
    wait_until_up(&mut host).await;
    wait_until_up(&mut master).await;

    host.topics
        .send_replace(["app_foo".to_owned(), "app_bar".to_owned()].into());
    publish_until_routed(&master, "app_foo", "foo").await;
    publish_until_routed(&master, "app_bar", "bar").await;
    assert_eq!(receive_body(&mut host).await, "foo");
    assert_eq!(receive_body(&mut host).await, "bar");

    host.topics.send_replace(["app_bar".to_owned()].into());
    while master.publisher.publish("app_foo", "gone".into()).await.is_ok() {
        // Messages that were routed before the key was unbound.
        assert_eq!(receive_body(&mut host).await, "gone");
    }
    publish_until_routed(&master, "app_bar", "still").await;
    assert_eq!(receive_body(&mut host).await, "still");
}

#[tokio::test]
async fn a_dropped_delivery_comes_again_and_an_acknowledged_one_does_not_in_process() {
    a_dropped_delivery_comes_again(&LocalBroker::new()).await;
}

#[tokio::test]
async fn a_dropped_delivery_comes_again_and_an_acknowledged_one_does_not_by_rabbitmq() {
    a_dropped_delivery_comes_again(&rabbit().await).await;
}

async fn a_dropped_delivery_comes_again(broker: &dyn Broker) {
    let mut host = broker.connect(agent("host-a"));
    wait_until_up(&mut host).await;
    for body in ["one", "two"] {
        host.publisher.publish("host-a", body.into()).await.unwrap();
    }
    let one = receive(&mut host).await;
    assert!(!one.redelivered);
    let two = receive(&mut host).await;
    two.ack();
    drop(one);
    let again = receive(&mut host).await;
    assert_eq!(
        (again.body.as_slice(), again.redelivered),
        (b"one".as_slice(), true)
    );
    again.ack();
    host.publisher.publish("host-a", "three".into()).await.unwrap();
    assert_eq!(receive_body(&mut host).await, "three");
}

#[tokio::test]
async fn what_was_acknowledged_before_the_link_was_dropped_counts_in_process() {
    what_was_acknowledged_counts(&LocalBroker::new()).await;
}

#[tokio::test]
async fn what_was_acknowledged_before_the_link_was_dropped_counts_by_rabbitmq() {
    what_was_acknowledged_counts(&rabbit().await).await;
}

async fn what_was_acknowledged_counts(broker: &dyn Broker) {
    let mut host = broker.connect(agent("host-a"));
    wait_until_up(&mut host).await;
    for body in ["one", "two", "three"] {
        host.publisher.publish("host-a", body.into()).await.unwrap();
    }
    for _ in 0..2 {
        receive(&mut host).await.ack();
    }
    let Link {
        deliveries,
        mut state,
        ..
    } = host;
    drop(deliveries);
    while state.changed().await.is_ok() {}

    let mut host = broker.connect(agent("host-a"));
    assert_eq!(receive_body(&mut host).await, "three");
}

#[tokio::test]
async fn a_hundred_publishes_under_way_keep_their_order_in_process() {
    publishes_keep_their_order(&LocalBroker::new()).await;
}

#[tokio::test]
async fn a_hundred_publishes_under_way_keep_their_order_by_rabbitmq() {
    publishes_keep_their_order(&rabbit().await).await;
}

async fn publishes_keep_their_order(broker: &dyn Broker) {
    let mut host = broker.connect(agent("host-a"));
    wait_until_up(&mut host).await;
    let publisher = host.publisher.clone();
    let publishing = tokio::spawn(async move {
        let all = (0..100).map(|n: u32| publisher.publish("host-a", n.to_string().into()));
        for result in futures_util::future::join_all(all).await {
            result.unwrap();
        }
    });
    for n in 0..100 {
        assert_eq!(receive_body(&mut host).await, n.to_string());
    }
    publishing.await.unwrap();
}

#[tokio::test]
async fn an_in_process_broker_that_stops_keeps_what_was_not_acknowledged() {
    let broker = LocalBroker::new();
    let mut host = broker.connect(agent("host-a"));
    let before = wait_until_up(&mut host).await;
    for body in ["one", "two"] {
        host.publisher.publish("host-a", body.into()).await.unwrap();
    }
    let one = receive(&mut host).await;
    assert_eq!(one.body, b"one");

    broker.stop();
    wait_for(&mut host, |state| matches!(state, LinkState::Down { .. })).await;
    let published = host.publisher.publish("host-a", "lost".into()).await;
    assert_eq!(published, Err(PublishError::Disconnected));

    broker.start();
    assert!(wait_until_up(&mut host).await > before);
    // Too late: the broker has requeued it. What was delivered before the stop is delivered again.
    one.ack();
    let mut bodies = Vec::new();
    for _ in 0..3 {
        bodies.push(receive_body(&mut host).await);
    }
    assert_eq!(bodies, ["two", "one", "two"]);
}

#[tokio::test]
async fn in_process_too_a_second_agent_of_one_name_is_a_clone_until_the_first_goes() {
    let broker = LocalBroker::new();
    let mut first = broker.connect(agent("host-a"));
    wait_until_up(&mut first).await;
    let mut second = broker.connect(agent("host-a"));
    wait_for(&mut second, |state| matches!(state, LinkState::Clone { .. })).await;
    assert_eq!(
        second.publisher.publish("host-a", "to the first".into()).await,
        Ok(())
    );
    assert_eq!(receive_body(&mut first).await, "to the first");
    drop(first);
    wait_until_up(&mut second).await;
    assert_consuming(&mut second, "host-a").await;
}

#[tokio::test]
async fn acknowledgements_in_any_order_settle_just_those_in_process() {
    acknowledgements_in_any_order(&LocalBroker::new()).await;
}

#[tokio::test]
async fn acknowledgements_in_any_order_settle_just_those_by_rabbitmq() {
    acknowledgements_in_any_order(&rabbit().await).await;
}

async fn acknowledgements_in_any_order(broker: &dyn Broker) {
    const ALL: usize = 300;
    let mut master = broker.connect(Queue::of_master("bbmaster", 1000));
    wait_until_up(&mut master).await;
    for n in 0..ALL {
        let publish = master.publisher.publish(MASTER, n.to_string().into());
        publish.await.unwrap();
    }
    let mut held = Vec::new();
    while held.len() < ALL {
        held.push(Some(receive(&mut master).await));
    }
    // The last one first, then in groups of three from the front; some are returned in between.
    let given_back = [10, 100, 299];
    let order = (200..ALL)
        .rev()
        .chain((0..3).flat_map(|first| (first..200).step_by(3)));
    for n in order {
        let delivery = held[n].take().unwrap();
        match given_back.contains(&n) {
            true => drop(delivery),
            false => delivery.ack(),
        }
        if n % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let mut again = Vec::new();
    while again.len() < given_back.len() {
        let body = receive_body(&mut master).await;
        again.push(body.parse::<usize>().unwrap());
    }
    again.sort_unstable();
    assert_eq!(again, given_back);
    // The broker closes a channel that acknowledges a message twice.
    assert_eq!(*master.state.borrow(), LinkState::Up { epoch: 1 });
    let Link {
        deliveries,
        mut state,
        ..
    } = master;
    drop(deliveries);
    while state.changed().await.is_ok() {}
    let mut next = broker.connect(Queue::of_master("bbmaster", 1000));
    wait_until_up(&mut next).await;
    next.publisher.publish(MASTER, "new".into()).await.unwrap();
    assert_eq!(receive_body(&mut next).await, "new");
}
