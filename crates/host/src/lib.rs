//! A Linux host's facilities, one folder each with one small trait that holds only what the engine calls: a real
//! one (or one per package family and init system), and a scripted fake for tests (feature `testing`).
//!
//! All paths hang off one [`Root`].

use std::collections::BTreeMap;
use std::sync::Arc;

pub mod packages;
pub mod services;
pub mod app_config;
pub mod download;
pub mod command;
mod systemd;
pub mod facts;

pub mod atomic_file;
mod error;
#[cfg(feature = "testing")]
pub mod fake;
mod hex;
mod open;
pub mod paths;
pub mod processes;
pub mod root;

pub use app_config::{AppConfig, Contract, ContractKind, Manifest};
pub use download::{Cancel, Download, Downloads};
pub use error::HostError;
pub use hex::hex;
pub use open::{HostOptions, open};
pub use packages::{
    EarlierRuns, Family, InstalledPackage, InstalledPackages, PackageFile, Packages, PackagesByName,
    Relations, Source, Stamp, Transaction,
};
pub use root::Root;
pub use services::{ServiceState, Services};

/// The facilities of one host, as the engine holds them.
#[derive(Clone)]
pub struct Host {
    pub packages: Arc<dyn Packages>,
    pub services: Arc<dyn Services>,
    pub app_config: Arc<dyn AppConfig>,
    pub downloads: Arc<dyn Downloads>,
}

/// Facts for a status's `info`.
pub type Facts = BTreeMap<String, serde_json::Value>;
