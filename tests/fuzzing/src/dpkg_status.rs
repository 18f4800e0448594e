//! dpkg's database (`/var/lib/dpkg/status`, and the files of its journal), and Debian's package files.

use std::collections::BTreeSet;

use host::PackagesByName;
use host::packages::fuzzing::{dpkg_database, is_whole_deb};

/// Parts an input into files, each merged over the ones before.
const NEXT_FILE: &[u8] = b"\n%%\n";

pub fn check(data: &[u8]) {
    if data.starts_with(b"!<arch>") {
        return check_archive(data);
    }
    let files = split(data);
    let (packages, broken) = read(&files);
    check_database(data, &packages, &broken);
    // Read again it says the same; and a journal that says what the status file says changes nothing.
    assert_eq!((packages, broken), read(&files));
    let first = &files[..1];
    assert_eq!(read(first), read(&[first[0], first[0]]));
    // What stands before or behind makes no difference to other packages.
    let foreign = b"Package: zz-foreign\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n\n";
    let (mut with, _) = read(&[foreign, first[0]]);
    let (without, _) = read(first);
    if !without.contains_key("zz-foreign") {
        with.remove("zz-foreign");
        assert_eq!(with, without);
    }
}

type Found = (PackagesByName, BTreeSet<String>);

fn read(files: &[&[u8]]) -> Found {
    dpkg_database(files).unwrap_or_else(|error| panic!("reading from memory: {error}"))
}

fn split(data: &[u8]) -> Vec<&[u8]> {
    let mut files = Vec::new();
    let mut rest = data;
    while let Some(at) = rest.windows(NEXT_FILE.len()).position(|w| w == NEXT_FILE) {
        files.push(&rest[..at]);
        rest = &rest[at + NEXT_FILE.len()..];
    }
    files.push(rest);
    files
}

fn check_database(data: &[u8], packages: &PackagesByName, broken: &BTreeSet<String>) {
    for (name, package) in packages {
        assert!(!name.is_empty() && !name.contains('\n'), "{name:?}");
        assert_eq!(
            package.broken,
            broken.contains(name),
            "{name}: two minds on whether it is whole"
        );
    }
    assert!(broken.iter().all(|name| packages.contains_key(name)));
    // A byte that is no UTF-8 becomes three.
    let kept: usize = packages
        .iter()
        .map(|(name, package)| name.len() + package.version.len() + package.arch.len())
        .sum();
    assert!(kept <= 3 * data.len(), "{kept} bytes kept of {}", data.len());
}

/// Only the padding byte behind a member of odd length may be missing, or be there.
fn check_archive(data: &[u8]) {
    let whole =
        |bytes: &[u8]| is_whole_deb(bytes).unwrap_or_else(|error| panic!("reading from memory: {error}"));
    if whole(data) {
        let even = data.len().is_multiple_of(2);
        assert!(
            even || !whole(&data[..data.len() - 1]),
            "cut short, and taken for whole"
        );
        assert!(
            !even || !whole(&[data, b"x"].concat()),
            "more than an archive, and taken for one"
        );
    }
}
