//! The agent's settings. How they are read: the crate `settings`.
//!
//! [`table`] lists every key once; everything else follows from it.

mod check;
pub mod table;

pub use ::settings::{
    Gathered, Kind, LogLevel, Origin, ProxyUrl, Secret, SettingsError, Sources, without_credentials,
};
pub use table::{AmqpSettings, DownloadSettings, HostagentSettings, PROGRAM, Settings, SslSettings};

use std::path::PathBuf;

use host::download::DownloadOptions;
use host::{Family, HostOptions, Root};

/// The effective settings, and the source of each.
pub type Loaded = ::settings::Loaded<Settings>;

/// The settings as text: the effective ones, and the commented default file.
pub mod show {
    use super::{Loaded, PROGRAM};

    /// All settings with their sources, in the form of an INI file. Secrets are hidden.
    pub fn effective(loaded: &Loaded) -> String {
        ::settings::show::effective(&PROGRAM, loaded)
    }

    /// `dist/hostagent.conf`.
    pub fn default_file() -> String {
        ::settings::show::default_file(&PROGRAM)
    }
}

/// The environment variable of a key.
pub fn variable_name(section: &str, key: &str) -> String {
    PROGRAM.variable_name(section, key)
}

/// Which package manager to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackageFamily {
    /// The one that the host has.
    Auto,
    Fixed(Family),
}

impl PackageFamily {
    pub const NAMES: &'static [&'static str] = &["auto", "deb", "rpm"];
}

impl ::settings::Parse for PackageFamily {
    fn parse(raw: &str, _: &Kind) -> Option<Self> {
        match raw.to_ascii_lowercase().as_str() {
            "auto" => Some(Self::Auto),
            "deb" => Some(Self::Fixed(Family::Deb)),
            "rpm" => Some(Self::Fixed(Family::Rpm)),
            _ => None,
        }
    }
}

impl Settings {
    /// Reads all sources. An error lists all problems.
    pub fn load(sources: &Sources) -> Result<Loaded, SettingsError> {
        Self::from_gathered(sources.gather(&PROGRAM))
    }

    /// The same, from sources that were read already.
    pub fn from_gathered(mut gathered: Gathered) -> Result<Loaded, SettingsError> {
        let settings = Self::parse(&mut gathered)
            .map(|settings| check::read_password_and_check(settings, &mut gathered));
        gathered.finish(settings)
    }

    /// The folder that all paths of the host are below.
    pub fn root(&self) -> Root {
        Root::new(&self.hostagent.root)
    }

    /// The folder of the agent's state; a real path.
    pub fn state_dir(&self) -> PathBuf {
        self.root().join(&self.hostagent.state_dir)
    }

    /// Options of the facilities of this host.
    pub fn host_options(&self) -> HostOptions {
        let root = self.root();
        HostOptions {
            family: match self.hostagent.package_family {
                PackageFamily::Auto => None,
                PackageFamily::Fixed(family) => Some(family),
            },
            state_dir: self.state_dir(),
            cache_dir: root.join(&self.hostagent.app_cache_dir),
            download: self.download_options(),
            root,
        }
    }

    fn download_options(&self) -> DownloadOptions {
        let download = self.download.clone();
        DownloadOptions {
            allow_file_urls: self.hostagent.allow_file_urls,
            http_proxy: download.http_proxy,
            https_proxy: download.https_proxy,
            no_proxy: download.no_proxy,
            max_size: download.max_size,
            stall_timeout: download.stall_timeout,
            min_rate: download.min_rate,
            max_parallel: download.max_parallel,
            max_cache_size: download.max_cache_size,
            max_redirects: download.max_redirects,
            ca_certs: download.ca_certs,
            certfile: download.certfile,
            keyfile: download.keyfile,
        }
    }

    /// The port in the settings, otherwise the registered one for AMQP with or without TLS.
    pub fn amqp_port(&self) -> u16 {
        self.amqp.port.unwrap_or(match self.ssl.disable {
            true => 5672,
            false => 5671,
        })
    }
}
