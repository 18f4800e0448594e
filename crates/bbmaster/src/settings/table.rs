//! The one list of all keys. Everything else about settings follows from it.

use std::path::PathBuf;
use std::time::Duration;

use ::settings::{Kind, LogLevel, Program, Secret};

use super::Anonymous;

/// The master.
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
        /// Where the database is, unless [store] url names another.
        state_dir: PathBuf = "/var/lib/bbmaster", Kind::Path;
        /// Whether requests without a token may do all, on a loopback address. auto: until the first token is made.
        allow_anonymous: Anonymous = "auto", Kind::Choice(Anonymous::NAMES);
        /// true: listen beyond this machine without [tls], so that anyone on the way reads tokens and configs.
        accept_unencrypted_access_from_the_network: bool = "false", Kind::Bool;
        /// Least important lines to log.
        log_level_name: LogLevel = "INFO", Kind::Choice(LogLevel::NAMES);
        /// A host that has not reported for so long counts as not responding.
        silent_after: Duration = "180", Kind::Seconds { min: 1, max: DAY };
        /// Events are kept for so long.
        event_retention: Duration = "30d", Kind::Seconds { min: 60, max: 36500 * DAY };
        /// The oldest events go when there are more.
        max_events: u64 = "1000000", Kind::Count { min: 1000, max: 1_000_000_000 };
        /// Hosts to ping a second, when the master starts or all are pinged. Fleets below it are pinged at once.
        ping_rate: u32 = "500", Kind::Count { min: 1, max: 100_000 };
        /// Wait for a host's plan (`?dry_run=true`).
        plan_timeout: Duration = "30", Kind::Seconds { min: 1, max: 600 };
    }

    /// The database.
    store: StoreSettings {
        /// postgres://user:password@host/database. Not set: SQLite, in state_dir.
        url: Option<Secret> = "", Kind::Secret;
        /// Connections to PostgreSQL at the same time.
        max_connections: u32 = "10", Kind::Count { min: 2, max: 1000 };
    }

    /// The RabbitMQ broker.
    amqp: AmqpSettings {
        /// Name or address of the broker.
        host: String = "localhost", Kind::Text;
        /// Not set: 5671, or 5672 without TLS.
        port: Option<u16> = "", Kind::Port;
        /// The broker's user for masters; without a password, the name in [ssl] certfile.
        username: String = "guest", Kind::Text;
        /// Its password. Better: password_file.
        password: Option<Secret> = "guest", Kind::Secret;
        /// File that holds the password and nothing else; wins over password.
        password_file: Option<PathBuf> = "", Kind::Path;
        /// The broker's virtual host.
        virtual_host: String = "/", Kind::Text;
        /// The queue that all masters share.
        queue_name: String = "bbmaster-q", Kind::Text;
        /// Statuses under way to this master at a time.
        prefetch: u32 = "2000", Kind::Count { min: 1, max: 65_535 };
        /// A broker that is silent for twice this time is taken for lost.
        amqp_heartbeat_interval: Duration = "30", Kind::Seconds { min: 1, max: 3600 };
        /// Limit for connecting: TCP, TLS and AMQP together.
        connect_timeout: Duration = "10", Kind::Seconds { min: 1, max: 300 };
        /// First wait before the broker is tried again; doubles, at random, up to 5 minutes.
        connection_retry_period: Duration = "2", Kind::Seconds { min: 1, max: 300 };
        /// Whether a status counts only if the broker vouches for its sender (AMQP `user_id`).
        require_user_id: bool = "false", Kind::Bool;
        /// What that user must be; `{host_id}` stands for the host. Not set: any.
        host_user: Option<String> = "", Kind::Text;
        /// Longer statuses are refused.
        max_message_size: u64 = "4MiB", Kind::Size { min: 1024, max: 64 << 20 };
    }

    /// TLS to the broker.
    ssl: SslSettings {
        /// PEM file of the master's certificate chain, for brokers that ask for one.
        certfile: Option<PathBuf> = "", Kind::Path;
        /// PEM file of its private key.
        keyfile: Option<PathBuf> = "", Kind::Path;
        /// PEM file of the authorities that may vouch for the broker. Not set: those of the host.
        ca_certs: Option<PathBuf> = "", Kind::Path;
        /// true: plain text. Not set: plain text to a broker on this machine (localhost), TLS to all others.
        disable: Option<bool> = "", Kind::Bool;
    }

    /// Letting hosts in by tokens (`hostagent enroll`): the master makes each its user at the broker.
    enroll: EnrollSettings {
        /// RabbitMQ's management API (https://rabbit.example.net:15671). Not set: hosts cannot enrol.
        management: Option<String> = "", Kind::Text;
        /// An administrator of RabbitMQ: only those may make users.
        username: String = "", Kind::Text;
        /// Its password. Better: password_file.
        password: Option<Secret> = "", Kind::Secret;
        /// File that holds the password and nothing else; wins over password.
        password_file: Option<PathBuf> = "", Kind::Path;
        /// PEM file of the authorities that may vouch for an https management API. Not set: those of the host.
        management_ca: Option<PathBuf> = "", Kind::Path;
        /// What hosts are told is the broker's name. Not set: [amqp] host.
        amqp_host: Option<String> = "", Kind::Text;
        /// Its port. Not set: [amqp] port, or what is usual where amqp_tls differs.
        amqp_port: Option<u16> = "", Kind::Port;
        /// Whether hosts are to speak TLS. Not set: they are if there is an amqp_ca, else as the master does.
        amqp_tls: Option<bool> = "", Kind::Bool;
        /// PEM file of the authorities that vouch for the broker, for hosts to keep. Not set: the hosts' own.
        amqp_ca: Option<PathBuf> = "", Kind::Path;
    }

    /// TLS of the master's own listener. It needs both files; renewed ones count from the next connection.
    tls: TlsSettings {
        /// PEM file of the certificate chain.
        certfile: Option<PathBuf> = "", Kind::Path;
        /// PEM file of its private key.
        keyfile: Option<PathBuf> = "", Kind::Path;
    }
}
