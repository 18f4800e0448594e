//! The manifest contract: an application's services, config files and health checks, in TOML.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::formats::Format;

mod parse;

/// A valid manifest. docs/app-contract.md describes each field.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// In the order in which they are reloaded; `None`: the package decides.
    pub services: Option<Vec<String>>,
    pub sections: BTreeMap<String, ConfigSection>,
    pub on_change: OnChange,
    pub health: Vec<HealthCheck>,
    /// Unknown keys, with file and line.
    pub warnings: Vec<String>,
}

/// Where one section of the config is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigSection {
    /// Absolute, as the application names it (without the root), free of `..`.
    pub file: PathBuf,
    pub format: Format,
    /// The path of the table: the names from the top.
    pub table: Vec<String>,
    /// In an environment file, the part of each variable's name before the key.
    pub prefix: String,
    pub creation: Creation,
}

/// Mode and owner of a new file; an existing file keeps its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Creation {
    pub mode: u32,
    /// `user` or `user:group`, names or numbers.
    pub owner: Option<String>,
}

/// How running services read a changed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnChange {
    Reload,
    Restart,
    /// The application notices the change itself.
    Nothing,
}

/// Tells whether the application works.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheck {
    pub probe: Probe,
    pub interval: Duration,
    pub timeout: Duration,
    /// Failures in a row that make it unhealthy.
    pub retries: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// Exit code 0 is healthy. An argv, no shell; an absolute program path.
    Exec { command: Vec<String> },
    /// A 2xx answer, or exactly `status`, is healthy.
    Http { url: String, status: Option<u16> },
    /// An accepted connection is healthy. `host:port`.
    Tcp { address: String },
}

/// An error in a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {key}: {problem}", file = file.display())]
pub struct ManifestError {
    pub file: PathBuf,
    pub line: usize,
    /// Dotted path of the key; `(syntax)` if the file is not TOML.
    pub key: String,
    /// What was found, and what is allowed.
    pub problem: String,
}

#[cfg(test)]
mod tests;
