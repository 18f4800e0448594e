//! The facilities of a Linux host. Each has a folder, and in its `facility.rs` one small trait:
//! what the engine calls. The folder holds the real implementation, or one for each package family
//! and init system; [`fake`] is a scripted one for tests (feature `testing`).
//!
//! All paths are below one [`Root`].

use std::collections::BTreeMap;
use std::sync::Arc;

// The facilities, in the order in which a change uses them.
mod open;
pub mod download;
pub mod packages;
pub mod app_config;
pub mod services;
pub mod facts;
#[cfg(feature = "testing")]
pub mod fake;

// Shared by them.
mod error;
pub mod root;
pub mod command;
mod systemd;
pub mod paths;
pub mod atomic_file;
pub mod processes;
mod hex;

pub use app_config::{AppConfig, Contract, ContractKind, Manifest};
pub use download::{Cancel, Download, Downloads};
pub use error::HostError;
pub use hex::hex;
pub use open::{HostOptions, open};
pub use packages::{
    Applied, ApplyError, EarlierRuns, Family, InstalledPackage, InstalledPackages, PackageFile,
    PackageVersion, Packages, PackagesByName, Simulation, Source, Transaction,
};
pub use root::Root;
pub use services::{ServiceState, Services};

/// The facilities of one host.
#[derive(Clone)]
pub struct Host {
    pub packages: Arc<dyn Packages>,
    pub services: Arc<dyn Services>,
    pub app_config: Arc<dyn AppConfig>,
    pub downloads: Arc<dyn Downloads>,
}

/// Facts for `info` of a status.
pub type Facts = BTreeMap<String, serde_json::Value>;
