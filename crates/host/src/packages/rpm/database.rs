//! rpm's database of installed packages, as `rpm` prints it.

use std::collections::{BTreeMap, BTreeSet};

use crate::{InstalledPackage, PackagesByName};

/// One line for each entry. `DBINSTANCE` counts up with each installation.
pub const ENTRY_FORMAT: &str = "%{NAME}\\t%{EPOCHNUM}:%{VERSION}-%{RELEASE}\\t%{ARCH}\\t%{DBINSTANCE}\\n";

/// An entry that a later one of the same name and architecture should have replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superseded {
    pub name: String,
    /// `VERSION-RELEASE.ARCH`, without the epoch: how rpm takes one of several entries.
    pub label: String,
}

#[derive(Debug, Default)]
pub struct RpmDatabase {
    pub packages: PackagesByName,
    /// Left by a killed upgrade.
    pub superseded: Vec<Superseded>,
}

/// Reads the lines of `entries`; `applications`: names of those that provide the mark, one a line.
pub fn parse(entries: &str, applications: &str) -> RpmDatabase {
    let applications: BTreeSet<&str> = applications.lines().collect();
    let mut by_package: BTreeMap<(&str, &str), Vec<(u64, &str)>> = BTreeMap::new();
    for line in entries.lines() {
        let mut fields = line.split('\t');
        if let (Some(name), Some(version), Some(arch), Some(Ok(instance))) = (
            fields.next(),
            fields.next(),
            fields.next(),
            fields.next().map(str::parse),
        ) {
            by_package
                .entry((name, arch))
                .or_default()
                .push((instance, version));
        }
    }
    let mut database = RpmDatabase::default();
    for ((name, arch), mut entries) in by_package {
        entries.sort_unstable();
        let Some((_, version)) = entries.pop() else {
            continue;
        };
        let superseded = if may_coexist(name) { Vec::new() } else { entries };
        let package = InstalledPackage {
            version: without_zero_epoch(version).to_owned(),
            arch: arch.to_owned(),
            broken: !superseded.is_empty(),
            waits: false,
            is_application: applications.contains(name),
        };
        database
            .superseded
            .extend(superseded.iter().map(|(_, version)| Superseded {
                name: name.to_owned(),
                label: format!(
                    "{}.{arch}",
                    version.split_once(':').map_or(*version, |(_, rest)| rest)
                ),
            }));
        // Of two architectures, a broken one counts.
        let known = database
            .packages
            .entry(name.to_owned())
            .or_insert_with(|| package.clone());
        known.broken |= package.broken;
    }
    database
}

/// Packages of which several versions are installed side by side on purpose.
fn may_coexist(name: &str) -> bool {
    name == "gpg-pubkey" || name.starts_with("kernel") || name.starts_with("kmod-")
}

/// As rpm itself prints versions: without an epoch of 0.
pub fn without_zero_epoch(version: &str) -> &str {
    version.strip_prefix("0:").unwrap_or(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_become_packages() {
        let database = parse(
            "app\t0:1.0-1\tnoarch\t7\nweb\t2:3-4.el9\tx86_64\t8\nlib\t0:1-1\ti686\t1\nlib\t0:1-1\tx86_64\t2\njunk\n\tx\n",
            "app\n",
        );
        assert_eq!(database.superseded, []);
        let shown = |name: &str| {
            let package = &database.packages[name];
            (
                &*package.version,
                &*package.arch,
                package.broken,
                package.is_application,
            )
        };
        assert_eq!(
            database.packages.keys().collect::<Vec<_>>(),
            ["app", "lib", "web"]
        );
        assert_eq!(shown("app"), ("1.0-1", "noarch", false, true));
        assert_eq!(shown("web"), ("2:3-4.el9", "x86_64", false, false));
        assert!(!shown("lib").2);
    }

    #[test]
    fn of_two_entries_the_later_installed_counts_and_the_other_is_superseded() {
        // A downgrade was cut short: the older version is the one that came last.
        let database = parse("app\t1:2.0-1\tnoarch\t7\napp\t1:1.0-1\tnoarch\t9\n", "");
        assert_eq!(database.packages["app"].version, "1:1.0-1");
        assert!(database.packages["app"].broken);
        let superseded = Superseded {
            name: "app".into(),
            label: "2.0-1.noarch".into(),
        };
        assert_eq!(database.superseded, [superseded]);
        let database = parse(
            "kernel-core\t0:1-1\tx86_64\t1\nkernel-core\t0:2-1\tx86_64\t2\n",
            "",
        );
        assert_eq!(database.superseded, []);
        assert!(!database.packages["kernel-core"].broken);
    }
}
