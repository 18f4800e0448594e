//! dnf and its predecessor yum: their arguments and their output.

use std::cmp::Ordering;
use std::ffi::OsString;

use super::database::without_zero_epoch;
use crate::packages::{compare_versions, is_installed};
use crate::{Family, InstalledPackages, PackageVersion, Simulation, Source, Transaction};

/// The program that resolves dependencies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnfTool {
    Dnf,
    /// Up to RHEL 7.
    Yum,
}

impl DnfTool {
    pub fn of_host() -> Self {
        if is_installed("dnf") { Self::Dnf } else { Self::Yum }
    }
}

/// The verb for `source`: `install`, `downgrade` or `reinstall`.
pub fn verb_for(tool: DnfTool, source: &Source, installed: &InstalledPackages) -> &'static str {
    let (name, version) = match source {
        Source::File(file) => (&file.name, &file.version),
        Source::Repository { name, version } => (name, version),
    };
    let order = installed
        .get(name)
        .map(|now| compare_versions(Family::Rpm, version, now.version));
    match (order, tool) {
        (Some(Ordering::Equal), _) => "reinstall",
        (Some(Ordering::Less), DnfTool::Yum) => "downgrade",
        (Some(Ordering::Less), DnfTool::Dnf) | (Some(Ordering::Greater) | None, _) => "install",
    }
}

/// A path, or `NAME-[EPOCH:]VERSION-RELEASE`.
pub fn argument(source: &Source) -> OsString {
    match source {
        Source::File(file) => file.path.clone().into_os_string(),
        Source::Repository { name, version } => format!("{name}-{version}").into(),
    }
}

/// Versions in lines `NAME EPOCH:VERSION-RELEASE`.
pub fn repoquery_versions(output: &str, package: &str) -> Vec<String> {
    let lines = output.lines().filter_map(|line| line.trim().split_once(' '));
    lines
        .filter(|(name, _)| *name == package)
        .map(|(_, version)| without_zero_epoch(version.trim()).to_owned())
        .collect()
}

/// Versions in lines `NAME.ARCH [EPOCH:]VERSION-RELEASE REPOSITORY`.
pub fn yum_versions(output: &str, package: &str) -> Vec<String> {
    let lines = output.lines().map(str::split_whitespace);
    lines
        .filter_map(|mut fields| match (fields.next(), fields.next(), fields.next()) {
            (Some(name), Some(version), Some(_))
                if name.rsplit_once('.').is_some_and(|(name, _)| name == package) =>
            {
                Some(without_zero_epoch(version).to_owned())
            }
            _ => None,
        })
        .collect()
}

/// Whether dnf has printed its plan.
pub fn is_plan(output: &str) -> bool {
    output
        .lines()
        .any(|line| line.trim_end() == "Transaction Summary")
}

/// Adds what dnf's table of packages names besides `transaction`. Under headings that end with a
/// colon it has a line ` NAME ARCH VERSION REPOSITORY SIZE` for each package; a long name has a
/// line of its own. What a package replaces stands below it.
pub fn add_plan(output: &str, transaction: &Transaction, simulation: &mut Simulation) {
    let mut removes = None;
    let mut long_name = None;
    for line in output
        .lines()
        .take_while(|line| line.trim_end() != "Transaction Summary")
    {
        if let Some(heading) = line.strip_suffix(':').filter(|heading| !heading.starts_with(' ')) {
            removes = match heading.split(' ').next() {
                Some("Removing") => Some(true),
                Some("Installing" | "Upgrading" | "Downgrading" | "Reinstalling") => Some(false),
                _ => None,
            };
            continue;
        }
        let Some(removes) = removes.filter(|_| line.starts_with(' ')) else {
            continue;
        };
        let words: Vec<&str> = line.split_whitespace().collect();
        let (is_removal, name, version) = match *words {
            ["replacing", package, version, ..] => (
                true,
                package.rsplit_once('.').map_or(package, |(name, _)| name),
                version,
            ),
            [name] => {
                long_name = Some(name);
                continue;
            }
            [first, second, third, ..] => match long_name.take() {
                Some(name) => (removes, name, second),
                None => (removes, first, third),
            },
            _ => continue,
        };
        let is_named = transaction.install.iter().any(|source| source.name() == name)
            || transaction.remove.iter().any(|remove| remove == name);
        if !is_named {
            let list = if is_removal {
                &mut simulation.removes
            } else {
                &mut simulation.installs
            };
            list.push(PackageVersion {
                name: name.to_owned(),
                version: without_zero_epoch(version).to_owned(),
            });
        }
    }
}
