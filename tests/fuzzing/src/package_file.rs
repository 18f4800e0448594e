//! What package files say of themselves: the control archive of a Debian package (a tar archive), and the header of an rpm
//! package.

use host::packages::fuzzing::{DebControl, deb_control, rpm_header};
use sha2::{Digest, Sha256};

/// What an rpm header begins with; all else is taken for a control archive.
const HEADER_MAGIC: [u8; 4] = [0x8E, 0xAD, 0xE8, 0x01];
const LEAD_MAGIC: [u8; 4] = [0xED, 0xAB, 0xEE, 0xDB];
const LEAD: usize = 96;
const INTRO: usize = 16;
const ENTRY: usize = 16;
/// Tag and type of the header's digest among the signatures.
const SHA256_OF_HEADER: u32 = 273;
const STRING: u32 = 6;

pub fn check(data: &[u8]) {
    if data.starts_with(&HEADER_MAGIC) {
        return check_header(data);
    }
    let Some(control) = deb_control(data) else {
        return;
    };
    let DebControl {
        name,
        version,
        conffiles,
    } = &control;
    for word in [name, version] {
        assert!(
            !word.is_empty() && !word.contains(char::is_whitespace),
            "{word:?}"
        );
    }
    for path in conffiles {
        assert!(path.is_absolute(), "{}", path.display());
    }
    let kept: usize = conffiles.iter().map(|path| path.as_os_str().len()).sum();
    assert!(name.len() + version.len() + kept <= data.len());
    assert_eq!(
        deb_control(data),
        Some(control),
        "read again it says something else"
    );
}

/// A header by itself would not get past its digest: it is put into a package whose digest fits.
fn check_header(header: &[u8]) {
    let signed = &header[..len_of_section(header).min(header.len())];
    let package = [&before_header(signed), header].concat();
    let read =
        |bytes: &[u8]| rpm_header(bytes).unwrap_or_else(|error| panic!("reading from memory: {error}"));
    let said = read(&package);
    if let Some((name, version)) = &said {
        assert!(name.len() + version.len() <= header.len() + "4294967295:-".len());
    }
    // What follows is the payload.
    if signed.len() < header.len() {
        assert_eq!(
            said,
            read(&package[..package.len() - header.len() + signed.len()])
        );
    }
    // One bit of it is another header, which nobody has digested.
    if let Some(last) = signed.len().checked_sub(1) {
        let mut other = package.clone();
        other[package.len() - header.len() + last] ^= 1;
        assert_eq!(read(&other), None, "the digest of another header was taken");
    }
}

/// As its introduction says.
fn len_of_section(header: &[u8]) -> usize {
    let number = |at: usize| {
        let bytes = header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, |bytes| u32::from_be_bytes(bytes) as usize)
    };
    INTRO + number(8) * ENTRY + number(12)
}

/// A lead, and a header of signatures with the digest of `signed`, padded.
fn before_header(signed: &[u8]) -> Vec<u8> {
    let mut bytes = LEAD_MAGIC.to_vec();
    bytes.resize(LEAD, 0);
    let digest: String = Sha256::digest(signed)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    bytes.extend(HEADER_MAGIC);
    bytes.extend([0; 4]);
    for number in [1, digest.len() as u32 + 1, SHA256_OF_HEADER, STRING, 0, 1] {
        bytes.extend(number.to_be_bytes());
    }
    bytes.extend(digest.bytes().chain([0]));
    // The lead's length is a multiple of 8.
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// Else all headers would be refused alike, and the promises about those that are taken be about none.
#[test]
fn headers_get_past_their_digest() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/package_file");
    let files = std::fs::read_dir(corpus).unwrap();
    let inputs = files.map(|file| std::fs::read(file.unwrap().path()).unwrap());
    let (headers, archives): (Vec<_>, Vec<_>) = inputs.partition(|input| input.starts_with(&HEADER_MAGIC));
    let taken = headers.iter().filter(|header| {
        let package = [
            &before_header(&header[..len_of_section(header).min(header.len())]),
            &header[..],
        ]
        .concat();
        rpm_header(&package).unwrap().is_some()
    });
    let taken = taken.count();
    assert!(taken >= 4, "{taken} of {}", headers.len());
    let taken = archives
        .iter()
        .filter(|archive| deb_control(archive).is_some())
        .count();
    assert!(taken >= 5, "{taken} of {}", archives.len());
}
