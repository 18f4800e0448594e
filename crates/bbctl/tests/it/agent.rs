//! A scripted agent: it uses the protocol, but installs nothing.

use std::sync::{Arc, Mutex, MutexGuard};

use bus::local::LocalBroker;
use bus::{LinkState, Publisher, Queue};
use protocol::{Apps, HostId, Inbound, Limits, decode, topic};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// How it reacts to a desired state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// Reports the desired state as reached.
    Converges,
    /// Reports converging until [`Agent::finish`].
    Waits,
    /// Fails and holds.
    Fails,
    /// Fails and plans a retry in one minute; succeeds after [`Agent::finish`].
    Retries,
    /// Answers no message.
    IsDeaf,
}

pub struct Agent {
    state: Arc<Mutex<State>>,
    publisher: Publisher,
    task: JoinHandle<()>,
}

struct State {
    host: String,
    script: Script,
    boot_id: String,
    seq: u64,
    apps: Apps,
    desired: Option<Apps>,
    generation: Option<u64>,
    status: &'static str,
}

pub const ERROR: &str = "the script postinst of web 1.1.0-1 failed with exit code 7: no such user: web";

impl State {
    fn status(&mut self, reply_to: Option<&str>) -> Vec<u8> {
        self.seq += 1;
        let apps: serde_json::Map<String, Value> = self
            .apps
            .iter()
            .map(|(name, spec)| {
                let app = json!({"version": spec.version, "package_version": format!("{}-1", spec.version),
                    "package": name, "running": spec.running, "config": spec.config, "health": "ok"});
                (name.to_string(), app)
            })
            .collect();
        let mut data = json!({
            "host_id": self.host, "status": self.status, "apps": apps, "seq": self.seq, "boot_id": self.boot_id,
            "info": {"hostname": format!("{}.example.net", self.host), "os_info": "debian 12 bookworm", "arch": "x86_64"},
            "host_agent": {"version": "0.1.0", "uptime_s": 3700, "rss_kib": 5222}, "reply_to": reply_to,
            "generation": self.generation, "timestamp": "2026-01-01T00:00:00.000000Z",
        });
        if self.status != "ok" {
            data["desired_apps"] = json!(self.desired);
        }
        if self.status == "converging" {
            data["detail"] = "installs web".into();
        }
        if self.status == "errors" {
            data["errors"] = json!([{"app": "web", "phase": "install", "category": "script", "message": ERROR,
                "attempt": 2, "rolled_back": true}]);
        }
        if self.status == "errors" && self.script == Script::Retries {
            data["errors"][0]["next_retry"] = "2999-01-01T00:00:00.000000Z".into();
        }
        json!({"opcode": "status", "data": data}).to_string().into_bytes()
    }

    /// Its answer to a message.
    fn handle(&mut self, message: Inbound) -> Vec<Vec<u8>> {
        if self.script == Script::IsDeaf {
            return Vec::new();
        }
        match message {
            Inbound::Ping { id } => vec![self.status(id.as_deref())],
            Inbound::Unknown { .. } => Vec::new(),
            Inbound::Plan { id, apps } => vec![plan(&self.host, id, &apps)],
            Inbound::SetConfig(set) => {
                self.generation = set.generation;
                self.desired = Some(set.apps);
                self.status = "converging";
                let mut said = vec![self.status(set.id.as_deref())];
                match self.script {
                    Script::Converges => said.push(self.end("ok")),
                    Script::Fails | Script::Retries => said.push(self.end("errors")),
                    Script::Waits | Script::IsDeaf => {}
                }
                said
            }
        }
    }

    fn end(&mut self, status: &'static str) -> Vec<u8> {
        self.status = status;
        if status == "ok" {
            self.apps = self.desired.clone().unwrap_or_default();
        }
        self.status(None)
    }
}

/// One step for each application. An application called `broken` is a fault.
fn plan(host: &str, id: Option<String>, apps: &Apps) -> Vec<u8> {
    let steps: Vec<Value> = apps
        .iter()
        .map(|(name, spec)| {
            json!({"app": name, "action": "install", "text": format!("install version {}", spec.version),
                "undo": {"possible": true, "how": "the package is removed again"}})
        })
        .collect();
    let faults: Vec<Value> = apps
        .keys()
        .filter(|name| name.as_str() == "broken")
        .map(|name| {
            json!({"app": name, "phase": "service", "category": "not_found",
                "message": "is to run, but ships no service"})
        })
        .collect();
    let data =
        json!({"host_id": host, "reply_to": id, "hash": "43118d9e157a", "steps": steps, "faults": faults});
    json!({"opcode": "plan", "data": data}).to_string().into_bytes()
}

impl Agent {
    pub fn start(broker: &LocalBroker, host: &str, script: Script) -> Self {
        let state = Arc::new(Mutex::new(State {
            host: host.to_owned(),
            script,
            boot_id: format!("{:016x}", fastrand::u64(..)),
            seq: 0,
            apps: Apps::new(),
            desired: None,
            generation: None,
            status: "ok",
        }));
        let queue = Queue::of_agent(&HostId::new(host).unwrap(), None);
        let mut link = broker.connect_as(queue, None);
        let publisher = link.publisher.clone();
        let own = state.clone();
        let task = tokio::spawn(async move {
            link.state.wait_for(LinkState::is_up).await.unwrap();
            let hello = own.lock().unwrap().status(None);
            // Without a master the status is lost, as with a real agent: the master pings when it
            // starts.
            let _ = link.publisher.publish(topic::MASTER, hello).await;
            while let Some(delivery) = link.deliveries.recv().await {
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn follow(&self, script: Script) {
        self.state().script = script;
    }

    /// Reports the desired state as reached.
    pub async fn finish(&self) {
        let status = self.state().end("ok");
        self.publisher.publish(topic::MASTER, status).await.unwrap();
    }

    pub fn apps(&self) -> Apps {
        self.state().apps.clone()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}
