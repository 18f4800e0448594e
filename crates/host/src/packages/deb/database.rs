//! dpkg's database of installed packages, read without dpkg: `status`, and the journal `updates/`
//! that dpkg merges into it when it ends. Format: deb822(5), dpkg-query(1).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::stanzas::Stanzas;
use crate::packages::APPLICATION_MARK;
use crate::{InstalledPackage, PackagesByName};

/// Why a package is neither installed nor removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breakage {
    /// Unpacking or removing it was interrupted: it must be reinstalled, or removed.
    HalfInstalled,
    /// Unpacked, and not configured yet.
    Unpacked,
    /// Its configuration failed or was interrupted.
    HalfConfigured,
}

/// The packages that are installed, or half so.
#[derive(Debug, Default)]
pub struct DpkgDatabase {
    pub packages: PackagesByName,
    pub broken: BTreeMap<String, Breakage>,
    /// Removed, but for their configuration files.
    pub remains: BTreeSet<String>,
    /// Installed, and marked for removal.
    pub unwanted: BTreeSet<String>,
    /// dpkg was interrupted, or is running.
    pub interrupted: bool,
}

/// Reads the database in the folder `admin` (`/var/lib/dpkg`).
pub fn read(admin: &Path) -> io::Result<DpkgDatabase> {
    let mut database = DpkgDatabase::default();
    scan(
        BufReader::with_capacity(64 * 1024, File::open(admin.join("status"))?),
        &mut database,
    )?;
    for update in pending_updates(admin)? {
        database.interrupted = true;
        match File::open(&update) {
            Ok(file) => scan(BufReader::new(file), &mut database)?,
            // A running dpkg has just merged it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(database)
}

/// The journal's files, oldest first. Names are numbers; others (`tmp.i`) are not complete.
fn pending_updates(admin: &Path) -> io::Result<Vec<PathBuf>> {
    let folder = match fs::read_dir(admin.join("updates")) {
        Ok(folder) => folder,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut updates = Vec::new();
    for entry in folder {
        let entry = entry?;
        if entry
            .file_name()
            .as_encoded_bytes()
            .iter()
            .all(u8::is_ascii_digit)
        {
            updates.push(entry.path());
        }
    }
    updates.sort();
    Ok(updates)
}

/// The fields of a stanza that are read.
const FIELDS: [&str; 5] = ["Package", "Status", "Version", "Architecture", "Provides"];

/// Merges all stanzas of `reader` into `database`. Invalid stanzas are skipped, so that they do not
/// hide the others.
pub fn scan(reader: impl BufRead, database: &mut DpkgDatabase) -> io::Result<()> {
    let mut stanzas = Stanzas::new(reader, &FIELDS);
    while stanzas.advance()? {
        merge(&stanzas, database);
    }
    Ok(())
}

fn merge(stanza: &Stanzas<impl BufRead>, database: &mut DpkgDatabase) {
    let [package, status, version, architecture, provides] = [0, 1, 2, 3, 4].map(|index| stanza.value(index));
    if package.is_empty() {
        return;
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let name = text(package);
    let arch = text(architecture);
    // Where two architectures of a package are allowed at all, they are at the same version: one
    // entry serves both. If one is broken, the entry is; a removed one does not count.
    let other_arch = database.packages.get(&name).filter(|other| other.arch != arch);
    let other_counts = other_arch.map(|other| other.broken);
    // WANT FLAG STATE
    let mut words = status.split(|byte| *byte == b' ');
    let is_wanted = !matches!(words.next(), Some(b"deinstall" | b"purge"));
    let reinstall = words.next() == Some(b"reinstreq");
    let state = words.next().unwrap_or_default();
    let breakage = match state {
        b"installed" | b"triggers-pending" | b"triggers-awaited" if !reinstall => None,
        b"unpacked" if !reinstall => Some(Breakage::Unpacked),
        b"half-configured" if !reinstall => Some(Breakage::HalfConfigured),
        // Removed; or known by name only.
        b"config-files" | b"not-installed" | b"" if other_counts.is_some() => return,
        b"config-files" | b"not-installed" | b"" => {
            database.packages.remove(&name);
            database.broken.remove(&name);
            database.unwanted.remove(&name);
            match state {
                b"config-files" => database.remains.insert(name),
                _ => database.remains.remove(&name),
            };
            return;
        }
        _ => Some(Breakage::HalfInstalled),
    };
    if breakage.is_none() && other_counts == Some(true) {
        return;
    }
    database.remains.remove(&name);
    match is_wanted {
        true => database.unwanted.remove(&name),
        false => database.unwanted.insert(name.clone()),
    };
    match breakage {
        Some(breakage) => database.broken.insert(name.clone(), breakage),
        None => database.broken.remove(&name),
    };
    let package = InstalledPackage {
        version: text(version),
        arch,
        broken: breakage.is_some(),
        waits: breakage == Some(Breakage::Unpacked),
        is_application: names_in(provides).any(|name| name == APPLICATION_MARK.as_bytes()),
    };
    database.packages.insert(name, package);
}

/// `a (= 1), b:any` -> `a`, `b`.
fn names_in(relations: &[u8]) -> impl Iterator<Item = &[u8]> {
    relations.split(|byte| *byte == b',').map(|relation| {
        let relation = relation.trim_ascii();
        let end = relation
            .iter()
            .position(|byte| b" (:".contains(byte))
            .unwrap_or(relation.len());
        &relation[..end]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scanned(text: impl AsRef<[u8]>) -> DpkgDatabase {
        let mut database = DpkgDatabase::default();
        scan(text.as_ref(), &mut database).unwrap();
        database
    }

    #[test]
    fn every_state_of_dpkg_is_understood() {
        let table = [
            ("install ok installed", Some(None)),
            ("hold ok installed", Some(None)),
            ("deinstall ok installed", Some(None)),
            ("install ok triggers-pending", Some(None)),
            ("install ok triggers-awaited", Some(None)),
            ("install ok unpacked", Some(Some(Breakage::Unpacked))),
            ("install ok half-configured", Some(Some(Breakage::HalfConfigured))),
            (
                "install reinstreq half-configured",
                Some(Some(Breakage::HalfInstalled)),
            ),
            (
                "install reinstreq half-installed",
                Some(Some(Breakage::HalfInstalled)),
            ),
            ("deinstall ok half-installed", Some(Some(Breakage::HalfInstalled))),
            ("install reinstreq installed", Some(Some(Breakage::HalfInstalled))),
            ("deinstall ok config-files", None),
            ("purge ok not-installed", None),
            ("unknown ok not-installed", None),
            ("nonsense", None),
        ];
        for (status, expected) in table {
            let database = scanned(format!(
                "Package: app\nStatus: {status}\nVersion: 1-1\nArchitecture: all\n"
            ));
            assert_eq!(
                database
                    .packages
                    .get("app")
                    .map(|_| database.broken.get("app").copied()),
                expected,
                "{status}"
            );
            let broken = database.packages.get("app").map(|package| package.broken);
            assert_eq!(broken, expected.map(|breakage| breakage.is_some()), "{status}");
        }
    }

    #[test]
    fn of_two_architectures_the_broken_one_counts_and_the_removed_one_does_not() {
        let paragraph = |arch: &str, state: &str| {
            format!("Package: lib\nStatus: install ok {state}\nVersion: 1\nArchitecture: {arch}\n\n")
        };
        let (installed, broken) = (
            paragraph("amd64", "installed"),
            paragraph("i386", "half-configured"),
        );
        let removed = paragraph("i386", "config-files");
        for text in [format!("{installed}{broken}"), format!("{broken}{installed}")] {
            assert!(scanned(text).packages["lib"].broken);
        }
        for text in [format!("{installed}{removed}"), format!("{removed}{installed}")] {
            assert!(!scanned(text).packages["lib"].broken);
        }
    }

    #[test]
    fn only_what_provides_the_mark_is_an_application() {
        let table = [
            ("Provides: pf9app", true),
            ("Provides: x (= 1), pf9app (= 2), y", true),
            ("Provides: x,\n pf9app", true),
            ("Provides: pf9apple, not-pf9app", false),
            ("Description: pf9app\n pf9app", false),
            ("Depends: pf9app", false),
        ];
        for (line, expected) in table {
            let text = format!(
                "Package: app\nStatus: install ok installed\nVersion: 1\n{line}\nArchitecture: all\n\n"
            );
            let package = &scanned(text).packages["app"];
            assert_eq!(package.is_application, expected, "{line}");
            assert_eq!((&*package.version, &*package.arch), ("1", "all"));
        }
    }

    #[test]
    fn what_a_removal_has_left_is_told_apart() {
        let paragraph =
            |status: &str| format!("Package: app\nStatus: {status}\nVersion: 1\nArchitecture: all\n\n");
        let table = [
            ("install ok installed", (true, false, false)),
            ("hold ok installed", (true, false, false)),
            ("deinstall ok installed", (true, false, true)),
            ("purge ok installed", (true, false, true)),
            ("deinstall ok config-files", (false, true, false)),
            ("install ok config-files", (false, true, false)),
            ("purge ok not-installed", (false, false, false)),
        ];
        // Whatever dpkg's journal says later, overrides.
        for (earlier, _) in table {
            for (status, expected) in table {
                let database = scanned(paragraph(earlier) + &paragraph(status));
                let found = (
                    database.packages.contains_key("app"),
                    database.remains.contains("app"),
                    database.unwanted.contains("app"),
                );
                assert_eq!(found, expected, "{earlier}, then {status}");
            }
        }
        assert!(scanned(paragraph("install ok unpacked")).packages["app"].waits);
        assert!(!scanned(paragraph("install ok half-configured")).packages["app"].waits);
    }

    #[test]
    fn the_journal_overrides_the_status_file() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write(
            "status",
            "Package: a\nStatus: install ok installed\nVersion: 1\n\nPackage: b\nStatus: install ok installed\nVersion: 1\n",
        );
        assert!(!read(dir.path()).unwrap().interrupted);
        fs::create_dir(dir.path().join("updates")).unwrap();
        assert!(!read(dir.path()).unwrap().interrupted);
        write(
            "updates/0000",
            "Package: a\nStatus: install ok unpacked\nVersion: 2\n",
        );
        write(
            "updates/0001",
            "Package: a\nStatus: install ok half-configured\nVersion: 2\n",
        );
        write(
            "updates/0002",
            "Package: b\nStatus: deinstall ok config-files\nVersion: 1\n",
        );
        write(
            "updates/tmp.i",
            "Package: a\nStatus: install ok installed\nVersion: 9\n",
        );
        let database = read(dir.path()).unwrap();
        assert!(database.interrupted);
        assert_eq!(database.packages.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(database.packages["a"].version, "2");
        assert_eq!(database.broken["a"], Breakage::HalfConfigured);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            scanned(&bytes);
            let mut text = b"Package: a\nStatus: install ok ".to_vec();
            text.extend(&bytes);
            scanned(&text);
        }
    }
}
