//! Settings of a link to RabbitMQ.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::backoff;

/// Address, login and time limits.
#[derive(Debug, Clone)]
pub struct AmqpSettings {
    pub host: String,
    pub port: u16,
    /// `None`: log in with the client certificate (mechanism EXTERNAL).
    pub login: Option<Login>,
    /// The user that the broker derives from that certificate. It is sent as `user_id`, which the
    /// broker checks. `None`: messages have no `user_id`, and receivers that require one refuse
    /// them.
    pub certificate_user: Option<String>,
    pub virtual_host: String,
    /// Both sides send something at least every half heartbeat. At least 1 s. The broker may lower
    /// it.
    pub heartbeat: Duration,
    /// Time limit for name resolution, TCP and TLS together.
    pub connect_timeout: Duration,
    /// Time limit for the AMQP handshake, and for every later answer of the broker.
    pub handshake_timeout: Duration,
    /// Time limit for the broker's next publisher confirm: a queue may be blocked while everything
    /// else works. Suspended while the broker blocks publishers.
    pub confirm_timeout: Duration,
    /// First window of reconnects after a failure ([`crate::backoff`]). Fleets of over 330 hosts
    /// set it to hosts / 66 seconds, so that they do not overload a broker that has just restarted.
    pub retry_period: Duration,
    /// Longest window between reconnects.
    pub retry_max: Duration,
    /// Shown in RabbitMQ's list of connections.
    pub connection_name: String,
    /// Bytes, at least 8192. lapin keeps two buffers of 32 frames each, and traffic makes all of it
    /// resident.
    pub frame_max: u32,
    /// Time between two checks that messages still reach this link.
    pub probe_period: Duration,
    /// `None`: plain TCP.
    pub tls: Option<TlsSettings>,
}

impl AmqpSettings {
    /// Longest frame of an agent: 512 KiB of buffers. The smallest value that every RabbitMQ
    /// accepts.
    pub const FRAME_MAX_SMALL: u32 = 8 * 1024;
    /// Longest frame of a master, which has more traffic: 8 MiB of buffers.
    pub const FRAME_MAX_LARGE: u32 = 128 * 1024;

    /// The defaults, for a broker at `host`.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
            login: None,
            certificate_user: None,
            virtual_host: "/".into(),
            heartbeat: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            confirm_timeout: Duration::from_secs(60),
            retry_period: Duration::from_secs(5),
            retry_max: backoff::CAP,
            connection_name: "backbone".into(),
            frame_max: Self::FRAME_MAX_SMALL,
            probe_period: Duration::from_secs(60),
            tls: None,
        }
    }

    /// The broker's address, for log messages.
    pub(super) fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The user that messages name as their sender.
    pub(super) fn user_id(&self) -> Option<&str> {
        match &self.login {
            Some(login) => Some(&login.username),
            None => self.certificate_user.as_deref(),
        }
    }

    /// The user that logs in, for log messages.
    pub(super) fn user(&self) -> &str {
        self.user_id().unwrap_or("(client certificate)")
    }

    /// In whole seconds, as AMQP needs it. Never 0, which would mean no heartbeat.
    pub(super) fn heartbeat_s(&self) -> u16 {
        u16::try_from(self.heartbeat.as_secs().max(1)).unwrap_or(u16::MAX)
    }
}

#[derive(Debug, Clone)]
pub struct Login {
    pub username: String,
    pub password: Secret,
}

/// TLS 1.2 or 1.3. All files are PEM, and are read again at each reconnect.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    pub roots: Roots,
    pub client: Option<ClientCertificate>,
    /// The name in the broker's certificate, if it is not [`AmqpSettings::host`].
    pub server_name: Option<String>,
}

/// The certificate authorities that are trusted for the broker's certificate.
#[derive(Debug, Clone)]
pub enum Roots {
    /// The distribution's.
    System,
    /// Only the certificates in this file.
    File(PathBuf),
}

#[derive(Debug, Clone)]
pub struct ClientCertificate {
    /// The certificate, followed by its intermediate certificates.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Text that must not appear in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(...)")
    }
}
