//! Entry points for fuzzing: the parsers of this folder, on bytes instead of files.

use std::collections::BTreeSet;
use std::io::{self, Cursor};

use super::deb::{database, package_file};
use crate::PackagesByName;

/// dpkg's database, from a status file and then the files of dpkg's own journal, and the names of
/// the broken packages.
pub fn dpkg_database(files: &[&[u8]]) -> io::Result<(PackagesByName, BTreeSet<String>)> {
    let mut database = database::DpkgDatabase::default();
    for file in files {
        database::scan(*file, &mut database)?;
    }
    Ok((database.packages, database.broken.into_keys().collect()))
}

/// Whether these are the bytes of a Debian package with all its members.
pub fn is_whole_deb(bytes: &[u8]) -> io::Result<bool> {
    package_file::is_whole(Cursor::new(bytes))
}
