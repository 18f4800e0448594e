//! The real facilities of a host, as its settings say.

use std::path::Path;
use std::sync::Arc;

use super::app_config::Contracts;
use super::command::Runner;
use super::download::Downloader;
use super::{Host, HostError, packages, services};
use crate::settings::{PackageFamily, Settings};

/// `state_dir`: a real path, for what the facilities must remember.
pub fn open(settings: &Settings, state_dir: &Path) -> Result<Host, HostError> {
    let root = settings.root();
    let family = match settings.hostagent.package_family {
        PackageFamily::Auto => None,
        PackageFamily::Fixed(family) => Some(family),
    };
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
    let app_config = Arc::new(Contracts::new(root, services.clone(), state_dir).runner(runner));
    Ok(Host {
        packages,
        services,
        app_config,
        downloads: Arc::new(Downloader::new(settings)),
    })
}
