//! Opens a connection: name resolution, TCP, TLS, AMQP handshake, each with a time limit.

use std::io;
use std::sync::Mutex;

use async_rs::Runtime;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::tcp::AsyncTcpStream;
use lapin::types::LongString;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism};
use lapin::{ConnectionProperties, ErrorKind};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::settings::AmqpSettings;
use super::stream::{LapinRuntime, LastRead, SocketGuard, Stream};
use super::tls::{self, TlsError};

/// An open connection. Dropping it ends lapin's thread at once and does not close the connection in
/// an orderly way; [`Wire::close`] does.
pub(super) struct Wire {
    pub(super) connection: lapin::Connection,
    pub(super) last_read: LastRead,
    _socket: SocketGuard,
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot resolve {host}: {source}")]
    Resolve { host: String, source: io::Error },
    #[error("cannot connect to {address}: {source}")]
    Tcp { address: String, source: io::Error },
    #[error("{address} did not answer within {seconds} s")]
    Timeout { address: String, seconds: f32 },
    #[error("{address}: {source}")]
    Tls { address: String, source: TlsError },
    #[error("{address} accepted the connection but did not complete the AMQP handshake within {seconds} s")]
    HandshakeTimeout { address: String, seconds: f32 },
    #[error(
        "{address} refused the login of user {user}: wrong user name or password, or no permission for \
         virtual host {virtual_host:?}"
    )]
    Refused {
        address: String,
        user: String,
        virtual_host: String,
    },
    #[error(
        "{address}: {source}; no login is configured: set [amqp] username and password_file, or [ssl] \
         certfile and keyfile"
    )]
    NoLogin { address: String, source: lapin::Error },
    #[error("{address} has no virtual host {virtual_host:?}")]
    NoVirtualHost { address: String, virtual_host: String },
    #[error("AMQP handshake with {address} failed: {source}")]
    Handshake { address: String, source: lapin::Error },
}

impl ConnectError {
    /// Whether the broker is reachable but slow, which means that it is overloaded. (If there is no
    /// TCP connection in time, the network is more likely broken, and frequent retries do no harm.)
    pub(super) fn is_overload(&self) -> bool {
        match self {
            Self::HandshakeTimeout { .. } => true,
            Self::Resolve { .. }
            | Self::Tcp { .. }
            | Self::Timeout { .. }
            | Self::Tls { .. }
            | Self::Refused { .. }
            | Self::NoLogin { .. }
            | Self::NoVirtualHost { .. }
            | Self::Handshake { .. } => false,
        }
    }
}

impl Wire {
    pub(super) async fn open(settings: &AmqpSettings) -> Result<Self, ConnectError> {
        let last_read = LastRead::now();
        let (stream, socket) = timeout(settings.connect_timeout, open_stream(settings, &last_read))
            .await
            .map_err(|_| ConnectError::Timeout {
                address: settings.address(),
                seconds: settings.connect_timeout.as_secs_f32(),
            })??;
        // lapin calls the closure only once, because its retries are off.
        let stream = Mutex::new(Some(stream));
        let connector = async move |_, _| {
            let stream = stream.lock().ok().and_then(|mut stream| stream.take());
            match stream {
                Some(stream) => Ok(AsyncTcpStream::Plain(stream)),
                None => Err(io::Error::from(io::ErrorKind::NotConnected).into()),
            }
        };
        let runtime = Runtime::new(LapinRuntime::current());
        let handshake = lapin::Connection::connector(uri(settings), runtime, connector, properties(settings));
        match timeout(settings.handshake_timeout, handshake).await {
            Ok(Ok(connection)) => Ok(Self {
                connection,
                last_read,
                _socket: socket,
            }),
            Ok(Err(source)) => Err(handshake_error(settings, source)),
            // Here `socket` is dropped, which ends lapin's thread.
            Err(_) => Err(ConnectError::HandshakeTimeout {
                address: settings.address(),
                seconds: settings.handshake_timeout.as_secs_f32(),
            }),
        }
    }

    /// Closes the connection in an orderly way, so that the broker does not log a lost connection.
    pub(super) async fn close(self, limit: std::time::Duration) {
        // The drop that follows ends the connection even if this fails.
        let _ = timeout(limit, self.connection.close(200, "bye".into())).await;
    }
}

