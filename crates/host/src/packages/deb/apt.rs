//! What apt prints, understood.

use crate::{PackageVersion, Simulation, Transaction};

/// Versions in `apt-cache madison`: `NAME | VERSION | SOURCE` a line.
pub fn madison_versions(output: &str, package: &str) -> Vec<String> {
    let lines = output.lines().map(|line| line.split('|').map(str::trim));
    lines
        .filter_map(|mut fields| match (fields.next(), fields.next(), fields.next()) {
            (Some(name), Some(version), Some(source)) if name == package && !source.ends_with("Sources") => {
                Some(version.to_owned())
            }
            _ => None,
        })
        .collect()
}

/// What `apt-get --simulate` would do besides what `transaction` names: `Inst NAME [OLD] (NEW SOURCE ...)` and
/// `Remv NAME [OLD] ...` a line. A package of another architecture is `NAME:ARCH`.
pub fn simulation(output: &str, transaction: &Transaction) -> Simulation {
    let mut simulation = Simulation::default();
    for line in output.lines() {
        let (list, rest, opening) = if let Some(rest) = line.strip_prefix("Inst ") {
            (&mut simulation.installs, rest, '(')
        } else if let Some(rest) = line.strip_prefix("Remv ") {
            (&mut simulation.removes, rest, '[')
        } else {
            continue;
        };
        let name = rest.split([' ', ':']).next().unwrap_or(rest);
        let version = rest.split_once(opening).map_or("", |(_, version)| version);
        let version = version.split([' ', ')', ']']).next().unwrap_or_default();
        let is_named = transaction.install.iter().any(|source| source.name() == name)
            || transaction.remove.iter().any(|remove| remove == name);
        if !is_named {
            list.push(PackageVersion {
                name: name.to_owned(),
                version: version.to_owned(),
            });
        }
    }
    simulation
}

/// What apt has dpkg, and so maintainer scripts, look for programs in (`DPkg::Path`).
pub const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn madison_lists_one_version_a_line() {
        let output = "   tar | 1.34+dfsg-1.2+deb12u1 | http://deb.example bookworm/main amd64 Packages\n\
                      \x20  tar | 1.34+dfsg-1.2 | http://deb.example bookworm/main Sources\n\
                      \x20 tar2 | 9 | http://deb.example bookworm/main amd64 Packages\n";
        assert_eq!(madison_versions(output, "tar"), ["1.34+dfsg-1.2+deb12u1"]);
        assert!(madison_versions("", "tar").is_empty());
    }

    #[test]
    fn a_simulation_lists_what_nobody_asked_for() {
        let output = "Reading package lists...\nRemv web [1.0-1]\nRemv app [1.0-1] [web:amd64 ]\nRemv lib:i386 [2]\n\
                      Inst other (1 Local)\nInst libc6:i386 [2.35-1] (2.36-9 Debian:12 [i386]) []\nConf other (1 Local)\n";
        let packages = |list: &[PackageVersion]| -> Vec<String> {
            list.iter()
                .map(|package| format!("{} {}", package.name, package.version))
                .collect()
        };
        let found = |remove: &[&str]| {
            let transaction = Transaction {
                install: Vec::new(),
                remove: remove.iter().map(|name| (*name).to_owned()).collect(),
            };
            let found = simulation(output, &transaction);
            (packages(&found.installs), packages(&found.removes))
        };
        let (installs, removes) = found(&["app"]);
        assert_eq!(installs, ["other 1", "libc6 2.36-9"]);
        assert_eq!(removes, ["web 1.0-1", "lib 2"]);
        assert_eq!(found(&["app", "web", "lib"]).1, [""; 0]);
    }
}
