//! The container of a Debian package, an `ar` archive (deb(5)).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

const MAGIC: &[u8; 8] = b"!<arch>\n";
const HEADER_LEN: usize = 60;
/// Where a member's header has its size, in decimal.
const SIZE: std::ops::Range<usize> = 48..58;

/// Whether every member is there to its last byte. `dpkg-deb --show` reads no further than the control
/// file, and dpkg's dry run neither: that a file was cut short would only be seen in mid-installation.
pub(super) fn check_whole(file: &Path) -> Result<(), String> {
    let whole = File::open(file).and_then(is_whole);
    match whole.map_err(|error| error.to_string())? {
        true => Ok(()),
        false => Err("it is cut short, or no archive at all".to_owned()),
    }
}

/// The same, of an archive that is open.
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
