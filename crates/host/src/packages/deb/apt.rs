//! Parses the output of apt.

use crate::packages::offers::Offer;
use crate::{PackageVersion, Simulation, Transaction};

/// What repositories offer, by the version table of `apt-cache policy`: `VERSION PRIORITY` a line,
/// indented by five characters, and below it deeper ones `PRIORITY SOURCE`. A version that only the
/// local database has is not an offer.
pub fn policy_offers(output: &str, package: &str) -> Vec<Offer> {
    let mut offers: Vec<(Offer, bool)> = Vec::new();
    let lines = output
        .lines()
        .skip_while(|line| line.strip_suffix(':') != Some(package))
        .skip(1);
    for line in lines.take_while(|line| line.starts_with(' ')) {
        let words: Vec<&str> = line.split_whitespace().filter(|word| *word != "***").collect();
        if line.starts_with("       ") {
            let is_repository = !words.get(1).is_none_or(|source| source.ends_with("/dpkg/status"));
            if let Some((_, is_offered)) = offers.last_mut() {
                *is_offered |= is_repository;
            }
        } else if let [version, priority] = *words
            && let Ok(priority) = priority.parse()
            && !version.ends_with(':')
        {
            let version = version.to_owned();
            offers.push((Offer { version, priority }, false));
        }
    }
    let offered = offers.into_iter().filter(|(_, is_offered)| *is_offered);
    offered.map(|(offer, _)| offer).collect()
}

/// What `apt-get --simulate` would do besides what `transaction` names: `Inst NAME [OLD] (NEW
/// SOURCE ...)` and `Remv NAME [OLD] ...` a line. A package of another architecture is `NAME:ARCH`.
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

/// The PATH that apt sets for dpkg and maintainer scripts (`DPkg::Path`).
pub const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

#[cfg(test)]
mod tests {
    use super::*;

    /// Of apt 2.6.
    #[test]
    fn policy_lists_versions_with_their_priorities() {
        let output = "web:\n  Installed: 1.0-1\n  Candidate: 2.1-1\n  Package pin: 2.1-1\n  Version table:\n     \
            2.1-5~bpo12+1 100\n        100 http://deb.example bookworm-backports/main amd64 Packages\n     \
            2.1-1 -1\n         -1 http://deb.example bookworm/main amd64 Packages\n \
            *** 1.0-1 500\n        500 http://deb.example bookworm/main amd64 Packages\n        100 /var/lib/dpkg/status\n     \
            0.9-1 100\n        100 /var/lib/dpkg/status\n\
            web2:\n  Installed: (none)\n  Version table:\n     7 500\n        500 http://deb.example x Packages\n";
        let found: Vec<String> = policy_offers(output, "web")
            .iter()
            .map(|offer| format!("{} {}", offer.version, offer.priority))
            .collect();
        assert_eq!(found, ["2.1-5~bpo12+1 100", "2.1-1 -1", "1.0-1 500"]);
        assert!(policy_offers("", "web").is_empty());
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
