//! The real facilities of a host.

use std::path::PathBuf;
use std::sync::Arc;

use crate::app_config::Contracts;
use crate::command::Runner;
use crate::download::{DownloadOptions, Downloader};
use crate::{Family, Host, HostError, Root, packages, services};

/// Options of the facilities of a host.
#[derive(Debug, Clone)]
pub struct HostOptions {
    pub root: Root,
    /// `None`: the package manager that the host has.
    pub family: Option<Family>,
    /// For the facilities' own state files; a real path.
    pub state_dir: PathBuf,
    /// For downloaded packages; a real path.
    pub cache_dir: PathBuf,
    pub download: DownloadOptions,
}

pub fn open(options: HostOptions) -> Result<Host, HostError> {
    let HostOptions {
        root,
        family,
        state_dir,
        cache_dir,
        download,
    } = options;
    let runner = Runner::of(&root);
    let packages = packages::detect(
        &root,
        packages::Options {
            family,
            runner: runner.clone(),
            ..packages::Options::default()
        },
    )?;
    let services = services::detect(&root, runner.as_ref());
    let downloads = Arc::new(Downloader::new(
        &root,
        cache_dir,
        download,
        packages.family().extension(),
    ));
    let app_config = Arc::new(Contracts::new(root, services.clone(), &state_dir).runner(runner));
    Ok(Host {
        packages,
        services,
        app_config,
        downloads,
    })
}
