//! The one list of all keys. Everything else about settings follows from it.

use std::path::PathBuf;
use std::time::Duration;

use protocol::HostId;

use ::settings::{Kind, LogLevel, Program, ProxyUrl, Secret};

use super::PackageFamily;

/// The agent.
pub const PROGRAM: Program = Program {
    name: "hostagent",
    about: "settings of the Backbone host agent",
    main_file: "/etc/pf9/hostagent.conf",
    sections: SECTIONS,
    examples: [("hostagent", "heartbeat_period"), ("amqp", "host")],
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

::settings::sections! {
    /// The agent itself.
    hostagent: HostagentSettings {
        /// The id of this host on the bus. Not set: the MAC address of the first network interface.
        host_id: Option<HostId> = "", Kind::HostId;
        /// Time between two statuses that the agent sends by itself.
        heartbeat_period: Duration = "60", Kind::Seconds { min: 1, max: 86_400 };
        /// First pause before the agent reconnects to the broker; it doubles, with jitter, up to 5 minutes.
        connection_retry_period: Duration = "5", Kind::Seconds { min: 1, max: 300 };
        /// Folder of downloaded packages.
        app_cache_dir: PathBuf = "/var/cache/pf9apps", Kind::Path;
        /// Folder of the agent's state: desired state, progress of applications, managed applications.
        state_dir: PathBuf = "/var/lib/hostagent", Kind::Path;
        /// Folder to use as the host's `/`: packages, services and the two folders above are below it.
        root: PathBuf = "/", Kind::Path;
        /// The least important messages to log.
        log_level_name: LogLevel = "INFO", Kind::Choice(LogLevel::NAMES);
        /// After so many crashes of the agent during one change, the change is rolled back.
        max_converge_attempts: u32 = "5", Kind::Count { min: 1, max: 1000 };
        /// How long changed applications must stay healthy until the change is complete.
        bake_period: Duration = "30", Kind::Seconds { min: 0, max: 3600 };
        /// An upgraded agent that sends no status within this time after its bake_period is rolled back.
        own_upgrade_deadline: Duration = "180", Kind::Seconds { min: 10, max: 3600 };
        /// Larger messages are refused.
        max_message_size: u64 = "1MiB", Kind::Size { min: KIB, max: 64 * MIB };
        /// The package manager; auto: the one that the host has.
        package_family: PackageFamily = "auto", Kind::Choice(PackageFamily::NAMES);
        /// Allow `file:` URLs for packages.
        allow_file_urls: bool = "false", Kind::Bool;
    }

    /// The RabbitMQ broker.
    amqp: AmqpSettings {
        /// Name or address of the broker.
        host: String = "localhost", Kind::Text;
        /// Port of the broker. Not set: 5671, or 5672 if `[ssl] disable` is true.
        port: Option<u16> = "", Kind::Port;
        /// The broker's user for this host; without a password, the name in [ssl] certfile.
        username: String = "bbslave", Kind::Text;
        /// Password of this user. Better: use password_file.
        password: Option<Secret> = "", Kind::Secret;
        /// File that contains only the password; it has precedence over password.
        password_file: Option<PathBuf> = "", Kind::Path;
        /// The broker's virtual host.
        virtual_host: String = "/", Kind::Text;
        /// The host's queue. Not set: `bbslave-q-` and the host id.
        queue_name: Option<String> = "", Kind::Text;
        /// The connection counts as lost after twice this time without data from the broker.
        amqp_heartbeat_interval: Duration = "30", Kind::Seconds { min: 1, max: 3600 };
        /// For TCP, TLS and AMQP together.
        connect_timeout: Duration = "10", Kind::Seconds { min: 1, max: 300 };
        /// Broker users whose messages the agent accepts. Not set: all users.
        trusted_users: Vec<String> = "", Kind::List;
    }

    /// TLS to the broker, on unless disabled.
    ssl: SslSettings {
        /// PEM file of this host's certificate chain, for brokers that require one.
        certfile: Option<PathBuf> = "", Kind::Path;
        /// PEM file of its private key.
        keyfile: Option<PathBuf> = "", Kind::Path;
        /// PEM file of the authorities trusted for the broker. Not set: those of the host.
        ca_certs: Option<PathBuf> = "", Kind::Path;
        /// true: connect to the broker without TLS. For a broker on the same host, and for tests.
        disable: bool = "false", Kind::Bool;
    }

    /// Downloads of packages.
    download: DownloadSettings {
        /// Proxy for http URLs.
        http_proxy: Option<ProxyUrl> = "", Kind::ProxyUrl;
        /// Proxy for https URLs.
        https_proxy: Option<ProxyUrl> = "", Kind::ProxyUrl;
        /// Hosts without a proxy: names (with all names below), addresses or networks; or `*` for all.
        no_proxy: Vec<String> = "", Kind::List;
        /// Larger packages are refused.
        max_size: u64 = "2GiB", Kind::Size { min: KIB, max: TIB };
        /// A download below min_rate for this time is interrupted and resumed later.
        stall_timeout: Duration = "60", Kind::Seconds { min: 1, max: 3600 };
        /// Bytes a second; 0: any speed above 0.
        min_rate: u64 = "1024", Kind::Size { min: 0, max: GIB };
        /// Parallel downloads.
        max_parallel: u32 = "4", Kind::Count { min: 1, max: 64 };
        /// When the cache is larger, unused packages are deleted, the oldest first.
        max_cache_size: u64 = "4GiB", Kind::Size { min: 0, max: 1024 * TIB };
        /// Redirects for one package.
        max_redirects: u32 = "5", Kind::Count { min: 0, max: 20 };
        /// PEM file of the authorities trusted for https servers. Not set: those of the host.
        ca_certs: Option<PathBuf> = "", Kind::Path;
        /// PEM file of this host's certificate chain, for https servers that require one.
        certfile: Option<PathBuf> = "", Kind::Path;
        /// PEM file of its private key.
        keyfile: Option<PathBuf> = "", Kind::Path;
    }
}
