//! The packages of a host, stored compactly: a host has thousands, and all stay in memory between
//! two observations.

use std::collections::BTreeMap;

/// A package in the host's database, with `Text` of its own or borrowed from [`InstalledPackages`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstalledPackage<Text = String> {
    /// Full version: `[epoch:]upstream[-release]`.
    pub version: Text,
    pub arch: Text,
    /// Half-installed, half-configured, unpacked, or in the rpm database twice: must be healed.
    pub broken: bool,
    /// Broken only because it is unpacked and not configured yet.
    pub waits: bool,
    /// Provides the virtual package `pf9app`.
    pub is_application: bool,
}

impl InstalledPackage<&str> {
    pub fn cloned(&self) -> InstalledPackage {
        InstalledPackage {
            version: self.version.to_owned(),
            arch: self.arch.to_owned(),
            broken: self.broken,
            waits: self.waits,
            is_application: self.is_application,
        }
    }
}

/// Package name -> package, while a database is being read.
pub type PackagesByName = BTreeMap<String, InstalledPackage>;

/// All packages of a host by name, as they were at one moment. Two allocations, where a map of
/// strings takes three for each package and four times the bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InstalledPackages {
    /// Of each package its name, its version and its architecture, without anything between.
    text: Box<str>,
    /// In the order of the names.
    places: Box<[Place]>,
}

/// Where in `text` the parts of one package begin; the last ends where the next package begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    name: u32,
    version: u32,
    arch: u32,
    broken: bool,
    waits: bool,
    is_application: bool,
}

impl InstalledPackages {
    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub fn get(&self, name: &str) -> Option<InstalledPackage<&str>> {
        let found = self
            .places
            .binary_search_by(|place| self.text[place.name as usize..place.version as usize].cmp(name));
        found.ok().map(|at| self.at(at).1)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Names and packages, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, InstalledPackage<&str>)> {
        (0..self.places.len()).map(|at| self.at(at))
    }

    fn at(&self, at: usize) -> (&str, InstalledPackage<&str>) {
        let place = self.places[at];
        let end = self
            .places
            .get(at + 1)
            .map_or(self.text.len(), |next| next.name as usize);
        let (name, version, arch) = (place.name as usize, place.version as usize, place.arch as usize);
        let package = InstalledPackage {
            version: &self.text[version..arch],
            arch: &self.text[arch..end],
            broken: place.broken,
            waits: place.waits,
            is_application: place.is_application,
        };
        (&self.text[name..version], package)
    }
}

impl From<&PackagesByName> for InstalledPackages {
    /// Text beyond 4 GiB is left out; no database is near that size.
    fn from(packages: &PackagesByName) -> Self {
        let length = |(name, package): (&String, &InstalledPackage)| {
            name.len() + package.version.len() + package.arch.len()
        };
        let mut text = String::with_capacity(packages.iter().map(length).sum());
        let mut places = Vec::with_capacity(packages.len());
        for (name, package) in packages {
            let start = text.len();
            let version = start + name.len();
            let arch = version + package.version.len();
            let end = arch + package.arch.len();
            if u32::try_from(end).is_err() {
                break;
            }
            places.push(Place {
                name: start as u32,
                version: version as u32,
                arch: arch as u32,
                broken: package.broken,
                waits: package.waits,
                is_application: package.is_application,
            });
            text.push_str(name);
            text.push_str(&package.version);
            text.push_str(&package.arch);
        }
        Self {
            text: text.into(),
            places: places.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(version: &str, arch: &str) -> InstalledPackage {
        InstalledPackage {
            version: version.into(),
            arch: arch.into(),
            broken: version.len() == 1,
            waits: arch.is_empty(),
            is_application: version == "2",
        }
    }

    #[test]
    fn each_package_is_found_as_it_was_put_in() {
        let by_name = PackagesByName::from([
            ("b".to_owned(), package("1:2-3", "amd64")),
            ("a".to_owned(), package("2", "all")),
            ("ab".to_owned(), package("", "")),
            ("é".to_owned(), package("1", "é")),
        ]);
        let packages = InstalledPackages::from(&by_name);
        assert_eq!(packages.len(), 4);
        for (name, expected) in &by_name {
            let found = packages.get(name).map(|found| found.cloned());
            assert_eq!(found.as_ref(), Some(expected), "{name}");
        }
        let again = packages
            .iter()
            .map(|(name, package)| (name.to_owned(), package.cloned()));
        assert_eq!(PackagesByName::from_iter(again), by_name);
        for absent in ["", "aa", "abc", "c", "zz"] {
            assert!(!packages.contains(absent), "{absent:?}");
        }
    }

    #[test]
    fn of_no_packages_none_is_found() {
        let packages = InstalledPackages::from(&PackagesByName::new());
        assert!(packages.is_empty() && packages.get("a").is_none());
        assert_eq!(packages, InstalledPackages::default());
    }
}
