//! What the scenarios are played on: RabbitMQ, a master that is not our code, a server of packages, and a
//! host in a sandbox root with the real program as its agent.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use harness::driver::{Driver, Received};
use harness::http::HttpServer;
use harness::packages::{Family, Package, Sandbox};
use harness::rabbitmq::RabbitMq;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::agent::Agent;

/// Longest wait for anything; tests that promise a time say so themselves.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// A broker with a master on it, and one host.
pub struct World {
    pub broker: RabbitMq,
    vhost: String,
    pub master: Driver,
    pub server: HttpServer,
    pub host: TestHost,
    built: tempfile::TempDir,
    /// Of messages that were sent.
    count: u32,
}

impl World {
    /// On the node that the tests share.
    pub async fn new(family: Family) -> Self {
        let broker = RabbitMq::shared().await.unwrap();
        let vhost = broker.add_vhost().await.unwrap();
        Self::on(broker, vhost, family).await
    }

    pub async fn on(broker: RabbitMq, vhost: String, family: Family) -> Self {
        let (user, password, port) = (RabbitMq::USER, RabbitMq::PASSWORD, broker.port());
        // In a URL the slash of the default virtual host must be escaped.
        let path = vhost.replace('/', "%2F");
        let url = format!("amqp://{user}:{password}@127.0.0.1:{port}/{path}?heartbeat=30");
        Self {
            master: Driver::connect(&url).await.unwrap(),
            server: HttpServer::start().await.unwrap(),
            host: TestHost::new(family, "host-1"),
            built: tempfile::tempdir().unwrap(),
            broker,
            vhost,
            count: 0,
        }
    }

    /// The host as it was before anything was done to it; its queue is the same.
    pub fn renew_host(&mut self) {
        self.host = TestHost::new(self.host.family(), &self.host.id);
    }

    /// The agent's command line but for the command: its root, and this broker.
    pub fn agent_arguments(&self) -> Vec<String> {
        let mut arguments = self.host.arguments();
        let mut set = |key: &str, value: &str| arguments.extend(["--set".into(), format!("{key}={value}")]);
        set("hostagent.connection_retry_period", "1");
        set("amqp.host", "127.0.0.1");
        set("amqp.port", &self.broker.port().to_string());
        set("amqp.username", RabbitMq::USER);
        set("amqp.password", RabbitMq::PASSWORD);
        set("amqp.virtual_host", &self.vhost);
        set("amqp.queue_name", &format!("queue-of-{}", self.host.id));
        set("ssl.disable", "true");
        arguments
    }

    /// Starts the agent, and waits until the master has heard that the host is as desired.
    pub async fn start_agent(&mut self) -> Agent {
        let agent = self.spawn_agent();
        let up = |status: &Received| status.state() == "ok";
        self.heard("the agent is up", up).await;
        agent
    }

    /// Starts the agent.
    pub fn spawn_agent(&self) -> Agent {
        Agent::start(&self.host, &self.agent_arguments())
    }

    /// Builds `package` for this host and serves it. The URL names it as the `.rpm` that it is elsewhere:
    /// a master need not know of package families.
    pub fn serve(&self, package: &Package) -> String {
        let file = package.build(self.host.family(), self.built.path()).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        self.server
            .put_file(&format!("/{name}"), std::fs::read(&file).unwrap());
        self.server.url(&format!("/{name}")).replace(".deb", ".rpm")
    }

    /// Sends a `set_config` on the host's topic; gives its `id`.
    pub async fn set_config(&mut self, apps: &Value) -> String {
        let id = self.new_id();
        let message = json!({"opcode": "set_config", "id": id, "data": apps});
        let sent = self.master.publish(&self.host.id, &message).await.unwrap();
        assert!(sent.routed, "the host has no queue");
        id
    }

    /// Sends a `set_config`, and returns the states that were reported from then on, in order, up to the
    /// final answer to it, which comes beside.
    pub async fn converge(&mut self, apps: &Value) -> (Vec<String>, Received) {
        let already = self.master.listen(Duration::ZERO).await.unwrap();
        assert!(already.is_empty(), "nobody asked for {already:?}");
        let id = self.set_config(apps).await;
        let mut states = Vec::new();
        let answer = self
            .heard("the answer to a set_config", |status| {
                states.push(status.state().to_owned());
                status.reply_to() == Some(&id) && status.state() != "converging"
            })
            .await;
        (states, answer)
    }

