//! The settings of the master. The crate `settings` reads them; [`table`] lists every key once.

pub mod table;

use std::net::SocketAddr;
use std::time::Duration;

use ::settings::{Gathered, Kind, Parse, check_pair, forget_default_user, read_password};
use bus::amqp::{AmqpSettings as Broker, ClientCertificate, Login, Roots, Secret, TlsSettings as BrokerTls};
use bus::{Queue, amqp};

pub use ::settings::{Loaded as AnyLoaded, SettingsError, Sources, show};
pub use table::{PROGRAM, Settings};

pub type Loaded = AnyLoaded<Settings>;

/// Who may call the API without a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anonymous {
    /// Anybody, until the first token is made.
    Auto,
    Yes,
    No,
}

impl Anonymous {
    pub const NAMES: &'static [&'static str] = &["auto", "true", "false"];
}

impl Parse for Anonymous {
    fn parse(raw: &str, kind: &Kind) -> Option<Self> {
        match raw.to_ascii_lowercase().as_str() {
            "auto" => Some(Self::Auto),
            raw => bool::parse(raw, kind).map(|yes| if yes { Self::Yes } else { Self::No }),
        }
    }
}

impl Settings {
    /// Reads all sources. An error lists all problems.
    pub fn load(sources: &Sources) -> Result<Loaded, SettingsError> {
        let mut gathered = sources.gather(&PROGRAM);
        let settings = Self::parse(&mut gathered).map(|settings| check(settings, &mut gathered));
        gathered.finish(settings)
    }

    /// The address to listen on.
    pub fn listen(&self) -> Option<SocketAddr> {
        self.bbmaster.listen.parse().ok()
    }

    /// The connection to the broker.
    pub fn broker(&self) -> Broker {
        let Self { amqp, ssl, .. } = self;
        let tls = !ssl.disable.unwrap_or_else(|| is_this_machine(&amqp.host));
        let port = amqp.port.unwrap_or(if tls { 5671 } else { 5672 });
        let client = ssl.certfile.clone().zip(ssl.keyfile.clone());
        Broker {
            login: amqp.password.as_ref().map(|password| Login {
                username: amqp.username.clone(),
                password: Secret::new(password.expose()),
            }),
            certificate_user: Some(amqp.username.clone()).filter(|user| !user.is_empty()),
            virtual_host: amqp.virtual_host.clone(),
            heartbeat: amqp.amqp_heartbeat_interval,
            connect_timeout: amqp.connect_timeout,
            retry_period: amqp.connection_retry_period,
            retry_max: RETRY_MAX.max(amqp.connection_retry_period),
            connection_name: "bbmaster".to_owned(),
            frame_max: Broker::FRAME_MAX_LARGE,
            tls: tls.then(|| BrokerTls {
                roots: ssl.ca_certs.clone().map_or(Roots::System, Roots::File),
                client: client.map(|(certificate, key)| ClientCertificate { certificate, key }),
                server_name: None,
            }),
            ..amqp::AmqpSettings::new(&amqp.host, port)
        }
    }

    /// The queue to consume from.
    pub fn queue(&self) -> Queue {
        let prefetch = u16::try_from(self.amqp.prefetch).unwrap_or(u16::MAX);
        Queue::of_master(&self.amqp.queue_name, prefetch)
    }
}

/// Longest pause of a master between two attempts to connect. Agents wait up to five minutes,
/// because there are thousands of them. Masters are few, and without one no status is stored and
/// nothing is sent.
const RETRY_MAX: Duration = Duration::from_secs(10);

fn is_this_machine(host: &str) -> bool {
    host == "localhost"
        || host
            .parse()
            .is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

/// Checks what depends on several keys.
fn check(mut settings: Settings, gathered: &mut Gathered) -> Settings {
    let amqp = &mut settings.amqp;
    // The default password yields to a file and to a client certificate.
    let otherwise = amqp.password_file.is_some() || settings.ssl.certfile.is_some();
    let default = gathered.origin("amqp", "password") == ::settings::Origin::Default;
    let password = amqp.password.take().filter(|_| !(otherwise && default));
    amqp.password = read_password("amqp", password, amqp.password_file.as_deref(), gathered);
    forget_default_user("amqp", &mut amqp.username, &amqp.password, gathered);
    let enroll = &mut settings.enroll;
    let password = enroll.password.take();
    enroll.password = read_password("enroll", password, enroll.password_file.as_deref(), gathered);
    if enroll.management.is_some() {
        if enroll.username.is_empty() || enroll.password.is_none() {
            gathered.problem(
                "enroll",
                "management",
                "requires an administrator of RabbitMQ: set username and password_file",
            );
        }
        let of_one = |user: &String| !user.contains("{host_id}");
        if settings.amqp.host_user.as_ref().is_some_and(of_one) {
            gathered.problem(
                "amqp",
                "host_user",
                "does not contain {host_id}: all hosts that enrol would share one user",
            );
        }
    }
    check_pair("ssl", &settings.ssl.certfile, &settings.ssl.keyfile, gathered);
    check_pair("tls", &settings.tls.certfile, &settings.tls.keyfile, gathered);
    match settings.listen() {
        None => {
            let text = format!(
                "found {:?}, allowed: address:port (127.0.0.1:8082, [::]:8082)",
                settings.bbmaster.listen
            );
            gathered.problem("bbmaster", "listen", &text);
        }
        Some(address) if !address.ip().is_loopback() => check_network_access(&settings, gathered),
        Some(_) => {}
    }
    if let Some(url) = &settings.store.url
        && !["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| url.expose().starts_with(scheme))
    {
        let text = "found another value (not shown: it is a secret), allowed: postgres://user:password@host/database";
        gathered.problem("store", "url", text);
    }
    settings
}

/// Checks access from the network: TLS unless the settings accept plain text, and no access without
/// a token.
fn check_network_access(settings: &Settings, gathered: &mut Gathered) {
    let bbmaster = &settings.bbmaster;
    if settings.tls.certfile.is_none() && !bbmaster.accept_unencrypted_access_from_the_network {
        let text = format!(
            "{} is not a loopback address, and [tls] certfile and keyfile are not set: tokens and configs would \
             cross the network unencrypted. Set both, or accept this with \
             accept_unencrypted_access_from_the_network = true",
            bbmaster.listen
        );
        gathered.problem("bbmaster", "listen", &text);
    }
    if bbmaster.allow_anonymous == Anonymous::Yes {
        let text = format!(
            "true is allowed on loopback addresses only, and listen is {}",
            bbmaster.listen
        );
        gathered.problem("bbmaster", "allow_anonymous", &text);
    }
}
