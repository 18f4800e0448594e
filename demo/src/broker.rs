//! RabbitMQ, where the play goes over one: makes sure that the virtual host is nobody's, and leaves it as
//! it was found.
//!
//! What the demo declares deletes itself, should the demo be killed: the exchange when its last binding is
//! gone, the queues when they had no consumer for [`EXPIRES_MS`]. Agents and master use them as they are.

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
use crate::witness::WITNESS_QUEUE;

const EXPIRES_MS: i32 = 60_000;
/// For all that is asked of the broker at one time.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the master of the play consumes.
pub const MASTER_QUEUE: &str = "backbone-demo-master";

/// What is the demo's on the broker.
pub struct OwnTopology {
    broker: Broker,
    queues: Vec<String>,
}

impl OwnTopology {
    /// Declares nothing yet. Fails where the exchange exists already: it is somebody else's.
    pub async fn find_room(broker: &Broker, hosts: &[DemoHost]) -> Result<Self> {
        let mut queues = vec![MASTER_QUEUE.to_owned(), WITNESS_QUEUE.to_owned()];
        queues.extend(hosts.iter().map(|host| agent_queue(&host.id)));
        let own = Self {
            broker: broker.clone(),
            queues,
        };
        own.within_time(own.check_that_nobody_is_here()).await?;
        Ok(own)
    }

    pub async fn declare(&self) -> Result<()> {
        self.within_time(self.declare_all()).await
    }

    /// To be called when agents and master are gone, whether or not [`Self::declare`] came to its end.
    pub async fn delete(&self) -> Result<()> {
        self.within_time(self.delete_all()).await
    }

    async fn within_time(&self, asking: impl Future<Output = Result<()>>) -> Result<()> {
        timeout(PATIENCE, asking)
            .await
            .unwrap_or_else(|_| bail!("it did not answer within {PATIENCE:?}"))
            .with_context(|| format!("RabbitMQ at {}", self.broker.address()))
    }

    async fn check_that_nobody_is_here(&self) -> Result<()> {
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
                "virtual host {:?} has an exchange {EXCHANGE}: a fleet may be using it, and this play speaks \
                 to every agent there is. Give it a virtual host of its own, such as `rabbitmqctl add_vhost \
                 demo` makes (then its user needs set_permissions), or delete the exchange if nobody uses it",
                self.broker.virtual_host
            ),
            Err(error) if refusal(&error) == Some(&AMQPSoftError::NOTFOUND) => {}
            Err(error) => return Err(error).context("looking for the exchange"),
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
            .context("declaring the exchange")?;
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
                .with_context(|| format!("declaring the queue {queue}"))?;
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
        // Gone already, if it ever had a binding: to delete it again is no error. In use, if a fleet has come to
        // this virtual host meanwhile: then it stays.
        let options = ExchangeDeleteOptions {
            if_unused: true,
            ..ExchangeDeleteOptions::default()
        };
        match channel.exchange_delete(EXCHANGE.into(), options).await {
            Ok(()) => close(connection).await,
            Err(error) if refusal(&error) == Some(&AMQPSoftError::PRECONDITIONFAILED) => Ok(()),
            Err(error) => Err(error).context("deleting the exchange"),
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
        .context("no connection; are address, user, password and virtual host right?")
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
