//! The metadata of a Debian package file.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use protocol::Category;

use super::QUERY_DEADLINE;
use crate::HostError;
use crate::command::{Command, Exit, Output, last_lines};
use crate::packages::{check_name, check_version};

/// The container of a package, an `ar` archive (deb(5)).
const MAGIC: &[u8; 8] = b"!<arch>\n";
const HEADER_LEN: usize = 60;
/// Where a member's header has its size, in decimal.
const SIZE: std::ops::Range<usize> = 48..58;

pub struct ControlFields {
    pub name: String,
    /// Full version.
    pub version: String,
    pub arch: String,
    /// Bytes.
    pub installed_size: u64,
}

/// Reads the control fields. An incomplete file is an error.
pub async fn read(file: &Path) -> Result<ControlFields, HostError> {
    let not_usable = |why: &str| {
        let file = file.display();
        HostError::new(
            Category::Verification,
            format!("{file} is not a Debian package: {why}"),
        )
    };
    check_whole(file).map_err(|why| not_usable(&why))?;
    let format = "--showformat=${Package}\n${Version}\n${Architecture}\n${Installed-Size}\n";
    let output = ask(Command::new("dpkg-deb").args([format, "--show", "--"]).arg(file)).await?;
    if !output.success() {
        return Err(not_usable(&last_lines(&output.stderr_text())));
    }
    let text = output.stdout_text();
    let mut fields = text.lines();
    let mut field = || fields.next().unwrap_or_default().to_owned();
    let (name, version, arch, size) = (field(), field(), field(), field());
    check_name(&name).map_err(|error| not_usable(&error.message))?;
    check_version(&version).map_err(|error| not_usable(&error.message))?;
    Ok(ControlFields {
        name,
        version,
        arch,
        installed_size: size.parse::<u64>().unwrap_or(0).saturating_mul(1024),
    })
}

/// Its configuration files, as absolute paths.
pub async fn conffiles(file: &Path) -> Result<Vec<PathBuf>, HostError> {
    let dpkg_deb = Command::new("dpkg-deb").arg("--info").arg(file).arg("conffiles");
    let output = ask(dpkg_deb.clone()).await?;
    if output.success() {
        return Ok(listed_conffiles(&output.stdout_text()));
    }
    match output.stderr_text().contains("no control component") {
        true => Ok(Vec::new()),
        false => Err(HostError::new(
            Category::Host,
            dpkg_deb.failure(&output).to_string(),
        )),
    }
}

/// `[FLAG ]PATH` a line (deb-conffiles(5)).
pub fn listed_conffiles(text: &str) -> Vec<PathBuf> {
    let lines = text.lines().map(|line| match line.split_once(' ') {
        Some((_flag, path)) if !line.starts_with('/') => path.trim(),
        _ => line.trim(),
    });
    lines
        .filter(|path| path.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

/// Runs `dpkg-deb`. Any exit code is an answer; a killed `dpkg-deb` says nothing about the file.
async fn ask(dpkg_deb: Command) -> Result<Output, HostError> {
    let dpkg_deb = dpkg_deb.deadline(QUERY_DEADLINE);
    let output = dpkg_deb.run_any_exit().await.map_err(HostError::from)?;
    match output.exit {
        Exit::Code(_) => Ok(output),
        Exit::Signal(_) => Err(HostError::new(
            Category::Host,
            dpkg_deb.failure(&output).to_string(),
        )),
    }
}

/// Whether every member is there to its last byte. `dpkg-deb --show` reads no further than the
/// control file, and dpkg's dry run neither: a truncated file would fail only during the
/// installation.
fn check_whole(file: &Path) -> Result<(), String> {
    let whole = File::open(file).and_then(is_whole);
    match whole.map_err(|error| error.to_string())? {
        true => Ok(()),
        false => Err("it is truncated, or not an archive".to_owned()),
    }
}

/// The same for an open archive.
pub fn is_whole(mut file: impl Read + Seek) -> io::Result<bool> {
    let len = file.seek(SeekFrom::End(0))?;
    file.rewind()?;
    let mut magic = [0; MAGIC.len()];
    if len < MAGIC.len() as u64 {
        return Ok(false);
    }
    file.read_exact(&mut magic)?;
    let mut position = MAGIC.len() as u64;
    if magic != *MAGIC {
        return Ok(false);
    }
    while position < len {
        if len - position < HEADER_LEN as u64 {
            return Ok(false);
        }
        let mut header = [0; HEADER_LEN];
        file.seek(SeekFrom::Start(position))?;
        file.read_exact(&mut header)?;
        let size = header.get(SIZE).and_then(|size| std::str::from_utf8(size).ok());
        let Some(size) = size.and_then(|size| size.trim().parse::<u64>().ok()) else {
            return Ok(false);
        };
        // Members begin at even places; the last may lack its padding.
        let end = position + HEADER_LEN as u64 + size;
        if end > len {
            return Ok(false);
        }
        position = end.next_multiple_of(2);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(bytes: &[u8]) -> bool {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        check_whole(file.path()).is_ok()
    }

    #[test]
    fn an_archive_that_is_cut_short_anywhere_but_between_members_is_not_whole() {
        let mut archive = MAGIC.to_vec();
        let mut ends = vec![archive.len()];
        for body in ["2.0\n", "odd", "the end"] {
            let header = format!("{:<48}{:<10}`\n", "member", body.len());
            archive.extend(header.as_bytes());
            archive.extend(body.as_bytes());
            ends.push(archive.len());
            if archive.len() % 2 == 1 {
                archive.push(b'\n');
                ends.push(archive.len());
            }
        }
        for len in 0..=archive.len() {
            assert_eq!(
                whole(&archive[..len]),
                ends.contains(&len),
                "{len} bytes of {ends:?}"
            );
        }
        assert!(!whole(b"<html>not here, sorry</html>"));
        archive[8 + 48..8 + 58].copy_from_slice(b"9999999999");
        assert!(!whole(&archive));
    }
}
