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

/// Hooks of which nothing is missing when dpkg runs by itself, as they come with their packages. debconf only does earlier
/// what it does again from the scripts; the others are told to do nothing by what [`super::Deb`] puts into the environment.
const IDLE_HOOKS: [&str; 4] = [
    "/usr/sbin/dpkg-preconfigure --apt || true",
    "/usr/bin/apt-listchanges --apt || test $? -lt 10",
    "test -x /usr/lib/needrestart/apt-pinvoke && /usr/lib/needrestart/apt-pinvoke || true",
    "test -x /usr/lib/needrestart/apt-pinvoke && /usr/lib/needrestart/apt-pinvoke -m u || true",
];

/// Where these are otherwise, dpkg or its database is another one.
const FIXED: [(&str, &str); 7] = [
    ("dir", "/"),
    ("dir::bin::dpkg", "/usr/bin/dpkg"),
    ("dir::state", "var/lib/apt"),
    ("dir::state::extended_states", "extended_states"),
    ("dir::state::status", "/var/lib/dpkg/status"),
    ("dpkg::path", PATH),
    ("rootdir", ""),
];

/// What is said here may have apt do more than to have dpkg install what is at hand.
const HAVE_A_SAY: [&str; 3] = ["dpkg::", "apt::install::", "aptcli::"];

/// Of those, what is about the hooks, about the terminal, or what the agent sees to itself.
const HAVE_NONE: [&str; 5] = [
    "dpkg::tools::",
    "dpkg::lock::",
    "dpkg::progress",
    "dpkg::use-pty",
    "dpkg::inhibit-shutdown",
];

/// What has apt do more with packages that are at hand and fit than to have dpkg install them: the setting's name in its
/// configuration (`apt-config dump`), without a value that may hold secrets. `None`: nothing.
pub fn does_more(configuration: &str) -> Option<&str> {
    let mut is_whole = false;
    for line in configuration.lines() {
        let Some((written, value)) = line.split_once(" \"") else {
            return Some("what is no setting");
        };
        // Of several lines is only what nobody expects.
        let Some(value) = value.strip_suffix("\";") else {
            return Some(written);
        };
        let name = written.to_ascii_lowercase();
        let name = name.strip_prefix("binary::apt-get::").unwrap_or(&name);
        is_whole |= name == "dir::bin::dpkg";
        let starts_with = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
        let asks_for_more = match FIXED.iter().find(|(fixed, _)| *fixed == name) {
            // Older versions end folders with a slash.
            Some((_, usual)) => value.trim_end_matches('/') != usual.trim_end_matches('/'),
            None => {
                starts_with(&HAVE_A_SAY)
                    && !starts_with(&HAVE_NONE)
                    && !value.is_empty()
                    && !IDLE_HOOKS.contains(&value)
            }
        };
        if asks_for_more {
            return Some(written);
        }
    }
    (!is_whole).then_some("it names no dpkg")
}

/// Whether apt has noted of one of these that it came as a dependency only (`extended_states`): asked for by name, it is
/// one no more, which dpkg can't note.
pub fn is_noted(extended_states: &str, names: &[&str]) -> bool {
    let noted = |line: &str| {
        let name = line.strip_prefix("Package:").map(str::trim);
        name.is_some_and(|name| names.contains(&name))
    };
    extended_states.lines().any(noted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: &str = "APT \"\";\nAPT::Architecture \"amd64\";\nDir::Bin::dpkg \"/usr/bin/dpkg\";\nDPkg \"\";\n\
        DPkg::Path \"/usr/sbin:/usr/bin:/sbin:/bin\";\nDPkg::Pre-Install-Pkgs \"\";\n\
        DPkg::Pre-Install-Pkgs:: \"/usr/sbin/dpkg-preconfigure --apt || true\";\n";

    #[test]
    fn apt_is_needed_for_what_its_configuration_has_it_do() {
        assert_eq!(does_more(USUAL), None);
        let needrestart =
            "test -x /usr/lib/needrestart/apt-pinvoke && /usr/lib/needrestart/apt-pinvoke || true";
        for (more, expected) in [
            (format!("DPkg::Post-Invoke:: \"{needrestart}\";\n"), true),
            (format!("DPkg::Post-Invoke:: \"{needrestart}; audit\";\n"), false),
            ("DPkg::Post-Invoke \"\";\n".to_owned(), true),
            (
                "DPkg::Post-Invoke:: \"etckeeper post-install\";\n".to_owned(),
                false,
            ),
            ("Dpkg::pre-invoke::mine \"audit\";\n".to_owned(), false),
            (
                "DPkg::Pre-Install-Pkgs:: \"/usr/local/bin/check \"$1\"\";\n".to_owned(),
                false,
            ),
            (
                "binary::apt-get::DPkg::Pre-Invoke:: \"audit\";\n".to_owned(),
                false,
            ),
            ("DPkg::Pre-Invoke:: \"one\ntwo\";\n".to_owned(), false),
            ("DPkg::Options:: \"--force-confnew\";\n".to_owned(), false),
            ("DPkg::Chroot-Directory \"/srv\";\n".to_owned(), false),
            ("Dir::Bin::dpkg \"/usr/local/bin/dpkg\";\n".to_owned(), false),
            ("DPkg::Path \"/opt/bin:/usr/bin\";\n".to_owned(), false),
            ("Dir::State::status \"/srv/status\";\n".to_owned(), false),
            ("RootDir \"/srv\";\n".to_owned(), false),
            ("Dir::State \"var/lib/apt/\";\n".to_owned(), true),
            ("APT::Install::Pre-Invoke:: \"zfs snapshot\";\n".to_owned(), false),
            ("AptCli::Hooks::Install:: \"/usr/bin/check\";\n".to_owned(), false),
            ("DPkg::Anything-New \"1\";\n".to_owned(), false),
            ("APT::Install-Recommends \"1\";\n".to_owned(), true),
            ("DPkg::Lock::Timeout \"60\";\n".to_owned(), true),
            ("binary::apt::DPkg::Progress-Fancy \"1\";\n".to_owned(), true),
        ] {
            let configuration = USUAL.to_owned() + &more;
            let why = does_more(&configuration);
            assert_eq!(why.is_none(), expected, "{more}");
            assert!(
                why.is_none_or(|why| more.starts_with(&format!("{why} \""))),
                "{why:?}"
            );
        }
        assert!(does_more("").is_some());
    }

    #[test]
    fn what_came_as_a_dependency_is_noted() {
        let states = "Package: lib\nArchitecture: amd64\nAuto-Installed: 1\n\nPackage: lib2\n";
        assert!(is_noted(states, &["app", "lib"]));
        assert!(!is_noted(states, &["app", "li", "amd64"]));
    }

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
