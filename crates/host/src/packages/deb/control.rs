//! The control archive of a Debian package (deb(5), deb-control(5)): a tar archive, uncompressed here.
//!
//! Only what is in every way as usual is read; of anything else `dpkg-deb` is asked, and says what is wrong
//! with it.

use std::io::Read;
use std::path::PathBuf;

use super::relations::{self, Relations};

/// Of one file in it.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// What it says of the package.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Control {
    pub name: String,
    /// Full version, as dpkg shows it.
    pub version: String,
    pub arch: String,
    /// KiB; 0 if it does not say.
    pub installed_size: u64,
    /// Its configuration files, as absolute paths.
    pub conffiles: Vec<PathBuf>,
    /// `None`: there is something in it that only dpkg can say whether it takes it, or what it means.
    pub relations: Option<Relations>,
}

/// Reads it. `None`: this is for dpkg-deb to say.
pub fn read(archive: &[u8]) -> Option<Control> {
    let (mut control, mut conffiles) = (None, None);
    let mut all_plain = true;
    for entry in tar::Archive::new(archive).entries().ok()? {
        let mut entry = entry.ok()?;
        all_plain &= is_plain_member(&entry);
        let known = match entry.path_bytes().as_ref() {
            b"./control" | b"control" => &mut control,
            b"./conffiles" | b"conffiles" => &mut conffiles,
            _ => continue,
        };
        let size = entry.size();
        if known.is_some() || !entry.header().entry_type().is_file() || size > MAX_FILE {
            return None;
        }
        let mut text = String::new();
        entry.read_to_string(&mut text).ok()?;
        if text.len() as u64 != size {
            return None;
        }
        *known = Some(text);
    }
    let mut said = of_text(&control?)?;
    if !all_plain {
        said.relations = None;
    }
    said.conffiles = listed(&conffiles.unwrap_or_default());
    Some(said)
}

/// dpkg unpacks the archive before it reads it: whether nothing can be wrong with this member.
fn is_plain_member(entry: &tar::Entry<'_, &[u8]>) -> bool {
    let path = entry.path_bytes();
    let name = path.strip_prefix(b"./").unwrap_or(&path);
    match entry.header().entry_type() {
        tar::EntryType::Directory => matches!(&*path, b"./" | b"."),
        tar::EntryType::Regular => {
            let is_usual = |byte: &u8| byte.is_ascii_alphanumeric() || b".+-_".contains(byte);
            // dpkg's limit for all of it is 50.
            name.first().is_some_and(u8::is_ascii_alphabetic) && name.len() < 40 && name.iter().all(is_usual)
        }
        _ => false,
    }
}

fn of_text(text: &str) -> Option<Control> {
    let fields = fields(text)?;
    let field = |name: &str| -> Option<&str> {
        let mut values = fields.iter().filter(|(other, _)| other == name);
        let value = values.next().map_or("", |(_, value)| value);
        values.next().is_none().then_some(value)
    };
    let first_line = |value: &str| value.lines().next().unwrap_or_default().trim().to_owned();
    let mut control = Control {
        name: first_line(field("package")?),
        version: shown(&first_line(field("version")?))?,
        arch: first_line(field("architecture")?),
        installed_size: first_line(field("installed-size")?).parse().unwrap_or(0),
        conffiles: Vec::new(),
        relations: None,
    };
    // dpkg writes them in small letters.
    let is_plain = |text: &str| !text.is_empty() && !text.contains(char::is_whitespace);
    let is_usual = is_plain(&control.name) && is_plain(&control.version) && is_plain(&control.arch);
    if !is_usual || control.name.contains(|c: char| c.is_ascii_uppercase()) {
        return None;
    }
    if has_plain_lines(text) {
        control.relations = relations_in(&fields);
    }
    Some(control)
}

/// Names in small letters, each with its value, the lines of which are joined by newlines. `None`: it is no paragraph.
fn fields(text: &str) -> Option<Vec<(String, String)>> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.trim_end().lines() {
        // A second paragraph, or a comment.
        if line.trim().is_empty() || line.starts_with('#') {
            return None;
        }
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
            continue;
        }
        let (name, value) = line.split_once(':')?;
        fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Some(fields)
}

/// Whether its lines are those that dpkg reads, too.
fn has_plain_lines(text: &str) -> bool {
    let is_odd = |byte: u8| byte.is_ascii_control() && byte != b'\n' && byte != b'\t';
    text.ends_with('\n') && !text.bytes().any(is_odd) && !text.starts_with([' ', '\t'])
}

/// Fields that dpkg keeps without a look at what they say.
const FREE_TEXT: [&str; 17] = [
    "bugs",
    "built-using",
    "description",
    "homepage",
    "installed-size",
    "license",
    "maintainer",
    "origin",
    "original-maintainer",
    "priority",
    "section",
    "source",
    "static-built-using",
    "tag",
    "url",
    "vcs-git",
    "vendor",
];

