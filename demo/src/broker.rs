//! Set-up and clean-up of RabbitMQ, if `--broker` is given. The virtual host must be unused, and is
//! left as it was.
//!
//! If the demo is killed, RabbitMQ deletes what the demo has declared: the exchange with its last
//! binding, the queues after [`EXPIRES_MS`] without a consumer. Agents and master use them as they
//! are.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use lapin::options::{
    ExchangeDeclareOptions, ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::FieldTable;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{Connection, ConnectionProperties, ErrorKind, ExchangeKind};
use protocol::topic::{EXCHANGE, agent_queue};
use tokio::time::timeout;

use crate::cli::Broker;
use crate::hosts::DemoHost;
use crate::listener::LISTENER_QUEUE;

const EXPIRES_MS: i32 = 60_000;
/// Time limit for one set of requests to the broker.
const REQUEST_LIMIT: Duration = Duration::from_secs(20);

/// The queue of the demo's master.
pub const MASTER_QUEUE: &str = "backbone-demo-master";

/// The exchange and queues of the demo on the broker.
pub struct OwnTopology {
    broker: Broker,
    queues: Vec<String>,
}

impl OwnTopology {
    /// Fails if the exchange already exists, because it may be used by a fleet. Declares nothing
    /// yet.
    pub async fn check_unused(broker: &Broker, hosts: &[DemoHost]) -> Result<Self> {
        let mut queues = vec![MASTER_QUEUE.to_owned(), LISTENER_QUEUE.to_owned()];
        queues.extend(hosts.iter().map(|host| agent_queue(&host.id)));
        let own = Self {
            broker: broker.clone(),
            queues,
        };
        own.with_time_limit(own.check_that_exchange_is_absent()).await?;
        Ok(own)
    }

    pub async fn declare(&self) -> Result<()> {
        self.with_time_limit(self.declare_all()).await
    }

    /// Deletes them. Call it when agents and master have ended, even if [`Self::declare`] failed.
    pub async fn delete(&self) -> Result<()> {
        self.with_time_limit(self.delete_all()).await
    }

    async fn with_time_limit(&self, asking: impl Future<Output = Result<()>>) -> Result<()> {
        timeout(REQUEST_LIMIT, asking)
            .await
            .unwrap_or_else(|_| bail!("no answer within {REQUEST_LIMIT:?}"))
            .with_context(|| format!("RabbitMQ at {}", self.broker.address()))
    }

    async fn check_that_exchange_is_absent(&self) -> Result<()> {
        let connection = connect(&self.broker).await?;
        let channel = connection.create_channel().await?;
        let passive = ExchangeDeclareOptions {
            passive: true,
            ..ExchangeDeclareOptions::default()
        };
        let looked = channel
            .exchange_declare(
                EXCHANGE.into(),
                ExchangeKind::Direct,
                passive,
                FieldTable::default(),
            )
            .await;
        match looked {
            Ok(()) => bail!(
                "virtual host {:?} has an exchange {EXCHANGE}: a fleet may be using it, and the demo sends \
                 messages to every agent. Use another virtual host (create one with `rabbitmqctl add_vhost \
                 demo`, and grant permissions with `rabbitmqctl set_permissions`), or delete the exchange \
                 if it is not used",
                self.broker.virtual_host
            ),
            Err(error) if refusal(&error) == Some(&AMQPSoftError::NOTFOUND) => {}
            Err(error) => return Err(error).context("cannot check for the exchange"),
        }
        close(connection).await
    }

    async fn declare_all(&self) -> Result<()> {
        let connection = connect(&self.broker).await?;
        let channel = connection.create_channel().await?;
        let own = ExchangeDeclareOptions {
            auto_delete: true,
            ..ExchangeDeclareOptions::default()
        };
        channel
            .exchange_declare(EXCHANGE.into(), ExchangeKind::Direct, own, FieldTable::default())
            .await
            .context("cannot declare the exchange")?;
        for queue in &self.queues {
            let options = QueueDeclareOptions {
                durable: true,
                ..QueueDeclareOptions::default()
            };
            let mut arguments = FieldTable::default();
            arguments.insert("x-expires".into(), EXPIRES_MS.into());
            channel
                .queue_declare(queue.as_str().into(), options, arguments)
                .await
                .with_context(|| format!("cannot declare the queue {queue}"))?;
        }
        close(connection).await
    }

    async fn delete_all(&self) -> Result<()> {
        let connection = connect(&self.broker).await?;
        let channel = connection.create_channel().await?;
        for queue in &self.queues {
            channel
                .queue_delete(queue.as_str().into(), QueueDeleteOptions::default())
                .await?;
        }
        // If it ever had a binding it is already deleted; deleting it again is not an error. If a
        // fleet has started to use this virtual host meanwhile, the exchange is in use and stays.
        let options = ExchangeDeleteOptions {
            if_unused: true,
            ..ExchangeDeleteOptions::default()
        };
        match channel.exchange_delete(EXCHANGE.into(), options).await {
            Ok(()) => close(connection).await,
            Err(error) if refusal(&error) == Some(&AMQPSoftError::PRECONDITIONFAILED) => Ok(()),
            Err(error) => Err(error).context("cannot delete the exchange"),
        }
    }
}

async fn connect(broker: &Broker) -> Result<Connection> {
    let uri = AMQPUri {
        scheme: AMQPScheme::AMQP,
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo {
                username: broker.username.clone(),
                password: broker.password().to_owned(),
            },
            host: broker.host.clone(),
            port: broker.port,
        },
        vhost: broker.virtual_host.clone(),
        query: AMQPQueryString {
            frame_max: Some(8192),
            ..AMQPQueryString::default()
        },
    };
    let properties = ConnectionProperties::default().with_connection_name("Backbone demo: set".into());
    Connection::connect_uri(uri, properties)
        .await
        .context("cannot connect; check address, user, password and virtual host")
}

async fn close(connection: Connection) -> Result<()> {
    Ok(connection.close(200, "bye".into()).await?)
}

/// Why the broker closed the channel.
fn refusal(error: &lapin::Error) -> Option<&AMQPSoftError> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => match error.kind() {
            AMQPErrorKind::Soft(error) => Some(error),
            AMQPErrorKind::Hard(_) => None,
        },
        _ => None,
    }
}
