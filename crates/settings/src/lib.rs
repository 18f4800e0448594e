//! Settings: INI file, drop-ins, environment, command line, each over the one before.
//!
//! A program lists every key once, with [`sections!`]; the typed settings, what `check-config` prints and the
//! commented default file all come from it. The way of a value: [`source`] (text with its origin, from four
//! places) -> [`value`] (one key's text, parsed and range-checked) -> [`check`] (what only several keys
//! together can tell) -> [`Gathered::finish`].

mod check;
mod ini;
mod secret;
pub mod show;
mod source;
mod table;
mod value;

use std::collections::BTreeMap;
use std::fmt;

pub use check::{check_pair, forget_default_user, read_password};
pub use protocol::url::{ProxyUrl, without_credentials};
pub use secret::Secret;
pub use source::{Origin, Sources};
pub use table::{Key, Program, Section};
pub use value::{Kind, LogLevel, Parse, take};

/// Settings that hold, where each came from, and what to tell the operator about them.
#[derive(Debug, Clone)]
pub struct Loaded<S> {
    pub settings: S,
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

/// Every reason why the program can't start with these settings, not only the first.
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
pub struct Gathered {
    values: BTreeMap<(&'static str, &'static str), Setting>,
    pub problems: Vec<String>,
    pub warnings: Vec<String>,
}

impl Gathered {
    /// `settings`, if they could be parsed and nothing was wrong; else everything that is wrong.
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

/// Names in a file or of a variable may hold anything; what is said of them stands in a log.
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
