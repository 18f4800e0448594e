//! The package manager: dpkg/apt or rpm/dnf.
//!
//! On the host itself apt-get or dnf makes every change, with its own history, hooks, pins and
//! locks. Under a sandbox root dpkg or rpm does, without privileges: maintainer scripts run as
//! processes of the real host and find the root in `BACKBONE_ROOT` (and dpkg's own `DPKG_ROOT`).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use protocol::{AppName, Category};

use super::command::Runner;
use crate::{HostError, Root};

mod facility;
mod installed;
mod cache;
mod deb;
#[doc(hidden)]
pub mod fuzzing;
mod lock;
mod messages;
mod offers;
mod outcome;
mod rpm;
mod runs;
mod space;
mod version;

pub use facility::{
    Applied, ApplyError, EarlierRuns, Family, PackageFile, PackageVersion, Packages, Simulation, Source,
    Transaction,
};
pub use installed::{InstalledPackage, InstalledPackages, PackagesByName};

pub use deb::Deb;
pub use rpm::Rpm;
pub use version::compare as compare_versions;

use facility::describe;

/// Names the sandbox root to every process that runs inside it.
pub const ROOT_VARIABLE: &str = "BACKBONE_ROOT";
/// The virtual package that marks an application.
const APPLICATION_MARK: &str = "pf9app";

/// Settings of the package manager.
#[derive(Debug, Clone)]
pub struct Options {
    /// `None`: detected.
    pub family: Option<Family>,
    /// For one run of the package manager, maintainer scripts included. Then its process group is
    /// killed.
    pub deadline: Duration,
    /// Package lists are refreshed when a version is not offered, and then not again within this
    /// time.
    pub refresh_interval: Duration,
    /// Runs queries of repositories; `None`: the agent runs them itself.
    pub runner: Option<Arc<Runner>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            family: None,
            deadline: Duration::from_secs(15 * 60),
            refresh_interval: Duration::from_secs(60 * 60),
            runner: None,
        }
    }
}

/// The package manager of `root`: by the package database that it has; if it has none or both, by
/// the tools that the host has, dpkg first.
pub fn detect(root: &Root, options: Options) -> Result<Arc<dyn Packages>, HostError> {
    let family = match options.family {
        Some(family) => family,
        None => detect_family(root)?,
    };
    Ok(match family {
        Family::Deb => Arc::new(Deb::new(root.clone(), options)),
        Family::Rpm => Arc::new(Rpm::new(root.clone(), options)),
    })
}

fn detect_family(root: &Root) -> Result<Family, HostError> {
    // An rpm host may have a dpkg database that is empty, left by alien or debootstrap.
    let has_deb = deb::has_packages(root);
    let has_rpm = rpm::database_folder(root).is_some();
    match (has_deb, has_rpm) {
        (true, false) => Ok(Family::Deb),
        (false, true) => Ok(Family::Rpm),
        (true, true) | (false, false) if is_installed("dpkg") => Ok(Family::Deb),
        (true, true) | (false, false) if is_installed("rpm") => Ok(Family::Rpm),
        (true, true) | (false, false) => Err(HostError::new(
            Category::Host,
            "no package manager: neither dpkg nor rpm is installed on this host",
        )),
    }
}

fn is_installed(program: &str) -> bool {
    let folders = [
        "/usr/bin",
        "/bin",
        "/usr/local/bin",
        "/usr/sbin",
        "/sbin",
        "/usr/local/sbin",
    ];
    folders
        .iter()
        .any(|folder| Path::new(folder).join(program).is_file())
}

/// Refuses names and versions that could be read as options, paths or globs.
fn check_words(transaction: &Transaction) -> Result<(), HostError> {
    for source in &transaction.install {
        match source {
            Source::File(file) => {
                check_name(&file.name)?;
                check_path(&file.path)?;
            }
            Source::Repository { name, version } => {
                check_name(name)?;
                check_version(version)?;
            }
        }
    }
    transaction.remove.iter().try_for_each(|name| check_name(name))
}

fn check_name(name: &str) -> Result<(), HostError> {
    protocol::name::check_plain_name(name, AppName::MAX_LEN).map_err(|error| {
        let shown: String = name.chars().take(64).collect();
        HostError::new(Category::Invalid, format!("package name {shown:?} {error}"))
    })
}

fn check_version(version: &str) -> Result<(), HostError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".+-:~^_".contains(c);
    if version.starts_with(|c: char| c.is_ascii_alphanumeric())
        && version.len() <= 256
        && version.chars().all(plain)
    {
        return Ok(());
    }
    let shown: String = version.chars().take(64).collect();
    Err(HostError::new(
        Category::Invalid,
        format!("version {shown:?} is not valid: only letters, digits and . + - : ~ ^ _ are allowed"),
    ))
}

fn check_path(path: &Path) -> Result<(), HostError> {
    match path.is_absolute() {
        true => Ok(()),
        false => Err(HostError::new(
            Category::Invalid,
            format!("{} is not an absolute path", path.display()),
        )),
    }
}

fn no_repositories(package: &str, root: &Root) -> HostError {
    let root = root.path().display();
    let message = format!("package {package} needs a url: the sandbox root {root} has no repositories");
    HostError::new(Category::NotFound, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_an_option_a_path_or_a_glob_is_refused() {
        let removal = |name: &str| Transaction {
            install: Vec::new(),
            remove: vec![name.into()],
        };
        for name in [
            "-h",
            "--eval=%(id)",
            "../x",
            "",
            "a b",
            "a*",
            "a=1",
            "a/b",
            "a\0",
            &"x".repeat(10_000),
        ] {
            let refused = check_words(&removal(name)).unwrap_err();
            assert_eq!(refused.category, Category::Invalid, "{name}");
            assert!(refused.message.len() < 300, "{}", refused.message);
        }
        check_words(&removal("libstdc++6_x.y")).unwrap();
        for version in ["-1", "", "1 2", "1/../..", "$(id)", "1*"] {
            let install = vec![Source::Repository {
                name: "app".into(),
                version: version.into(),
            }];
            let refused = check_words(&Transaction {
                install,
                remove: Vec::new(),
            })
            .unwrap_err();
            assert_eq!(refused.category, Category::Invalid, "{version}");
        }
    }
}
