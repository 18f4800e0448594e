//! What fuzzing calls: the parsers of this folder, on bytes instead of files.

use std::collections::BTreeSet;
use std::io::{self, Cursor};
use std::path::PathBuf;

use super::deb::{archive, control, database};
use super::rpm::header;
use crate::PackagesByName;

/// dpkg's database, from a status file and then the files of dpkg's own journal, and the names of the packages that are not
/// whole.
pub fn dpkg_database(files: &[&[u8]]) -> io::Result<(PackagesByName, BTreeSet<String>)> {
    let mut database = database::Database::default();
    for file in files {
        database::scan(*file, &mut database)?;
    }
    Ok((database.packages, database.broken.into_keys().collect()))
}

/// Whether these are the bytes of a Debian package with all its members.
pub fn is_whole_deb(bytes: &[u8]) -> io::Result<bool> {
    archive::is_whole(Cursor::new(bytes))
}

/// What the control archive of a Debian package says.
#[derive(Debug, PartialEq, Eq)]
pub struct DebControl {
    pub name: String,
    pub version: String,
    pub conffiles: Vec<PathBuf>,
}

/// Reads a control archive, if it is for us to read.
pub fn deb_control(bytes: &[u8]) -> Option<DebControl> {
    control::read(bytes).map(|control| DebControl {
        name: control.name,
        version: control.version,
        conffiles: control.conffiles,
    })
}

/// Name and version that an rpm package's header says, if it is for us to read.
pub fn rpm_header(bytes: &[u8]) -> io::Result<Option<(String, String)>> {
    Ok(header::read(bytes)?.map(|header| (header.name, header.version)))
}
