//! The manifest contract: an application's services, config files and health checks, in TOML.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::formats::Format;

mod parse;

/// A valid manifest. What each field means to a packager: docs/app-contract.md.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// In the order in which they are reloaded; `None`: left to the package.
    pub services: Option<Vec<String>>,
    pub sections: BTreeMap<String, Section>,
    pub on_change: OnChange,
    pub health: Vec<HealthCheck>,
    /// Keys that mean nothing here, with file and line.
    pub warnings: Vec<String>,
}

/// Where one section of the config lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Absolute, as the application names it (without the root), free of `..`.
    pub file: PathBuf,
    pub format: Format,
    /// Names of the tables to go through.
    pub table: Vec<String>,
    /// What the names of an environment file's variables begin with, before the key.
    pub prefix: String,
    pub creation: Creation,
}

/// How a file is made if it does not exist; one that does keeps its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Creation {
    pub mode: u32,
    /// `user` or `user:group`, names or numbers.
    pub owner: Option<String>,
}

/// What running services do after a file has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnChange {
    Reload,
    Restart,
    /// The application notices by itself.
    Nothing,
}

/// Says whether the application works.
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
    /// Exit code 0 is healthy. An argv, no shell; the program is absolute.
    Exec { command: Vec<String> },
    /// A 2xx answer, or exactly `status`, is healthy.
    Http { url: String, status: Option<u16> },
    /// An accepted connection is healthy. `host:port`.
    Tcp { address: String },
}

/// What is wrong in a manifest, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {key}: {problem}", file = file.display())]
pub struct ManifestError {
    pub file: PathBuf,
    pub line: usize,
    /// Dotted path of the key; `(syntax)` where it is no TOML at all.
    pub key: String,
    /// What was found and what is allowed.
    pub problem: String,
}

#[cfg(test)]
mod tests;
