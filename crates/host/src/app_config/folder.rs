//! What a folder holds, so that an observation asks the kernel once and not for each application.

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir};
use rustix::io::Errno;

use crate::Root;
use crate::paths::{Stamp, open_plain, resolve};

/// What a folder held at one moment. Nothing is kept from one moment to the next: whether that still holds
/// would cost nearly as much to find out, and could be wrong where a file system's times are coarse.
pub struct Listing {
    path: &'static str,
    content: Content,
}

enum Content {
    /// Not known: a link leads there within a sandbox, or it can't be read.
    Unknown,
    /// There is no such folder.
    Missing,
    Open {
        folder: OwnedFd,
        /// Read when they are first asked for; `None`: they can't be.
        names: OnceCell<Option<Names>>,
        /// In a sandbox the kernel would follow links out of it: they are left to who follows them within.
        follow: bool,
    },
}

/// What a folder says of one of its entries.
pub enum Entry {
    /// To be looked at by its path.
    Unknown,
    Missing,
    /// There, and where a link leads to if it is one.
    There(Stamp),
}

impl Listing {
    /// Of `path`, as the host's programs name it.
    pub fn of(root: &Root, path: &'static str) -> Self {
        let follow = root.is_host();
        let content = match open(root, path) {
            Ok(Some(folder)) => Content::Open {
                folder,
                names: OnceCell::new(),
                follow,
            },
            Ok(None) => Content::Missing,
            Err(_) => Content::Unknown,
        };
        Self { path, content }
    }

    /// Of a folder that nobody has looked into.
    pub fn unknown(path: &'static str) -> Self {
        Self {
            path,
            content: Content::Unknown,
        }
    }

    /// Whether it is certain that there is no such folder.
    pub fn is_missing(&self) -> bool {
        matches!(self.content, Content::Missing)
    }

    /// False only where it is certain that there is no such entry.
    pub fn may_hold(&self, name: impl AsRef<OsStr>) -> bool {
        match &self.content {
            Content::Unknown => true,
            Content::Missing => false,
            Content::Open { folder, names, .. } => names
                .get_or_init(|| Names::in_folder(folder).ok())
                .as_ref()
                .is_none_or(|names| names.hold(name.as_ref().as_bytes())),
        }
    }

    pub fn path(&self) -> &'static str {
        self.path
    }

    /// Looks at an entry, as it is now.
    pub fn entry(&self, name: &str) -> Entry {
        let (folder, follow) = match &self.content {
            Content::Unknown => return Entry::Unknown,
            Content::Missing => return Entry::Missing,
            Content::Open { folder, follow, .. } => (folder, *follow),
        };
        let flags = match follow {
            true => AtFlags::empty(),
            false => AtFlags::SYMLINK_NOFOLLOW,
        };
        match rustix::fs::statat(folder, name, flags) {
            Ok(found) if FileType::from_raw_mode(found.st_mode).is_symlink() => Entry::Unknown,
            Ok(found) => Entry::There(Stamp::of_stat(&found)),
            Err(Errno::NOENT) => Entry::Missing,
            Err(_) => Entry::Unknown,
        }
    }
}

/// `None`: there is none. An error, too, where a link of a sandbox leads there.
fn open(root: &Root, path: &str) -> rustix::io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let real = root.join(path);
    let opened = match root.is_host() {
        true => rustix::fs::openat(CWD, &real, flags, Mode::empty()),
        false => match open_plain(&real, flags) {
            Ok(folder) => Ok(folder),
            Err(absent @ (Errno::NOENT | Errno::NOTDIR)) => Err(absent),
            // The link may be on the way to the sandbox itself, or this kernel can't tell.
            Err(_) if resolve(root, Path::new(path)).is_ok_and(|found| found == real) => {
                rustix::fs::openat(CWD, &real, flags | OFlags::NOFOLLOW, Mode::empty())
            }
            Err(error) => Err(error),
        },
    };
    match opened {
        Ok(folder) => Ok(Some(folder)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Which names a folder has, by numbers that stand for them: few bytes, and quick to look through. Of two names with one
/// number both count as there, which is found out when the entry is looked at.
struct Names(Vec<u64>);

impl Names {
    fn in_folder(folder: &OwnedFd) -> rustix::io::Result<Self> {
        let mut names = Vec::new();
        let mut buffer = [MaybeUninit::<u8>::uninit(); 8 * 1024];
        let mut entries = RawDir::new(folder, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(number(name));
            }
        }
        names.sort_unstable();
        Ok(Self(names))
    }

    fn hold(&self, name: &[u8]) -> bool {
        self.0.binary_search(&number(name)).is_ok()
    }
}

/// FNV-1a.
fn number(name: &[u8]) -> u64 {
    let step = |number: u64, byte: &u8| (number ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    name.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const PATH: &str = "/etc/apps";

    #[test]
    fn it_holds_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert!(!Listing::of(&root, PATH).may_hold("a"), "there is no folder");
        fs::create_dir_all(root.join(PATH)).unwrap();
        assert!(!Listing::of(&root, PATH).may_hold("a"));
        // More than one buffer of them.
        for number in 0..1000 {
            fs::write(root.join(format!("/etc/apps/name-{number}")), "").unwrap();
        }
        let listing = Listing::of(&root, PATH);
        assert!((0..1000).all(|number| listing.may_hold(format!("name-{number}"))));
        for other in ["", ".", "..", "name-", "name-1000", "zzz"] {
            assert!(!listing.may_hold(other), "{other:?}");
        }
        assert!(
            !Listing::of(&root, "/etc/apps/name-1").may_hold("a"),
            "it is no folder"
        );
    }

    #[test]
    fn an_entry_is_as_it_is_now() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        fs::create_dir_all(root.join(PATH)).unwrap();
        let file = root.join("/etc/apps/a");
        fs::write(&file, "").unwrap();
        let listing = Listing::of(&root, PATH);
        let stamp = |listing: &Listing| match listing.entry("a") {
            Entry::There(stamp) => stamp,
            Entry::Unknown | Entry::Missing => panic!("it is there"),
        };
        let before = stamp(&listing);
        assert_eq!(before, Stamp::of(&fs::metadata(&file).unwrap()));
        fs::write(&file, "longer").unwrap();
        assert_ne!(stamp(&listing), before);
        fs::remove_file(&file).unwrap();
        assert!(matches!(listing.entry("a"), Entry::Missing));
        symlink("/etc/passwd", &file).unwrap();
        assert!(
            matches!(listing.entry("a"), Entry::Unknown),
            "it may lead out of the sandbox"
        );
        assert!(matches!(Listing::unknown(PATH).entry("a"), Entry::Unknown));
    }

    #[test]
    fn of_a_link_in_a_sandbox_nothing_is_known_beforehand() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        fs::create_dir_all(root.join("/srv/apps")).unwrap();
        fs::create_dir_all(root.join("/etc")).unwrap();
        symlink("/srv/apps", root.join(PATH)).unwrap();
        let listing = Listing::of(&root, PATH);
        assert!(listing.may_hold("a"));
        fs::write(root.join("/srv/apps/a"), "").unwrap();
        assert!(matches!(listing.entry("a"), Entry::Unknown));
    }
}
