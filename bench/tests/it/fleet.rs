use std::time::Duration;

use bbmaster::store::Store;
use bbmaster::{Config, Master};
use bench::fleet::{Fleet, Plan, Script, Wiring};
use bench::http::Client;
use bus::amqp::{self, AmqpSettings, Login, Secret};
use bus::{LinkState, Queue};
use harness::rabbitmq::RabbitMq;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

const TIMEOUT: Duration = Duration::from_secs(30);

struct Stage {
    broker: RabbitMq,
    vhost: String,
    _folder: tempfile::TempDir,
    _master: Master,
    client: Client,
}

impl Stage {
    async fn new() -> Self {
        let broker = RabbitMq::shared().await.unwrap();
        let vhost = broker.add_vhost().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_sqlite(&folder.path().join("bbmaster.db"))
            .await
            .unwrap();
        let link = amqp::connect(settings(&broker, &vhost), Queue::of_master("bbmaster-q", 500));
        let mut state = link.state.clone();
        state.wait_for(LinkState::is_up).await.unwrap();
        let master = Master::start(Config::local(), store, link).await.unwrap();
        let client = Client::connect(master.address()).await.unwrap();
        Self {
            broker,
            vhost,
            _folder: folder,
            _master: master,
            client,
        }
    }

    fn plan(&self, hosts: usize, wiring: Wiring) -> Plan {
        Plan::new(settings(&self.broker, &self.vhost), hosts, wiring)
    }

    /// Waits until `filter` finds so many hosts.
    async fn until(&mut self, filter: &str, total: u64) {
        let until = Instant::now() + TIMEOUT;
        loop {
            let page = self
                .client
                .get(&format!("/v1/hosts?{filter}"))
                .await
                .unwrap()
                .json()
                .unwrap();
            if page["total"] == total {
                return;
            }
            assert!(
                Instant::now() < until,
                "expected {total} hosts with {filter}: {page}"
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn put(&mut self, host: &str, apps: &Value) {
        let answer = self
            .client
            .put(&format!("/v1/hosts/{host}/apps"), apps)
            .await
            .unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

fn settings(broker: &RabbitMq, vhost: &str) -> AmqpSettings {
    AmqpSettings {
        login: Some(Login {
            username: RabbitMq::USER.into(),
            password: Secret::new(RabbitMq::PASSWORD),
        }),
        virtual_host: vhost.into(),
        retry_period: Duration::from_millis(300),
        ..AmqpSettings::new("127.0.0.1", broker.port())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_handles_simulated_hosts_like_real_ones_with_any_wiring() {
    for wiring in [Wiring::OneEach, Wiring::Shared { connections: 3 }] {
        let mut stage = Stage::new().await;
        let mut fleet = Fleet::start(stage.plan(20, wiring)).await.unwrap();
        fleet.wait_until_connected(TIMEOUT).await.unwrap();
        assert_eq!(
            fleet.connections(),
            if wiring == Wiring::OneEach { 20 } else { 3 }
        );
        stage.until("status=ok", 20).await;
        let apps = json!({"foo": {"version": "2.0"}});
        for number in 0..20 {
            stage.put(&format!("SIM-{number:06}"), &apps).await;
        }
        stage.until("application=foo&version=2.0&status=ok", 20).await;
        assert_eq!(fleet.counts().converged, 20);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_fail_and_restart_as_their_script_says() {
    let mut stage = Stage::new().await;
    let mut plan = stage.plan(30, Wiring::Shared { connections: 2 });
    plan.script = Script {
        failure_rate: 1.0,
        restart_mean: Some(Duration::from_secs(2)),
        heartbeat: Some(Duration::from_secs(1)),
        ..Script::default()
    };
    let mut fleet = Fleet::start(plan).await.unwrap();
    fleet.wait_until_connected(TIMEOUT).await.unwrap();
    stage.until("status=ok", 30).await;
    stage.put("SIM-000003", &json!({"foo": {"version": "2.0"}})).await;
    stage.until("status=errors", 1).await;
    let waiting = fleet.wait_for("heartbeats and restarts", TIMEOUT, |counts| {
        counts.restarts >= 10 && counts.statuses >= 100
    });
    waiting.await.unwrap();
    let host = stage
        .client
        .get("/v1/hosts/SIM-000003")
        .await
        .unwrap()
        .json()
        .unwrap();
    assert_eq!(host["errors"][0]["phase"], "install", "{host}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_hosts_send_a_status_after_a_restart() {
    let mut stage = Stage::new().await;
    let mut plan = stage.plan(500, Wiring::Shared { connections: 2 });
    plan.reachable = false;
    let mut fleet = Fleet::start(plan).await.unwrap();
    fleet.wait_until_connected(TIMEOUT).await.unwrap();
    stage.until("status=ok", 500).await;
    let before = fleet.counts().statuses;
    fleet.restart_all();
    let waiting = fleet.wait_for("all restart", TIMEOUT, |counts| counts.statuses >= before + 500);
    waiting.await.unwrap();
    assert_eq!(fleet.counts().restarts, 500);
}
