//! A scripted agent: speaks the protocol, installs nothing.

use std::sync::{Arc, Mutex};

use bus::local::LocalBroker;
use bus::{Link, Publisher, Queue};
use protocol::{Apps, HostId, Inbound, Limits, SetConfig, decode, topic};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// How the agent behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// Converges to what is desired.
    Converges,
    /// Starts to converge and never finishes.
    Hangs,
    /// Fails and reports it.
    Fails,
    /// Reports `ok` and does nothing.
    Ignores,
    /// Refuses every message as invalid.
    Rejects,
}

pub struct Agent {
    state: Arc<Mutex<State>>,
    publisher: Publisher,
    task: JoinHandle<()>,
}

/// What the agent runs, and what it was sent.
struct State {
    host: String,
    script: Script,
    boot_id: String,
    seq: u64,
    apps: Apps,
    desired: Option<Apps>,
    generation: Option<u64>,
    status: &'static str,
    rejected: Option<String>,
    /// Every `set_config` that was received.
    received: Vec<SetConfig>,
    /// The state in each status that was sent.
    said: Vec<&'static str>,
}

impl State {
    fn status(&mut self, reply_to: Option<&str>) -> Vec<u8> {
        self.seq += 1;
        self.said.push(self.status);
        let apps: serde_json::Map<String, Value> = self
            .apps
            .iter()
            .map(|(name, spec)| {
                let app = json!({
                    "version": spec.version, "package_version": spec.version, "running": spec.running,
                    "config": spec.config, "health": "ok",
                });
                (name.to_string(), app)
            })
            .collect();
        let mut data = json!({
            "host_id": self.host, "status": self.status,
            "info": {"hostname": format!("{}.example.net", self.host.to_lowercase()), "os_info": "debian 12 bookworm"},
            "apps": apps, "host_agent": {"version": "0.1.0", "uptime_s": 1, "rss_kib": 5000},
            "seq": self.seq, "boot_id": self.boot_id, "timestamp": "2026-01-01T00:00:00.000000Z",
        });
        if self.status != "ok" {
            data["desired_apps"] = json!(self.desired);
        }
        if self.status == "errors" {
            data["errors"] = json!([{"app": "foo", "phase": "install", "category": "script",
                "message": "the package's script failed", "attempt": 1, "rolled_back": true}]);
        }
        if let Some(generation) = self.generation {
            data["generation"] = generation.into();
        }
        if let Some(reply_to) = reply_to {
            data["reply_to"] = reply_to.into();
        }
        if let Some(id) = &self.rejected {
            data["last_rejected"] = json!({"reason": "no", "timestamp": "2026-01-01T00:00:00Z", "id": id});
        }
        json!({"opcode": "status", "data": data}).to_string().into_bytes()
    }

    /// Returns the statuses that answer a message.
    fn handle(&mut self, message: Inbound) -> Vec<Vec<u8>> {
        let set = match message {
            Inbound::Ping { id } => return vec![self.status(id.as_deref())],
            Inbound::Plan { .. } | Inbound::Unknown { .. } => return Vec::new(),
            Inbound::SetConfig(set) => set,
        };
        self.received.push(set.clone());
        let id = set.id.as_deref();
        if self.generation > set.generation {
            return vec![self.status(id)];
        }
        match self.script {
            Script::Rejects => {
                self.rejected = set.id.clone();
                return vec![self.status(id)];
            }
            Script::Ignores => return vec![self.status(id)],
            Script::Converges | Script::Hangs | Script::Fails => {}
        }
        self.generation = set.generation;
        self.desired = Some(set.apps.clone());
        self.status = "converging";
        let mut said = vec![self.status(id)];
        match self.script {
            Script::Converges => {
                self.apps = set.apps;
                self.status = "ok";
                said.push(self.status(None));
            }
            Script::Fails => {
                self.status = "errors";
                said.push(self.status(None));
            }
            Script::Hangs | Script::Ignores | Script::Rejects => {}
        }
        said
    }
}

impl Agent {
    /// Connects and sends its first status.
    pub fn start(broker: &LocalBroker, host: &str, script: Script) -> Self {
        let queue = Queue::of_agent(&HostId::new(host).unwrap(), None);
        Self::start_on(
            broker.connect_as(queue, Some(format!("host-{host}"))),
            host,
            script,
        )
    }

    /// The same, on any link.
    pub fn start_on(mut link: Link, host: &str, script: Script) -> Self {
        let state = Arc::new(Mutex::new(State {
            host: host.to_owned(),
            script,
            boot_id: format!("{:016x}", fastrand::u64(..)),
            seq: 0,
            apps: Apps::new(),
            desired: None,
            generation: None,
            status: "ok",
            rejected: None,
            received: Vec::new(),
            said: Vec::new(),
        }));
        let publisher = link.publisher.clone();
        let own = state.clone();
        let task = tokio::spawn(async move {
            link.state.wait_for(bus::LinkState::is_up).await.unwrap();
            let hello = own.lock().unwrap().status(None);
            // Without a master it is not delivered, as in reality: the master pings when it starts.
            let _ = link.publisher.publish(topic::MASTER, hello).await;
            loop {
                let delivery = tokio::select! {
                    delivery = link.deliveries.recv() => delivery,
                    changed = link.state.changed() => {
                        if changed.is_ok() && link.state.borrow_and_update().is_up() {
                            let hello = own.lock().unwrap().status(None);
                            let _ = link.publisher.publish(topic::MASTER, hello).await;
                        }
                        continue;
                    }
                };
                let Some(delivery) = delivery else { return };
                let message = decode(&delivery.body, Limits::default()).unwrap();
                delivery.ack();
                let said = own.lock().unwrap().handle(message);
                for status in said {
                    let _ = link.publisher.publish(topic::MASTER, status).await;
                }
            }
        });
        Self {
            state,
            publisher,
            task,
        }
    }

    /// The desired states that it was sent.
    pub fn received(&self) -> Vec<SetConfig> {
        self.state.lock().unwrap().received.clone()
    }

    /// The state in each of its statuses.
    pub fn said(&self) -> Vec<&'static str> {
        self.state.lock().unwrap().said.clone()
    }

    pub fn apps(&self) -> Apps {
        self.state.lock().unwrap().apps.clone()
    }

    /// Sends a status, like a heartbeat.
    pub async fn report(&self) {
        let status = self.state.lock().unwrap().status(None);
        self.publisher.publish(topic::MASTER, status).await.unwrap();
    }

    /// Removes an application, as an external change.
    pub fn lose_apps(&self) {
        self.state.lock().unwrap().apps.clear();
    }

    /// Publishes a message as the user of this host.
    pub async fn publish(&self, body: &[u8]) {
        self.publisher
            .publish(topic::MASTER, body.to_vec())
            .await
            .unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}
