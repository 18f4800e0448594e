//! How to reach RabbitMQ.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::backoff;

/// Where the broker is, who we are, how patient we are.
#[derive(Debug, Clone)]
pub struct AmqpSettings {
    pub host: String,
    pub port: u16,
    /// `None`: the client certificate says who we are (mechanism EXTERNAL).
    pub login: Option<Login>,
    /// Whom the broker takes that certificate for. It goes into `user_id`, which the broker checks; `None`: messages
    /// name no sender, and receivers that ask for one refuse them.
    pub certificate_user: Option<String>,
    pub virtual_host: String,
    /// Both sides send something at least every half of it. At least 1 s; the broker may ask for less.
    pub heartbeat: Duration,
    /// For name resolution, TCP and TLS together.
    pub connect_timeout: Duration,
    /// For the AMQP handshake, and for any later answer of the broker that does not come.
    pub handshake_timeout: Duration,
    /// For the broker's confirm of what was published, since the last one that came: a queue may be at a standstill
    /// while all else works. Does not run while the broker blocks publishers.
    pub confirm_timeout: Duration,
    /// Window of the first reconnect after a loss ([`crate::backoff`]). Fleets of over 330 hosts raise it
    /// to hosts / 66 seconds, so that they don't overrun a broker that comes back.
    pub retry_period: Duration,
    /// Longest window between reconnects.
    pub retry_max: Duration,
    /// Shown in RabbitMQ's list of connections.
    pub connection_name: String,
    /// Bytes, at least 8192; lapin keeps two buffers of 32 frames, all of which traffic makes resident
    /// sooner or later.
    pub frame_max: u32,
    /// How often a live link checks that messages still reach it.
    pub probe_period: Duration,
    /// `None`: plain TCP.
    pub tls: Option<TlsSettings>,
}

impl AmqpSettings {
    /// Longest frame of an agent: half a MiB of buffers in all. The least that every RabbitMQ takes.
    pub const FRAME_MAX_SMALL: u32 = 8 * 1024;
    /// Longest frame of a master, which moves more than it idles: 8 MiB of buffers.
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

    /// Whom we set out to reach, for messages.
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

    /// Who logs in, for messages.
    pub(super) fn user(&self) -> &str {
        self.user_id().unwrap_or("(client certificate)")
    }

    /// As AMQP counts it: whole seconds, never 0, which would mean none.
    pub(super) fn heartbeat_s(&self) -> u16 {
        u16::try_from(self.heartbeat.as_secs().max(1)).unwrap_or(u16::MAX)
    }
}

#[derive(Debug, Clone)]
pub struct Login {
    pub username: String,
    pub password: Secret,
}

/// TLS 1.2 or 1.3 by rustls. All files are PEM, and are read again at each reconnect.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    pub roots: Roots,
    pub client: Option<ClientCertificate>,
    /// The name to be found in the broker's certificate, where it is not [`AmqpSettings::host`].
    pub server_name: Option<String>,
}

/// Whose signature on the broker's certificate counts.
#[derive(Debug, Clone)]
pub enum Roots {
    /// The distribution's.
    System,
    /// Only the certificates in this file.
    File(PathBuf),
}

#[derive(Debug, Clone)]
pub struct ClientCertificate {
    /// The certificate, then those between it and its root.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Text that no log may hold.
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
