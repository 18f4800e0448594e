//! What an rpm package says of itself, read from its header without a process. The format: "RPM v4 package
//! format" in rpm's manual (a lead, a header with digests, then the header that the digests are of).
//!
//! Only what is in every way as rpm itself writes it is read here; of anything else rpm is asked, and says what
//! is wrong with it. Signatures are for rpm's dry run, which nothing is installed without.

use std::io::{self, Read};

use sha2::{Digest, Sha256};

use crate::hex;

const LEAD: usize = 96;
/// Of the payload, at a time.
const BUFFER: usize = 64 * 1024;
/// What a header begins with, its version included.
const HEADER_MAGIC: [u8; 4] = [0x8E, 0xAD, 0xE8, 0x01];
const INTRO: usize = 16;
const ENTRY: usize = 16;
/// Far beyond any package; rpm itself allows more.
const MAX_ENTRIES: usize = 64 * 1024;
const MAX_DATA: usize = 32 * 1024 * 1024;

/// Tags of the first header (rpm's `rpmtag.h`).
const SHA256_OF_HEADER: u32 = 273;
/// Tags of the second one.
const NAME: u32 = 1000;
const VERSION: u32 = 1001;
const RELEASE: u32 = 1002;
const EPOCH: u32 = 1003;
const SIZE: u32 = 1009;
const ARCH: u32 = 1022;
const SOURCE_RPM: u32 = 1044;
const LONG_SIZE: u32 = 5009;
const PAYLOAD_DIGEST: u32 = 5092;
const PAYLOAD_DIGEST_ALGORITHM: u32 = 5093;
/// As OpenPGP numbers them (RFC 9580, 9.5).
const SHA256: u64 = 8;

const INT32: u32 = 4;
const INT64: u32 = 5;
const STRING: u32 = 6;
const STRINGS: u32 = 8;

/// What the header of a binary package says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub name: String,
    /// `[EPOCH:]VERSION-RELEASE`.
    pub version: String,
    pub arch: String,
    /// Bytes of all its files.
    pub size: u64,
    /// Lower-case hex, of all that follows the header in the file, if the package says so.
    pub payload_sha256: Option<String>,
}

