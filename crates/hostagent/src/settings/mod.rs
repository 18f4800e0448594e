//! Settings: INI file, drop-ins, environment, command line, each over the one before.
//!
//! [`table`] lists every key once; the typed [`Settings`], `check-config`'s output and the commented
//! default file all come from it. The way of a value: [`source`] (text with its origin, from four
//! places) -> [`value`] (one key's text, parsed and range-checked) -> [`check`] (what only several
//! keys together can tell) -> [`Settings`].

mod check;
mod ini;
mod secret;
pub mod show;
mod source;
pub mod table;
mod value;

use std::collections::BTreeMap;
use std::fmt;

pub use secret::{ProxyUrl, Secret, without_credentials};
pub use source::{MAIN_FILE, Origin, Sources, variable_name};
pub use table::{AmqpSettings, DownloadSettings, HostagentSettings, Settings, SslSettings};
pub use value::{Kind, LogLevel, PackageFamily};

use crate::host::Root;

/// Settings that hold, where each came from, and what to tell the operator about them.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub settings: Settings,
    /// Whole sentences with their place; never holding a secret.
    pub warnings: Vec<String>,
    /// What was set, by section and key; a key that is not in here has its default.
    origins: BTreeMap<(&'static str, &'static str), Setting>,
}

/// One value as it was found.
#[derive(Clone)]
struct Setting {
    raw: String,
    origin: Origin,
}

/// It may be a secret: only [`show`] knows whether it may be printed.
impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "set by {}", self.origin)
    }
}

/// Every reason why the agent can't start with these settings, not only the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError {
    /// One whole line each: file, line, key, what was found, what is allowed.
    pub problems: Vec<String>,
    pub warnings: Vec<String>,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the settings are not valid:")?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for SettingsError {}

/// What is gathered on the way: values, and what to say about them.
#[derive(Default)]
struct Gathered {
    values: BTreeMap<(&'static str, &'static str), Setting>,
    problems: Vec<String>,
    warnings: Vec<String>,
}

impl Settings {
    /// Reads all sources. Errors list everything that is wrong.
    pub fn load(sources: &Sources) -> Result<Loaded, SettingsError> {
        let mut gathered = sources.gather();
        let settings = Settings::parse(&mut gathered)
            .map(|settings| check::read_password_and_check(settings, &mut gathered));
        match settings {
            Some(settings) if gathered.problems.is_empty() => Ok(Loaded {
                settings,
                warnings: gathered.warnings,
                origins: gathered.values,
            }),
            _ => Err(SettingsError {
                problems: gathered.problems,
                warnings: gathered.warnings,
            }),
        }
    }

    /// The folder that all of the host's paths hang off.
    pub fn root(&self) -> Root {
        Root::new(&self.hostagent.root)
    }

    /// The port that is set, else the registered one for TLS or for plain AMQP.
    pub fn amqp_port(&self) -> u16 {
        self.amqp.port.unwrap_or(match self.ssl.disable {
            true => 5672,
            false => 5671,
        })
    }
}

impl Loaded {
    /// Where a key's value came from.
    pub fn origin(&self, section: &'static str, key: &'static str) -> Origin {
        self.setting(section, key)
            .map_or(Origin::Default, |setting| setting.origin.clone())
    }

    fn setting(&self, section: &'static str, key: &'static str) -> Option<&Setting> {
        self.origins.get(&(section, key))
    }
}
