//! The broker goes; the install goes on.

use std::time::Duration;

use harness::driver::Received;
use harness::packages::{Family, Moment, example_app};
use harness::rabbitmq::RabbitMq;
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::scenarios::agent::exists;
use crate::scenarios::world::{World, spec};

#[tokio::test]
async fn a_broker_killed_during_an_install_delays_the_news_only() {
    let broker = RabbitMq::start().await.unwrap();
    let mut world = World::on(broker, "/".into(), Family::Deb).await;
    let script = "touch \"$ROOT/run/alpha.installing\"; sleep 1";
    let slow = example_app("alpha", "1.0").script(Moment::AfterInstall, script);
    let first = json!({"alpha": spec("1.0", &world.serve(&slow))});
    let second = json!({"beta": spec("1.0", &world.serve(&example_app("beta", "1.0")))});
    let _agent = world.start_agent().await;

    let id = world.set_config(&first).await;
    exists(&world.host.sandbox.join("/run/alpha.installing")).await;
    world.broker.kill9().await.unwrap();
    // Without a broker, it is installed, enabled and started.
    crate::scenarios::agent::until("alpha runs", || world.host.runs("alpha")).await;

    world.broker.start_again().await.unwrap();
    let back = Instant::now();
    let ended = |status: &Received| status.reply_to() == Some(&id) && status.state() == "ok";
    let limit = Duration::from_secs(10);
    let answer = timeout(limit, world.heard("the install is answered", ended)).await;
    world
        .host
        .assert_is(&first, &answer.expect("within 10 s of the broker's return"));
    world.answer_to_ping("host-1").await;
    assert!(back.elapsed() < limit, "{:?}", back.elapsed());

    // Taken by the broker, perhaps delivered, perhaps not yet acknowledged: not lost either.
    let id = world.set_config(&second).await;
    world.broker.restart().await.unwrap();
    let ended = |status: &Received| status.reply_to() == Some(&id) && status.state() == "ok";
    let answer = world.heard("the second install is answered", ended).await;
    world.host.assert_is(&second, &answer);
}