impl Header {
    /// Whether `payload`, to its end, is what the header says. It is not if the header does not say.
    pub fn is_of(&self, mut payload: impl Read) -> io::Result<bool> {
        let Some(wanted) = &self.payload_sha256 else {
            return Ok(false);
        };
        let mut digest = Sha256::new();
        let mut buffer = vec![0; BUFFER];
        loop {
            match payload.read(&mut buffer) {
                Ok(0) => return Ok(hex(&digest.finalize()) == *wanted),
                Ok(count) => digest.update(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Reads it, if its digest fits. `None`: this is for rpm to say.
pub fn read(mut package: impl Read) -> io::Result<Option<Header>> {
    let mut lead = [0; LEAD];
    if !fill(&mut package, &mut lead)? || lead[..4] != super::MAGIC {
        return Ok(None);
    }
    let Some(signature) = section(&mut package)? else {
        return Ok(None);
    };
    let mut padding = [0; 8];
    let padding = &mut padding[..signature.bytes.len().next_multiple_of(8) - signature.bytes.len()];
    if !fill(&mut package, padding)? {
        return Ok(None);
    }
    let Some(header) = section(&mut package)? else {
        return Ok(None);
    };
    let found = hex(&Sha256::digest(&header.bytes));
    match signature.text(SHA256_OF_HEADER) {
        Some(wanted) if wanted == found => Ok(header.said()),
        Some(_) | None => Ok(None),
    }
}

/// One header, as it is in the file.
struct Section {
    bytes: Vec<u8>,
    /// In its index.
    entries: usize,
}

fn section(package: &mut impl Read) -> io::Result<Option<Section>> {
    let mut intro = [0; INTRO];
    if !fill(package, &mut intro)? || intro[..4] != HEADER_MAGIC {
        return Ok(None);
    }
    let number = |at: usize| number(&intro, at).unwrap_or(u32::MAX) as usize;
    let (entries, data) = (number(8), number(12));
    if entries > MAX_ENTRIES || data > MAX_DATA {
        return Ok(None);
    }
    let rest = entries * ENTRY + data;
    let mut bytes = intro.to_vec();
    // Grows with what is there, not with what is claimed.
    package.take(rest as u64).read_to_end(&mut bytes)?;
    Ok((bytes.len() == INTRO + rest).then_some(Section { bytes, entries }))
}

impl Section {
    fn said(&self) -> Option<Header> {
        // Packages of sources do not say which ones they come from.
        self.text(SOURCE_RPM)?;
        let (version, release) = (self.text(VERSION)?, self.text(RELEASE)?);
        let version = match self.has(EPOCH) {
            true => match self.number(EPOCH)? {
                0 => format!("{version}-{release}"),
                epoch => format!("{epoch}:{version}-{release}"),
            },
            false => format!("{version}-{release}"),
        };
        let size = if self.has(LONG_SIZE) { LONG_SIZE } else { SIZE };
        Some(Header {
            name: self.text(NAME)?.to_owned(),
            version,
            arch: self.text(ARCH)?.to_owned(),
            size: self.number(size)?,
            payload_sha256: self.payload_sha256(),
        })
    }

    fn payload_sha256(&self) -> Option<String> {
        let is_sha256 = self.number(PAYLOAD_DIGEST_ALGORITHM)? == SHA256;
        match self.entry(PAYLOAD_DIGEST)? {
            (STRINGS, value) if is_sha256 => c_string(value).map(str::to_owned),
            _ => None,
        }
    }

    /// Type and value of each entry with this tag.
    fn entries(&self, tag: u32) -> impl Iterator<Item = (u32, &[u8])> {
        let (_, rest) = self.bytes.split_at(INTRO);
        let (index, data) = rest.split_at(self.entries * ENTRY);
        index.chunks_exact(ENTRY).filter_map(move |entry| {
            if number(entry, 0) != Some(tag) {
                return None;
            }
            let offset = number(entry, 8)? as usize;
            Some((number(entry, 4)?, data.get(offset..).unwrap_or_default()))
        })
    }

    fn has(&self, tag: u32) -> bool {
        self.entries(tag).next().is_some()
    }

    /// The only entry with this tag.
    fn entry(&self, tag: u32) -> Option<(u32, &[u8])> {
        let mut entries = self.entries(tag);
        let entry = entries.next()?;
        entries.next().is_none().then_some(entry)
    }

    fn text(&self, tag: u32) -> Option<&str> {
        match self.entry(tag)? {
            (STRING, value) => c_string(value),
            _ => None,
        }
    }

    fn number(&self, tag: u32) -> Option<u64> {
        match self.entry(tag)? {
            (INT32, value) => number(value, 0).map(u64::from),
            (INT64, value) => Some(u64::from_be_bytes(value.get(..8)?.try_into().ok()?)),
            _ => None,
        }
    }
}

/// The first one of `bytes`.
fn c_string(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(&bytes[..end]).ok()
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// False: it ends before.
fn fill(package: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match package.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Entries<'a> = &'a [(u32, u32, &'a [u8])];

    fn made(entries: Entries) -> Vec<u8> {
        let (mut index, mut data) = (Vec::<u8>::new(), Vec::<u8>::new());
        for (tag, kind, value) in entries {
            for word in [*tag, *kind, data.len() as u32, 1] {
                index.extend(word.to_be_bytes());
            }
            data.extend(*value);
        }
        let mut header = HEADER_MAGIC.to_vec();
        header.extend([0; 4]);
        header.extend((entries.len() as u32).to_be_bytes());
        header.extend((data.len() as u32).to_be_bytes());
        header.extend(index);
        header.extend(data);
        header
    }

    fn package(entries: Entries) -> Vec<u8> {
        let header = made(entries);
        let digest: String = Sha256::digest(&header)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        let digest = format!("{digest}\0");
        let mut package = vec![0; LEAD];
        package[..4].copy_from_slice(&super::super::MAGIC);
        package.extend(made(&[(SHA256_OF_HEADER, STRING, digest.as_bytes())]));
        package.resize(package.len().next_multiple_of(8), 0);
        package.extend(header);
        package
    }

    const WELL: Entries = &[
        (NAME, STRING, b"app\0"),
        (VERSION, STRING, b"1.0\0"),
        (RELEASE, STRING, b"1\0"),
        (EPOCH, INT32, &[0, 0, 0, 2]),
        (SIZE, INT32, &[0, 0, 1, 0]),
        (ARCH, STRING, b"noarch\0"),
        (SOURCE_RPM, STRING, b"app-1.0-1.src.rpm\0"),
    ];

    #[test]
    fn a_header_is_read() {
        let expected = Header {
            name: "app".into(),
            version: "2:1.0-1".into(),
            arch: "noarch".into(),
            size: 256,
            payload_sha256: None,
        };
        assert_eq!(read(&*package(WELL)).unwrap(), Some(expected));
        let without_epoch: Vec<_> = WELL.iter().filter(|entry| entry.0 != EPOCH).copied().collect();
        let read_back = read(&*package(&without_epoch)).unwrap().unwrap();
        assert_eq!(read_back.version, "1.0-1");
    }

    #[test]
    fn a_payload_is_that_of_its_header_to_the_last_byte() {
        let digest = hex(&Sha256::digest(b"payload")) + "\0";
        let with = |algorithm: &'static [u8], kind, digest: &str| {
            let mut entries = WELL.to_vec();
            entries.push((PAYLOAD_DIGEST_ALGORITHM, INT32, algorithm));
            entries.push((PAYLOAD_DIGEST, kind, digest.as_bytes()));
            package(&entries)
        };
        let is_of = |header: &[u8], payload: &str| {
            let bytes = [header, payload.as_bytes()].concat();
            let mut package = &*bytes;
            read(&mut package).unwrap().unwrap().is_of(package).unwrap()
        };
        let well = with(&[0, 0, 0, 8], STRINGS, &digest);
        assert!(is_of(&well, "payload"));
        for other in ["", "payloa", "payload ", "Payload"] {
            assert!(!is_of(&well, other), "{other}");
        }
        assert!(!is_of(&with(&[0, 0, 0, 1], STRINGS, &digest), "payload"));
        assert!(!is_of(&with(&[0, 0, 0, 8], STRING, &digest), "payload"));
        assert!(!is_of(&package(WELL), "payload"));
    }

    #[test]
    fn what_is_not_as_usual_is_left_to_rpm() {
        for (tag, kind, value) in [
            (NAME, INT32, &b"app\0"[..]),
            (NAME, STRING, b"without an end"),
            (NAME, STRING, b"\xff\0"),
            (ARCH, STRING, b""),
            (SIZE, INT32, b"\0\0"),
        ] {
            let mut entries: Vec<_> = WELL.iter().filter(|entry| entry.0 != tag).copied().collect();
            assert_eq!(read(&*package(&entries)).unwrap(), None, "without {tag}");
            entries.push((tag, kind, value));
            assert_eq!(read(&*package(&entries)).unwrap(), None, "{tag}: {value:?}");
        }
        let twice: Vec<_> = WELL
            .iter()
            .chain([&(NAME, STRING, &b"other\0"[..])])
            .copied()
            .collect();
        assert_eq!(read(&*package(&twice)).unwrap(), None);
        let sources: Vec<_> = WELL
            .iter()
            .filter(|entry| entry.0 != SOURCE_RPM)
            .copied()
            .collect();
        assert_eq!(read(&*package(&sources)).unwrap(), None);
    }

    #[test]
    fn a_byte_that_differs_or_is_missing_anywhere_is_seen() {
        let whole = package(WELL);
        let said = read(&*whole).unwrap();
        let header = whole.len() - made(WELL).len();
        for at in 0..whole.len() {
            assert_eq!(read(&whole[..at]).unwrap(), None, "{at}");
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            // The rest of the lead, and padding, say nothing.
            let read = read(&*changed).unwrap();
            assert!(read.is_none() || (at < header && read == said), "{at}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..600),
            entries in 0u8..20,
            data in any::<u8>(),
        ) {
            let _ = read(&*bytes);
            // Further in.
            let mut package = package(WELL);
            let at = package.len() - made(WELL).len();
            let mut header = HEADER_MAGIC.to_vec();
            header.extend([0, 0, 0, 0, 0, 0, 0, entries, 0, 0, 0, data]);
            bytes.resize(INTRO.max(usize::from(entries) * ENTRY + usize::from(data)), 7);
            header.extend(&bytes);
            package.truncate(at);
            package.extend(&header);
            let _ = read(&*package);
            let section = section(&mut &*header).unwrap();
            if let Some(section) = section {
                let _ = section.said();
            }
        }
    }
}