fn relations_in(fields: &[(String, String)]) -> Option<Relations> {
    let mut relations = Relations::default();
    for (position, (name, value)) in fields.iter().enumerate() {
        // dpkg refuses a field that is there twice, and at the end of the file one that is empty.
        if value.is_empty() || fields.iter().skip(position + 1).any(|(other, _)| other == name) {
            return None;
        }
        let (kept, is_plain) = match name.as_str() {
            "package" => (None, relations::is_name(value)),
            "version" => (None, relations::is_version(value)),
            "architecture" => (None, relations::is_name(value)),
            "multi-arch" => (None, matches!(value.as_str(), "no" | "foreign" | "allowed")),
            "essential" | "protected" => (None, value == "no"),
            "pre-depends" => (
                Some(&mut relations.pre_depends),
                relations::clauses(value).is_some(),
            ),
            "depends" => (Some(&mut relations.depends), relations::clauses(value).is_some()),
            "conflicts" => (Some(&mut relations.conflicts), relations::atoms(value).is_some()),
            "breaks" => (Some(&mut relations.breaks), relations::atoms(value).is_some()),
            "provides" => (
                Some(&mut relations.provides),
                relations::provided(value).is_some(),
            ),
            "replaces" => (None, relations::atoms(value).is_some()),
            "recommends" | "suggests" | "enhances" => (None, relations::clauses(value).is_some()),
            other => (None, FREE_TEXT.contains(&other)),
        };
        if !is_plain {
            return None;
        }
        if let Some(kept) = kept {
            kept.clone_from(value);
        }
    }
    Some(relations)
}

/// dpkg shows no epoch of 0. `None`: not a version as it is usually written.
fn shown(version: &str) -> Option<String> {
    match version.split_once(':') {
        None => Some(version.to_owned()),
        Some((_, rest)) if rest.contains(':') => None,
        Some((epoch, rest)) => {
            let digits = !epoch.is_empty() && epoch.bytes().all(|byte| byte.is_ascii_digit());
            match digits.then(|| epoch.parse::<i32>().ok()).flatten()? {
                0 => Some(rest.to_owned()),
                epoch => Some(format!("{epoch}:{rest}")),
            }
        }
    }
}

/// `[FLAG ]PATH` a line (deb-conffiles(5)).
pub fn listed(text: &str) -> Vec<PathBuf> {
    let paths = text
        .lines()
        .filter_map(|line| line.find('/').map(|at| &line[at..]));
    paths.map(|path| PathBuf::from(path.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONTROL: &str = "Package: app\nVersion: 1.0-1\nArchitecture: amd64\nInstalled-Size: 12\nDescription: short\n \
                           long\n .\n Version: 9\n";

    fn archive(files: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, path, text.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn it_is_read() {
        let files = [
            ("./postinst", "#!/bin/sh\n"),
            ("./control", CONTROL),
            (
                "./conffiles",
                "/etc/app.conf\nremove-on-upgrade /etc/old name.conf\n\n",
            ),
        ];
        let expected = Control {
            name: "app".into(),
            version: "1.0-1".into(),
            arch: "amd64".into(),
            installed_size: 12,
            conffiles: ["/etc/app.conf", "/etc/old name.conf"].map(PathBuf::from).into(),
            relations: Some(Relations::default()),
        };
        assert_eq!(read(&archive(&files)), Some(expected.clone()));
        let bare = Control {
            conffiles: Vec::new(),
            ..expected
        };
        assert_eq!(read(&archive(&[("control", CONTROL)])), Some(bare));
    }

    #[test]
    fn what_is_not_as_usual_is_left_to_dpkg() {
        for text in [
            "",
            "Package: app\nVersion: 1\n",
            "Package: app\nArchitecture: all\n",
            "Package: app\nPackage: b\nVersion: 1\nArchitecture: all\n",
            "Package: app\n\nVersion: 1\nArchitecture: all\n",
            "Package: app\nno field\nVersion: 1\nArchitecture: all\n",
            "Package: App\nVersion: 1\nArchitecture: all\n",
            "Package: a b\nVersion: 1\nArchitecture: all\n",
            "Package: app\nVersion: x:1\nArchitecture: all\n",
            "Package: app\nVersion: 99999999999:1\nArchitecture: all\n",
        ] {
            assert_eq!(read(&archive(&[("./control", text)])), None, "{text}");
        }
        assert_eq!(read(&archive(&[("./md5sums", "")])), None);
        let twice = [("./control", CONTROL), ("control", CONTROL)];
        assert_eq!(read(&archive(&twice)), None);
        let whole = archive(&[("./control", CONTROL)]);
        for len in 0..512 + CONTROL.len() {
            assert_eq!(read(&whole[..len]), None, "{len}");
        }
    }

    #[test]
    fn an_epoch_is_written_as_dpkg_writes_it() {
        let table = [
            ("1.0", Some("1.0")),
            ("0:1.0", Some("1.0")),
            ("01:1.0", Some("1:1.0")),
            (":1", None),
            ("1:2:3", None),
        ];
        for (version, want) in table {
            assert_eq!(shown(version).as_deref(), want, "{version}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..2000),
            at in 0usize..1024,
        ) {
            let _ = read(&bytes);
            let mut archive = archive(&[("./control", CONTROL), ("./conffiles", "/etc/a\n")]);
            for (old, new) in archive.iter_mut().skip(at).zip(bytes) {
                *old = new;
            }
            let _ = read(&archive);
        }
    }
}
