//! A master on RabbitMQ.

use std::time::Duration;

use bbmaster::store::Store;
use bbmaster::{Config, Master};
use bus::amqp::{AmqpSettings, Login, Secret};
use bus::{Link, LinkState, Queue, amqp};
use harness::rabbitmq::RabbitMq;
use protocol::topic;
use serde_json::json;
use tokio::time::Instant;

use crate::client::Client;
use crate::fleet::Database;

fn settings(node: &RabbitMq, vhost: &str) -> AmqpSettings {
    AmqpSettings {
        login: Some(Login {
            username: RabbitMq::USER.into(),
            password: Secret::new(RabbitMq::PASSWORD),
        }),
        virtual_host: vhost.into(),
        retry_period: Duration::from_millis(300),
        frame_max: AmqpSettings::FRAME_MAX_LARGE,
        ..AmqpSettings::new("127.0.0.1", node.port())
    }
}

fn master_link(node: &RabbitMq, vhost: &str, prefetch: u16) -> Link {
    amqp::connect(settings(node, vhost), Queue::of_master("bbmaster-q", prefetch))
}

async fn start_master(node: &RabbitMq, vhost: &str, store: Store) -> (Master, Client) {
    let master = Master::start(Config::local(), store, master_link(node, vhost, 2000))
        .await
        .unwrap();
    let client = Client::new(master.address());
    (master, client)
}

/// Publishes statuses of about a kilobyte from this many hosts.
async fn fill(link: &mut Link, hosts: u64, each: u64) {
    for seq in 1..=each {
        let sending = (0..hosts).map(|host| {
            let status = json!({"opcode": "status", "data": {
                "host_id": format!("02:FC:00:00:{host:04}"), "status": "ok", "boot_id": "0123456789abcdef", "seq": seq,
                "timestamp": "2026-01-01T00:00:00.000000Z", "generation": 3,
                "info": {"hostname": format!("host{host}.example.net"), "os_family": "Linux", "arch": "x86_64",
                    "os_info": "debian 12 bookworm", "kernel": "6.1.0", "cpus": 8, "memory_kib": 16_000_000},
                "host_agent": {"version": "0.1.0", "uptime_s": seq * 60, "rss_kib": 5800},
                "apps": {"app_foo": {"version": "1.0.2-3", "package_version": "1.0.2-3", "package": "app-foo",
                    "running": true, "config": {"DEFAULT": {"debug": false, "port": 8158, "workers": 4}},
                    "services": {"app-foo": {"running": true, "enabled": true}}, "health": "ok"},
                  "app_bar": {"version": "2.1", "package_version": "2.1-1", "package": "app-bar", "running": true,
                    "config": {}, "health": "ok"}}}});
            link.publisher.publish(topic::MASTER, status.to_string().into_bytes())
        });
        for sent in futures_util::future::join_all(sending).await {
            sent.unwrap();
        }
    }
}

/// Compares the master with a consumer that only acknowledges. Run it with `--run-ignored only` and
/// an optimized profile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures: of use in an optimized build and on a quiet machine only"]
async fn the_master_drains_its_queue_at_70_percent_of_a_consumer_that_does_nothing() {
    const HOSTS: u64 = 2000;
    const EACH: u64 = 15;
    const ALL: u64 = HOSTS * EACH;
    let node = RabbitMq::start().await.unwrap();
    let database = Database::sqlite();
    let mut rates = Vec::new();
    for consumer in ["null", "master"] {
        // The filler has its own queue, so that the master's queue has no consumer meanwhile.
        let mut declare = master_link(&node, "/", 1);
        declare.state.wait_for(LinkState::is_up).await.unwrap();
        drop(declare);
        let mut filler = amqp::connect(
            settings(&node, "/"),
            Queue {
                topics: ["filler".to_owned()].into(),
                ..Queue::of_master("filler", 1)
            },
        );
        filler.state.wait_for(LinkState::is_up).await.unwrap();
        fill(&mut filler, HOSTS, EACH).await;
        let started;
        if consumer == "null" {
            let mut link = master_link(&node, "/", 2000);
            link.state.wait_for(LinkState::is_up).await.unwrap();
            started = Instant::now();
            for _ in 0..ALL {
                link.deliveries.recv().await.unwrap().ack();
            }
            rates.push(ALL as f64 / started.elapsed().as_secs_f64());
        } else {
            let store = database.open().await;
            started = Instant::now();
            let (_master, client) = start_master(&node, "/", store).await;
            let line = format!("bbmaster_statuses_total{{result=\"accepted\"}} {ALL}");
            while !String::from_utf8(client.get("/metrics").await.body)
                .unwrap()
                .contains(&line)
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            rates.push(ALL as f64 / started.elapsed().as_secs_f64());
        }
    }
    println!(
        "null consumer {:.0}/s, master {:.0}/s, ratio {:.2}",
        rates[0],
        rates[1],
        rates[1] / rates[0]
    );
    assert!(rates[1] >= 0.7 * rates[0], "{rates:?}");
}
