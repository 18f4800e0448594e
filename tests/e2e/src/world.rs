//! The world outside the machines: RabbitMQ, a master on it that is not our code, a server of packages.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::driver::{Driver, Received};
use harness::http::HttpServer;
use harness::packages::Package;
use harness::rabbitmq::RabbitMq;
use serde_json::{Value, json};

use crate::agent_package::agent_package;
use crate::host::{Host, PATIENCE};

pub struct World {
    pub broker: RabbitMq,
    pub vhost: String,
    pub master: Driver,
    pub server: HttpServer,
    built: tempfile::TempDir,
    count: u32,
}

impl World {
    /// On the node that the tests share.
    pub async fn new() -> Result<Self> {
        let broker = RabbitMq::shared().await?;
        let vhost = broker.add_vhost().await?;
        Self::on(broker, vhost).await
    }

    /// On a node of its own, which the test may kill.
    pub async fn with_own_broker() -> Result<Self> {
        Self::on(RabbitMq::start().await?, "/".into()).await
    }

    async fn on(broker: RabbitMq, vhost: String) -> Result<Self> {
        Ok(Self {
            master: connect(&broker, &vhost).await?,
            server: HttpServer::start().await?,
            built: tempfile::tempdir()?,
            broker,
            vhost,
            count: 0,
        })
    }

    /// The master again, after the broker was away.
    pub async fn reconnect_master(&mut self) -> Result<()> {
        self.master = connect(&self.broker, &self.vhost).await?;
        Ok(())
    }

    /// A machine with the agent installed and configured, not started.
    pub async fn host(&self, settings: &str) -> Result<Host> {
        self.set_up(Host::boot()?, settings).await
    }

    /// The same on a machine with rpm.
    pub async fn rpm_host(&self, settings: &str) -> Result<Host> {
        self.set_up(crate::rpm_host::boot()?, settings).await
    }

    async fn set_up(&self, mut host: Host, settings: &str) -> Result<Host> {
        for port in [self.broker.port(), self.server.address().port()] {
            host.forward(port).await?;
        }
        host.configure_agent(self.broker.port(), &self.vhost, settings)?;
        host.install(&agent_package("1.0")?)?;
        Ok(host)
    }

    /// A machine with the agent at work, and its id.
    pub async fn managed_host(&mut self, settings: &str) -> Result<(Host, String)> {
        let host = self.host(settings).await?;
        let id = self.start(&host).await?;
        Ok((host, id))
    }

    /// Starts the agent, and waits until it has reported that all is well; the host's id.
    pub async fn start(&mut self, host: &Host) -> Result<String> {
        host.start_agent()?;
        let id = host.mac()?;
        self.status(host, &id, "the first status", |status| status.state() == "ok")
            .await?;
        Ok(id)
    }

    /// Builds `package` and serves it; its URL as seen from `host`.
    pub fn serve(&self, package: &Package, host: &Host) -> Result<String> {
        let file = package.build(host.family, self.built.path())?;
        let name = file
            .file_name()
            .and_then(|name| name.to_str())
            .context("a name")?;
        self.server.put_file(&format!("/{name}"), std::fs::read(&file)?);
        Ok(self.seen_from(host, &format!("/{name}")))
    }

    /// The URL of a served path, as `host` reaches it.
    pub fn seen_from(&self, host: &Host, path: &str) -> String {
        self.server.url(path).replace("127.0.0.1", &host.outside)
    }

    /// Sends a `set_config` to the host `id`; gives the message's id.
    pub async fn set_config(&mut self, id: &str, apps: &Value) -> Result<String> {
        self.count += 1;
        let message = format!("message-{}", self.count);
        let body = json!({"opcode": "set_config", "id": message, "data": apps});
        let sent = self.master.publish(id, &body).await?;
        ensure!(sent.routed, "{id} has no queue");
        Ok(message)
    }

    /// Sends a `set_config` and waits for the final answer to it.
    pub async fn converge(&mut self, host: &Host, id: &str, apps: &Value) -> Result<Received> {
        let message = self.set_config(id, apps).await?;
        self.answer(host, id, &message).await
    }

    /// The final answer to a message.
    pub async fn answer(&mut self, host: &Host, id: &str, message: &str) -> Result<Received> {
        self.status(host, id, "the final answer", |status| {
            status.reply_to() == Some(message) && status.state() != "converging"
        })
        .await
    }

    /// The first status of the host `id` from now on that fulfils `predicate`.
    pub async fn status(
        &mut self,
        host: &Host,
        id: &str,
        what: &str,
        predicate: impl FnMut(&Received) -> bool,
    ) -> Result<Received> {
        self.status_within(host, id, what, PATIENCE, predicate).await
    }

    pub async fn status_within(
        &mut self,
        host: &Host,
        id: &str,
        what: &str,
        limit: Duration,
        mut predicate: impl FnMut(&Received) -> bool,
    ) -> Result<Received> {
        let waited = self
            .master
            .wait_for(what, limit, |status| {
                status.data("host_id") == id && predicate(status)
            })
            .await;
        waited.with_context(|| format!("the agent's log:\n{}", host.log()))
    }
}

async fn connect(broker: &RabbitMq, vhost: &str) -> Result<Driver> {
    let (user, password, port) = (RabbitMq::USER, RabbitMq::PASSWORD, broker.port());
    let vhost = vhost.replace('/', "%2F");
    Driver::connect(&format!(
        "amqp://{user}:{password}@127.0.0.1:{port}/{vhost}?heartbeat=30"
    ))
    .await
}
