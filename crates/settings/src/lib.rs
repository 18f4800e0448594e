//! Settings of a program from INI file, drop-ins, environment and command line. Each overrides the
//! one before.
//!
//! A program lists every key once, with [`sections!`]. The typed settings, the output of
//! `check-config` and the commented default file are made from that list. A value passes through
//! these modules, in this order:
//!
//! | module | job |
//! |---|---|
//! | `table` | the list of sections and keys |
//! | `ini` | file -> lines |
//! | `source` | text of each key with its origin, from the four sources |
//! | `value` | one key's text -> typed value, range-checked |
//! | `secret` | values that are never printed |
//! | `check` | checks that need several keys or the file system |
//! | [`show`] | the settings as text |

mod table;
mod ini;
mod source;
mod value;
mod secret;
mod check;
pub mod show;

use std::collections::BTreeMap;
use std::fmt;

pub use check::{check_pair, forget_default_user, read_password};
pub use protocol::url::{ProxyUrl, without_credentials};
pub use secret::Secret;
pub use source::{Origin, Sources};
pub use table::{Key, Program, Section};
pub use value::{Kind, LogLevel, Parse, take};

/// Valid settings, the origin of each, and warnings for the operator.
#[derive(Debug, Clone)]
pub struct Loaded<S> {
    pub settings: S,
    /// One line each, with its place. They never contain a secret.
    pub warnings: Vec<String>,
    /// What was set, by section and key. A key that is not in this map has its default.
    origins: BTreeMap<(&'static str, &'static str), Setting>,
}

/// One value as text, with its origin.
#[derive(Clone)]
struct Setting {
    raw: String,
    origin: Origin,
}

/// The value may be a secret. Only [`show`] decides whether it may be printed.
impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "set by {}", self.origin)
    }
}

/// All reasons why the program cannot start with these settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError {
    /// One line each: file, line, key, what was found, what is allowed.
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

/// Values gathered from the sources, with problems and warnings.
#[derive(Default)]
pub struct Gathered {
    values: BTreeMap<(&'static str, &'static str), Setting>,
    pub problems: Vec<String>,
    pub warnings: Vec<String>,
}

impl Gathered {
    /// Returns `settings` if they could be parsed and there are no problems; else all problems.
    pub fn finish<S>(mut self, settings: Option<S>) -> Result<Loaded<S>, SettingsError> {
        for message in self.problems.iter_mut().chain(&mut self.warnings) {
            *message = on_one_line(message);
        }
        match settings {
            Some(settings) if self.problems.is_empty() => Ok(Loaded {
                settings,
                warnings: self.warnings,
                origins: self.values,
            }),
            _ => Err(SettingsError {
                problems: self.problems,
                warnings: self.warnings,
            }),
        }
    }
}

/// Escapes control characters. Names in a file or of a variable may contain any character, and
/// messages about them are logged.
fn on_one_line(message: &str) -> String {
    let mut line = String::with_capacity(message.len());
    for c in message.chars() {
        match c.is_control() {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
    line
}

impl<S> Loaded<S> {
    /// Where a key's value came from.
    pub fn origin(&self, section: &'static str, key: &'static str) -> Origin {
        self.setting(section, key)
            .map_or(Origin::Default, |setting| setting.origin.clone())
    }

    fn setting(&self, section: &'static str, key: &'static str) -> Option<&Setting> {
        self.origins.get(&(section, key))
    }
}
