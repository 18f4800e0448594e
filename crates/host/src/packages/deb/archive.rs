//! The container of a Debian package, an `ar` archive (deb(5)).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

const MAGIC: &[u8; 8] = b"!<arch>\n";
const HEADER_LEN: usize = 60;
const NAME_LEN: usize = 16;
/// What the first member of every package says.
const VERSION: &[u8] = b"2.0\n";
/// Far beyond any control archive: what is larger is not read here.
const MAX_CONTROL: usize = 1024 * 1024;
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

/// The control archive, where it is not compressed and the container is as dpkg-deb itself makes it. `None`: dpkg-deb is
/// to be asked.
pub fn plain_control(mut file: impl Read + Seek) -> io::Result<Option<Vec<u8>>> {
    let mut magic = [0; MAGIC.len()];
    file.rewind()?;
    file.read_exact(&mut magic)?;
    if magic != *MAGIC || member(&mut file, "debian-binary", VERSION.len())?.as_deref() != Some(VERSION) {
        return Ok(None);
    }
    let control = member(&mut file, "control.tar", MAX_CONTROL)?;
    let mut next = [0; HEADER_LEN];
    file.read_exact(&mut next)?;
    Ok(control.filter(|_| next.starts_with(b"data.tar")))
}

/// The next member, if it has this name and at most so many bytes.
fn member(file: &mut (impl Read + Seek), name: &str, max: usize) -> io::Result<Option<Vec<u8>>> {
    let mut header = [0; HEADER_LEN];
    file.read_exact(&mut header)?;
    let (found, end) = (&header[..NAME_LEN], &header[SIZE.end..]);
    let digits = header[SIZE].trim_ascii_end();
    let size = std::str::from_utf8(digits)
        .ok()
        .and_then(|size| size.parse::<usize>().ok());
    // Older tools end a name with a slash.
    let found = found.trim_ascii_end();
    let is_usual = found.strip_suffix(b"/").unwrap_or(found) == name.as_bytes() && end == b"`\n";
    let Some(size) = size.filter(|size| is_usual && *size <= max) else {
        return Ok(None);
    };
    let mut body = vec![0; size];
    file.read_exact(&mut body)?;
    file.seek_relative((size % 2) as i64)?;
    Ok(Some(body))
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

    /// A container with these members.
    fn container(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for (name, body) in members {
            bytes.extend(format!("{name:<48}{:<10}`\n", body.len()).bytes());
            bytes.extend(*body);
            bytes.resize(bytes.len().next_multiple_of(2), b'\n');
        }
        bytes
    }

    #[test]
    fn an_uncompressed_control_archive_is_read_where_it_always_is() {
        let read = |bytes: &[u8]| plain_control(io::Cursor::new(bytes)).ok().flatten();
        let (version, control, data) = (
            ("debian-binary", &b"2.0\n"[..]),
            ("control.tar", &b"odd"[..]),
            ("data.tar.xz", &b""[..]),
        );
        let usual = container(&[version, control, data]);
        assert_eq!(read(&usual).as_deref(), Some(&b"odd"[..]));
        let slashes = container(&[("debian-binary/", b"2.0\n"), ("control.tar/", b"odd"), data]);
        assert_eq!(read(&slashes).as_deref(), Some(&b"odd"[..]));
        for other in [
            &[version, control][..],
            &[control, data],
            &[version, data, control],
            &[("debian-binary", b"2.1\n"), control, data],
            &[("debian-binary", b"2.0\n\n"), control, data],
            &[version, ("control.tar.gz", b"odd"), data],
            &[version, ("_extra", b""), control, data],
            &[version, control, ("_extra", b""), data],
        ] {
            assert_eq!(read(&container(other)), None, "{other:?}");
        }
        for len in 0..usual.len() {
            assert_eq!(read(&usual[..len]), None, "{len}");
        }
        let mut claims = usual;
        let at = MAGIC.len() + HEADER_LEN + 4 + SIZE.start;
        claims[at..at + 10].copy_from_slice(b"9999999999");
        assert_eq!(read(&claims), None);
    }
}