/// Logs in and closes the connection: checks whether the broker accepts these settings. Uses no
/// queue.
pub async fn log_in(settings: &AmqpSettings) -> Result<(), ConnectError> {
    let wire = Wire::open(settings).await?;
    wire.close(settings.handshake_timeout).await;
    Ok(())
}

async fn open_stream(
    settings: &AmqpSettings,
    last_read: &LastRead,
) -> Result<(Stream, SocketGuard), ConnectError> {
    let failed = |source| ConnectError::Tcp {
        address: settings.address(),
        source,
    };
    let tcp = open_tcp(settings).await?;
    tcp.set_nodelay(true).map_err(failed)?;
    let guard = SocketGuard::of(&tcp).map_err(failed)?;
    let stream = match &settings.tls {
        None => Stream::plain(tcp, last_read.clone()),
        Some(tls) => tls::start(tcp, tls, &settings.host)
            .await
            .map(|tls| Stream::tls(tls, last_read.clone()))
            .map_err(|source| ConnectError::Tls {
                address: settings.address(),
                source,
            })?,
    };
    Ok((stream, guard))
}

async fn open_tcp(settings: &AmqpSettings) -> Result<TcpStream, ConnectError> {
    let addresses = lookup_host((settings.host.as_str(), settings.port))
        .await
        .map_err(|source| ConnectError::Resolve {
            host: settings.host.clone(),
            source,
        })?;
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the host name has no address");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = error,
        }
    }
    Err(ConnectError::Tcp {
        address: settings.address(),
        source: last,
    })
}

/// Built as a value, so that the password needs no URL escapes.
fn uri(settings: &AmqpSettings) -> AMQPUri {
    let (userinfo, mechanism) = match &settings.login {
        Some(login) => (
            AMQPUserInfo {
                username: login.username.clone(),
                password: login.password.reveal().to_owned(),
            },
            SASLMechanism::Plain,
        ),
        None => (
            AMQPUserInfo {
                username: String::new(),
                password: String::new(),
            },
            SASLMechanism::External,
        ),
    };
    AMQPUri {
        scheme: AMQPScheme::AMQP,
        authority: AMQPAuthority {
            userinfo,
            host: settings.host.clone(),
            port: settings.port,
        },
        vhost: settings.virtual_host.clone(),
        query: AMQPQueryString {
            // Without it lapin uses the broker's value and allocates 64 times as much: 137 GB for
            // "no limit".
            frame_max: Some(
                settings
                    .frame_max
                    .clamp(AmqpSettings::FRAME_MAX_SMALL, AmqpSettings::FRAME_MAX_LARGE),
            ),
            heartbeat: Some(settings.heartbeat_s()),
            auth_mechanism: Some(mechanism),
            ..AMQPQueryString::default()
        },
    }
}

fn properties(settings: &AmqpSettings) -> ConnectionProperties {
    let name: LongString = settings.connection_name.as_str().into();
    ConnectionProperties::default()
        .with_connection_name(name)
        .with_client_property("product".into(), "Backbone".into())
        .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into())
}

fn handshake_error(settings: &AmqpSettings, source: lapin::Error) -> ConnectError {
    let address = settings.address();
    let virtual_host = settings.virtual_host.clone();
    let certificate = settings.tls.as_ref().and_then(|tls| tls.client.as_ref());
    if settings.login.is_none() && certificate.is_none() {
        return ConnectError::NoLogin { address, source };
    }
    if let ErrorKind::ProtocolError(error) = source.kind() {
        let refused = || ConnectError::Refused {
            address: address.clone(),
            user: settings.user().to_owned(),
            virtual_host: virtual_host.clone(),
        };
        // RabbitMQ sends NOT_ALLOWED both for "vhost x not found" and for "access to vhost x
        // refused".
        return match error.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => refused(),
            AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED)
                if error.get_message().as_str().contains("not found") =>
            {
                ConnectError::NoVirtualHost {
                    address,
                    virtual_host,
                }
            }
            AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => refused(),
            _ => ConnectError::Handshake { address, source },
        };
    }
    ConnectError::Handshake { address, source }
}
