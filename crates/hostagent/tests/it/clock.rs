//! The wall clock jumps by ten years, there and back: nothing expires, nothing stalls (FAULTS row 22).
//!
//! libfaketime changes what the agent takes for the wall clock and leaves the monotonic one alone, as
//! settimeofday(2) does.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bus::amqp::{AmqpSettings, Login, Secret};
use bus::{Link, PublishError, Queue};
use harness::packages::{Family, Sandbox};
use harness::rabbitmq::RabbitMq;
use protocol::{State, Status};

const HOST: &str = "clock-host";
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_agent(node: &RabbitMq, vhost: &str, root: &Path, clock: &Path) -> Agent {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hostagent"));
    for setting in [
        format!("hostagent.host_id={HOST}"),
        format!("hostagent.root={}", root.display()),
        "hostagent.heartbeat_period=1".into(),
        "hostagent.package_family=deb".into(),
        "ssl.disable=true".into(),
        "amqp.host=127.0.0.1".into(),
        format!("amqp.port={}", node.port()),
        format!("amqp.username={}", RabbitMq::USER),
        format!("amqp.password={}", RabbitMq::PASSWORD),
        format!("amqp.virtual_host={vhost}"),
    ] {
        command.args(["--set", &setting]);
    }
    command
        .env("LD_PRELOAD", LIBRARY)
        .env("FAKETIME_TIMESTAMP_FILE", clock)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Agent(command.spawn().unwrap())
}

/// The next status, which must come within three heartbeats.
async fn next_status(master: &mut Link) -> Status {
    let delivery = tokio::time::timeout(Duration::from_secs(10), master.deliveries.recv()).await;
    let delivery = delivery
        .expect("the heartbeat has stopped")
        .expect("the bus has ended");
    let status = Status::decode(&delivery.body, protocol::Limits::default()).unwrap();
    delivery.ack();
    status
}

async fn publish_until_routed(master: &Link, body: &[u8]) {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match master.publisher.publish(HOST, body.to_vec()).await {
            Ok(()) => return,
            Err(PublishError::Unroutable | PublishError::Disconnected) if Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn nothing_expires_when_the_clock_jumps_ten_years_either_way() {
    if !Path::new(LIBRARY).exists() {
        let reason = format!("{LIBRARY} is not there (package faketime)");
        harness::skip::skipped(
            "nothing_expires_when_the_clock_jumps_ten_years_either_way",
            &reason,
        );
        return;
    }
    let node = RabbitMq::shared().await.unwrap();
    let vhost = node.add_vhost().await.unwrap();
    let sandbox = Sandbox::temporary(Family::Deb).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let clock = folder.path().join("clock");
    std::fs::write(&clock, "+0\n").unwrap();

    let login = Login {
        username: RabbitMq::USER.into(),
        password: Secret::new(RabbitMq::PASSWORD),
    };
    let settings = AmqpSettings {
        login: Some(login),
        virtual_host: vhost.clone(),
        ..AmqpSettings::new("127.0.0.1", node.port())
    };
    let mut master = bus::amqp::connect(settings, Queue::of_master("clock-master", 16));
    let _agent = start_agent(&node, &vhost, sandbox.root(), &clock);
    publish_until_routed(&master, &protocol::inbound::encode_ping(Some("first"))).await;
    let first = next_status(&mut master).await;

    for (jump, year) in [("+10y\n", 10), ("-10y\n", -10), ("+0\n", 0)] {
        std::fs::write(&clock, jump).unwrap();
        let year_now: i32 = first.timestamp[..4].parse().unwrap();
        let expected = format!("{:04}-", year_now + year);
        // Statuses from before the jump may still be on their way.
        let until = Instant::now() + Duration::from_secs(20);
        let mut previous = next_status(&mut master).await;
        while !previous.timestamp.starts_with(&expected) {
            assert!(
                Instant::now() < until,
                "the clock has not jumped: {}",
                previous.timestamp
            );
            previous = next_status(&mut master).await;
        }
        // Heartbeats go on at their pace, of the same run of the agent, over the same connection.
        let begin = Instant::now();
        for _ in 0..3 {
            let next = next_status(&mut master).await;
            assert_eq!(next.boot_id, first.boot_id);
            assert_eq!(next.seq, previous.seq + 1, "a status was lost or said twice");
            assert_eq!(next.status, State::Ok);
            previous = next;
        }
        let beats = begin.elapsed();
        assert!(
            beats > Duration::from_millis(1500) && beats < Duration::from_secs(9),
            "3 heartbeats in {beats:?}"
        );
        let asked = Instant::now();
        publish_until_routed(&master, &protocol::inbound::encode_ping(Some(jump))).await;
        while next_status(&mut master).await.reply_to.as_deref() != Some(jump) {}
        assert!(
            asked.elapsed() < Duration::from_secs(5),
            "a ping took {:?}",
            asked.elapsed()
        );
    }
}
