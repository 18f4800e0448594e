//! The table of all keys. Everything else about settings follows from it.

use std::path::PathBuf;
use std::time::Duration;

use ::settings::{Kind, LogLevel, Program, Secret};

use super::Anonymous;

/// The program that the settings belong to.
pub const PROGRAM: Program = Program {
    name: "bbmaster",
    about: "settings of the Backbone master",
    main_file: "/etc/pf9/bbmaster.conf",
    sections: SECTIONS,
    examples: [("bbmaster", "listen"), ("amqp", "host")],
};

const DAY: u64 = 24 * 60 * 60;

::settings::sections! {
    /// The master itself.
    bbmaster: BbmasterSettings {
        /// Address and port of the REST API and the web page.
        listen: String = "127.0.0.1:8082", Kind::Text;
        /// Folder of the SQLite database. Not used if [store] url is set.
        state_dir: PathBuf = "/var/lib/bbmaster", Kind::Path;
        /// Full access without a token on loopback addresses. auto: until a token is first made.
        allow_anonymous: Anonymous = "auto", Kind::Choice(Anonymous::NAMES);
        /// true: listen on the network without TLS. Tokens and configs can be read on the way.
        accept_unencrypted_access_from_the_network: bool = "false", Kind::Bool;
        /// Lowest level to log.
        log_level_name: LogLevel = "INFO", Kind::Choice(LogLevel::NAMES);
        /// A host that has not reported for this time is shown as not responding.
        silent_after: Duration = "180", Kind::Seconds { min: 1, max: DAY };
        /// Events older than this are deleted.
        event_retention: Duration = "30d", Kind::Seconds { min: 60, max: 36500 * DAY };
        /// If there are more events, the oldest are deleted.
        max_events: u64 = "1000000", Kind::Count { min: 1000, max: 1_000_000_000 };
        /// Pings per second when all hosts are pinged. A smaller fleet is pinged with one message.
        ping_rate: u32 = "500", Kind::Count { min: 1, max: 100_000 };
        /// Time to wait for the plan of a host (`?dry_run=true`).
        plan_timeout: Duration = "30", Kind::Seconds { min: 1, max: 600 };
    }

    /// The database.
    store: StoreSettings {
        /// postgres://user:password@host/database. Default: SQLite in state_dir.
        url: Option<Secret> = "", Kind::Secret;
        /// Connections to PostgreSQL, at most.
        max_connections: u32 = "10", Kind::Count { min: 2, max: 1000 };
    }

    /// The RabbitMQ broker.
    amqp: AmqpSettings {
        /// Name or address of the broker.
        host: String = "localhost", Kind::Text;
        /// Port of the broker. Default: 5671, or 5672 without TLS.
        port: Option<u16> = "", Kind::Port;
        /// The user of the masters at the broker. Without a password: the name in [ssl] certfile.
        username: String = "guest", Kind::Text;
        /// Password of the user. Prefer password_file.
        password: Option<Secret> = "guest", Kind::Secret;
        /// File that contains only the password. Overrides password.
        password_file: Option<PathBuf> = "", Kind::Path;
        /// Virtual host of the broker.
        virtual_host: String = "/", Kind::Text;
        /// Queue that all masters consume from.
        queue_name: String = "bbmaster-q", Kind::Text;
        /// Messages that the broker delivers to this master before an acknowledgement.
        prefetch: u32 = "2000", Kind::Count { min: 1, max: 65_535 };
        /// The connection is closed if the broker is silent for twice this time.
        amqp_heartbeat_interval: Duration = "30", Kind::Seconds { min: 1, max: 3600 };
        /// Time limit for connecting: TCP, TLS and AMQP together.
        connect_timeout: Duration = "10", Kind::Seconds { min: 1, max: 300 };
        /// First pause before connecting again. It doubles up to 10 s (or to this, if longer).
        connection_retry_period: Duration = "2", Kind::Seconds { min: 1, max: 300 };
        /// true: accept only statuses whose sender the broker has verified (AMQP `user_id`).
        require_user_id: bool = "false", Kind::Bool;
        /// User that must have sent a host's statuses (`{host_id}`: its id). Default: any user.
        host_user: Option<String> = "", Kind::Text;
        /// Longer statuses are refused.
        max_message_size: u64 = "4MiB", Kind::Size { min: 1024, max: 64 << 20 };
    }

    /// TLS to the broker.
    ssl: SslSettings {
        /// PEM file of the master's certificate chain, for a broker that requires one.
        certfile: Option<PathBuf> = "", Kind::Path;
        /// PEM file of the private key.
        keyfile: Option<PathBuf> = "", Kind::Path;
        /// PEM file of the trusted authorities for the broker. Default: those of this host.
        ca_certs: Option<PathBuf> = "", Kind::Path;
        /// true: no TLS. Default: no TLS to a broker on this machine (localhost), else TLS.
        disable: Option<bool> = "", Kind::Bool;
    }

    /// Enrolment (`hostagent enroll`): the master creates the user of each new host at the broker.
    enroll: EnrollSettings {
        /// RabbitMQ's management API (https://rabbit.example.net:15671). Default: no enrolment.
        management: Option<String> = "", Kind::Text;
        /// User name of an administrator of RabbitMQ. Only administrators may create users.
        username: String = "", Kind::Text;
        /// Password of the administrator. Prefer password_file.
        password: Option<Secret> = "", Kind::Secret;
        /// File that contains only the password. Overrides password.
        password_file: Option<PathBuf> = "", Kind::Path;
        /// PEM file of authorities trusted for an https management API. Default: this host's.
        management_ca: Option<PathBuf> = "", Kind::Path;
        /// Name of the broker that hosts are told. Default: [amqp] host.
        amqp_host: Option<String> = "", Kind::Text;
        /// Broker's port that hosts are told. Default: [amqp] port, or the usual one for amqp_tls.
        amqp_port: Option<u16> = "", Kind::Port;
        /// Whether hosts use TLS to the broker. Default: if amqp_ca is set, else as the master.
        amqp_tls: Option<bool> = "", Kind::Bool;
        /// PEM file of the authorities that hosts trust for the broker. Default: the host's own.
        amqp_ca: Option<PathBuf> = "", Kind::Path;
    }

    /// TLS of the REST API. Set both files. Renewed files are used from the next connection on.
    tls: TlsSettings {
        /// PEM file of the certificate chain.
        certfile: Option<PathBuf> = "", Kind::Path;
        /// PEM file of its private key.
        keyfile: Option<PathBuf> = "", Kind::Path;
    }
}