    /// Waits until messages on `topic` reach somebody, or nobody: bindings follow a status within a moment.
    pub async fn topic_is_heard(&mut self, topic: &str, heard: bool) {
        let until = Instant::now() + Duration::from_secs(5);
        // Whoever hears it does not answer: it is counted, and logged.
        let message = json!({"opcode": "is anybody there?"});
        while self.master.publish(topic, &message).await.unwrap().routed != heard {
            assert!(
                Instant::now() < until,
                "whether {topic} is heard: it should be {heard}"
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Pings on `topic`; gives the `id`, and when it was sent by the driver's clock.
    pub async fn ping(&mut self, topic: &str) -> (String, f64) {
        let id = self.new_id();
        let message = json!({"opcode": "ping", "id": id});
        let sent = self.master.publish(topic, &message).await.unwrap();
        assert!(sent.routed, "nobody hears a ping on {topic}");
        (id, sent.at)
    }

    /// Pings on `topic`; the answer.
    pub async fn answer_to_ping(&mut self, topic: &str) -> Received {
        let (id, _) = self.ping(topic).await;
        self.heard("the answer to a ping", |status| status.reply_to() == Some(&id))
            .await
    }

    /// The first status from now on that fulfils `predicate`. If none comes, the test fails, and the agent's
    /// log says why.
    pub async fn heard(&mut self, what: &str, predicate: impl FnMut(&Received) -> bool) -> Received {
        match self.master.wait_for(what, PATIENCE, predicate).await {
            Ok(status) => status,
            Err(error) => panic!("{error:#}\nThe agent's log:\n{}", self.host.log()),
        }
    }

    fn new_id(&mut self) -> String {
        self.count += 1;
        format!("message-{}", self.count)
    }
}

/// A sandbox root, under a host id. The processes of its applications end with it.
pub struct TestHost {
    pub id: String,
    pub sandbox: Sandbox,
    /// Beside the root: what the agent logs.
    pub beside: tempfile::TempDir,
}

impl TestHost {
    pub fn new(family: Family, id: &str) -> Self {
        Self {
            id: id.into(),
            sandbox: Sandbox::temporary(family).unwrap(),
            beside: tempfile::tempdir().unwrap(),
        }
    }

    pub fn family(&self) -> Family {
        self.sandbox.family()
    }

    /// What every command of the agent needs to work on this host and on no other.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["--config".into(), "/dev/null".into()];
        let mut set = |key: &str, value: &str| arguments.extend(["--set".into(), format!("{key}={value}")]);
        set("hostagent.root", self.sandbox.root().to_str().unwrap());
        set("hostagent.host_id", &self.id);
        set("hostagent.package_family", self.family().extension());
        set("hostagent.bake_period", "0");
        // The scenarios tell all that is reported: a heartbeat would come in between.
        set("hostagent.heartbeat_period", "86400");
        set("hostagent.log_level_name", "DEBUG");
        arguments
    }

    /// The process of its agent, as the lock file names it.
    pub fn agent_id(&self) -> u32 {
        let holder = self.sandbox.read("/var/lib/hostagent/lock").unwrap();
        holder.trim().strip_prefix("process ").unwrap().parse().unwrap()
    }

    pub fn log_path(&self) -> PathBuf {
        self.beside.path().join("agent.log")
    }

    /// All that agents of this host have logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Package -> version of all that is installed and configured, as the package manager's own query
    /// tells it, but for the sandbox's own package.
    pub fn installed(&self) -> BTreeMap<String, String> {
        let database = |path: &str| self.sandbox.join(path).display().to_string();
        let output = match self.family() {
            Family::Deb => Command::new("dpkg-query")
                .args(["--admindir", &database("/var/lib/dpkg"), "-W"])
                .args(["-f", "${Package} ${Version} ${db:Status-Abbrev}\n"])
                .output(),
            Family::Rpm => Command::new("rpm")
                .args(["--dbpath", &database("/var/lib/rpm"), "-qa"])
                .args(["--qf", "%{name} %{version}-%{release} ii\n"])
                .output(),
        };
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        let mut found = BTreeMap::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            // "rc": removed, its configuration files kept.
            if let [package, version, state] = words[..]
                && package != "sandbox-shell"
                && state != "rc"
            {
                let version = if state == "ii" {
                    version.to_owned()
                } else {
                    line.to_owned()
                };
                let twice = found.insert(package.to_owned(), version);
                assert_eq!(twice, None, "{package} is in the database twice");
            }
        }
        found
    }

    /// Whether the service `name` runs, as its own script says.
    pub fn runs(&self, name: &str) -> bool {
        self.sandbox.join(&format!("/etc/init.d/{name}")).exists()
            && self.sandbox.service(name, "status").unwrap() == 0
    }

    /// Whether the process of an example application was started with this version and config. It says so
    /// itself, a moment after its start.
    fn was_started_with(&self, app: &str, version: &str, config: &Value) -> bool {
        let until = std::time::Instant::now() + Duration::from_secs(5);
        loop {
            let said = self
                .sandbox
                .read(&format!("/run/{app}.loaded"))
                .unwrap_or_default();
            let parts = said.split_once('\n').unwrap_or_default();
            let is_so =
                parts.0 == version && serde_json::from_str(parts.1).is_ok_and(|said: Value| said == *config);
            if is_so || std::time::Instant::now() > until {
                return is_so;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The config file of an example application.
    pub fn config(&self, app: &str) -> Value {
        let text = self.sandbox.read(&format!("/etc/pf9/{app}/config.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Every file of the package database and of the agent's state, byte for byte.
    pub fn snapshot(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let database = match self.family() {
            Family::Deb => "/var/lib/dpkg",
            Family::Rpm => "/var/lib/rpm",
        };
        let mut files = BTreeMap::new();
        let mut folders = vec![
            self.sandbox.join(database),
            self.sandbox.join("/var/lib/hostagent"),
        ];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.insert(path.clone(), std::fs::read(&path).unwrap());
                }
            }
        }
        files
    }

    /// Asserts that the host really is as `apps` (the `data` of a `set_config`, example applications only)
    /// says: package database, processes, config on disk; and that a status tells the same.
    pub fn assert_is(&self, apps: &Value, status: &Received) {
        let wanted = apps.as_object().unwrap();
        let versions: BTreeMap<String, String> = wanted
            .iter()
            .map(|(app, spec)| (app.clone(), format!("{}-1", spec["version"].as_str().unwrap())))
            .collect();
        assert_eq!(self.installed(), versions);

        let told = status.data("apps").as_object().unwrap();
        assert_eq!(told.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
        for (app, spec) in wanted {
            let running = spec.get("running") != Some(&Value::Bool(false));
            assert_eq!(self.runs(app), running, "whether {app} runs");
            let told = &told[app];
            assert_eq!(told["version"], spec["version"]);
            assert_eq!(told["package_version"], versions[app].as_str());
            let url = spec["url"].as_str().unwrap();
            let came_from = url.replace(".rpm", &format!(".{}", self.family().extension()));
            assert_eq!(told["url"], came_from.as_str());
            assert_eq!(told["running"], running, "whether {app} is said to run");
            for (section, keys) in spec["config"].as_object().into_iter().flatten() {
                for (key, value) in keys.as_object().unwrap() {
                    assert_eq!(&told["config"][section][key], value, "{app} {section}.{key}");
                    assert_eq!(&self.config(app)[section][key], value, "{app} {section}.{key}");
                }
            }
            if running {
                let version = spec["version"].as_str().unwrap();
                assert!(
                    self.was_started_with(app, version, &self.config(app)),
                    "{app} {version}"
                );
            }
        }
        assert_eq!(status.data("host_id"), self.id.as_str());
        assert_eq!(status.routing_key, "master");
        assert_eq!(status.user_id.as_deref(), Some(RabbitMq::USER));
    }
}

impl Drop for TestHost {
    /// Its applications were started as sessions of their own, as on a real host.
    fn drop(&mut self) {
        for entry in std::fs::read_dir(self.sandbox.join("/etc/init.d"))
            .into_iter()
            .flatten()
        {
            let name = entry.map(|entry| entry.file_name());
            if let Some(name) = name.ok().as_ref().and_then(|name| name.to_str()) {
                let _ = self.sandbox.service(name, "stop");
            }
        }
    }
}

/// An entry of a `set_config`.
pub fn spec(version: &str, url: &str) -> Value {
    json!({"version": version, "url": url, "running": true, "config": {}})
}
