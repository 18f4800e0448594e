//! Files of applications: finds them without leaving the root, and opens them without following
//! links that root must not follow.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use crate::Root;

/// The kernel's own limit.
const MAX_LINKS: usize = 40;
/// That of FAT (2 s), and one second for the fraction that is not compared.
const COARSEST_CLOCK: Duration = Duration::from_secs(3);
const WORLD_WRITABLE: u32 = 0o002;

/// The real path of `path` (as the host's programs name it). Symbolic links are followed as if the
/// root were `/`, so that none leads out of a sandbox. The file itself need not exist.
///
/// The agent is root, and the folder may belong to the application: a link is followed only if root
/// owns it, or if its owner also owns its target.
pub fn resolve(root: &Root, path: &Path) -> io::Result<PathBuf> {
    match plain(root, path) {
        PlainPath::There(real, _) | PlainPath::Missing(real) => Ok(real),
        PlainPath::Unknown => resolve_by_parts(root, path),
    }
}

/// The result of one system call that fails if a link is on the way.
enum PlainPath {
    There(PathBuf, OwnedFd),
    Missing(PathBuf),
    /// A link is on the way, the call is not available (before Linux 5.6, or not allowed), or the
    /// open failed.
    Unknown,
}

fn plain(root: &Root, path: &Path) -> PlainPath {
    open_if_plain(root, path, OFlags::PATH)
}

fn open_if_plain(root: &Root, path: &Path, flags: OFlags) -> PlainPath {
    let is_plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
    if !path.components().all(is_plain) {
        return PlainPath::Unknown;
    }
    let real = root.join(path);
    match open_plain(&real, flags | OFlags::CLOEXEC) {
        Ok(file) => PlainPath::There(real, file),
        Err(Errno::NOENT | Errno::NOTDIR) => PlainPath::Missing(real),
        Err(_) => PlainPath::Unknown,
    }
}

/// Opens `real`; fails if it is a symbolic link, or one is on the way.
fn open_plain(real: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    openat2(CWD, real, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
}

fn resolve_by_parts(root: &Root, path: &Path) -> io::Result<PathBuf> {
    let mut real = root.path().to_owned();
    let mut depth = 0_usize;
    let mut todo: Vec<PathBuf> = vec![path.to_owned()];
    let mut links: Vec<(PathBuf, u32)> = Vec::new();
    while let Some(part) = todo.pop() {
        let mut parts = part.components();
        let Some(first) = parts.next() else { continue };
        let rest = parts.as_path().to_owned();
        if !rest.as_os_str().is_empty() {
            todo.push(rest);
        }
        match first {
            Component::RootDir | Component::Prefix(_) => {
                real = root.path().to_owned();
                depth = 0;
            }
            Component::CurDir => {}
            Component::ParentDir => {
                if depth > 0 {
                    real.pop();
                    depth -= 1;
                }
            }
            Component::Normal(name) => {
                real.push(name);
                depth += 1;
                let Some(found) = exists(fs::symlink_metadata(&real))? else {
                    continue;
                };
                if found.is_symlink() {
                    links.push((real.clone(), found.uid()));
                    if links.len() > MAX_LINKS {
                        return Err(io::Error::other("too many symbolic links"));
                    }
                    todo.push(fs::read_link(&real)?);
                    real.pop();
                    depth -= 1;
                }
            }
        }
    }
    let owner = exists(fs::symlink_metadata(&real))?.map(|file| file.uid());
    let agent = rustix::process::geteuid().as_raw();
    for (link, maker) in links {
        if maker != 0 && maker != agent && Some(maker) != owner {
            return Err(io::Error::other(format!(
                "refusing to follow the symbolic link {}: it belongs to user {maker}, but its target does not",
                link.display()
            )));
        }
    }
    Ok(real)
}

/// The real path of a file that exists, and its metadata.
pub fn find(root: &Root, path: &Path) -> io::Result<Option<(PathBuf, Metadata)>> {
    if root.is_host() && look(root, path)?.is_none() {
        return Ok(None);
    }
    match plain(root, path) {
        PlainPath::There(real, file) => Ok(Some((real, File::from(file).metadata()?))),
        PlainPath::Missing(_) => Ok(None),
        PlainPath::Unknown => {
            let real = resolve_by_parts(root, path)?;
            Ok(exists(fs::symlink_metadata(&real))?.map(|metadata| (real, metadata)))
        }
    }
}

/// The metadata of `path`, links followed. One system call on the host itself; in a sandbox the
/// kernel would follow links out of it.
pub fn look(root: &Root, path: &Path) -> io::Result<Option<Metadata>> {
    if root.is_host() {
        exists(fs::metadata(path))
    } else {
        Ok(find(root, path)?.map(|(_, metadata)| metadata))
    }
}

/// `None`: the file does not exist.
pub fn exists<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// A file's bytes, and its metadata when they were read.
pub type Content = (Vec<u8>, Metadata);

/// A regular file's bytes, at most `cap`; `None`: there is no such file. `path` is a real path.
pub fn read_capped(path: &Path, cap: u64) -> io::Result<Option<Content>> {
    // NONBLOCK: opening a named pipe must not wait for a writer.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags as i32)
        .open(path);
    exists(opened)?.map(|file| read_to_cap(file, cap)).transpose()
}

fn read_to_cap(file: File, cap: u64) -> io::Result<Content> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(cap + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > cap {
        true => Err(io::Error::other(format!("it is larger than {cap} bytes"))),
        false => Ok((bytes, metadata)),
    }
}

/// [`resolve`], then [`read_capped`]: the file is opened once where no link is on the way.
pub fn resolve_and_read(root: &Root, path: &Path, cap: u64) -> io::Result<(PathBuf, Option<Content>)> {
    // NONBLOCK: as in `read_capped`.
    match open_if_plain(root, path, OFlags::RDONLY | OFlags::NONBLOCK) {
        PlainPath::There(real, file) => Ok((real, Some(read_to_cap(file.into(), cap)?))),
        PlainPath::Missing(real) => Ok((real, None)),
        PlainPath::Unknown => {
            let real = resolve(root, path)?;
            let read = read_capped(&real, cap)?;
            Ok((real, read))
        }
    }
}

/// Why root must not follow this file; `None`: it may.
pub fn distrust(owner: u32, mode: u32) -> Option<String> {
    if owner != 0 {
        return Some(format!("belongs to user {owner}, not to root"));
    }
    (mode & WORLD_WRITABLE != 0).then(|| format!("is writable by everybody (mode {:04o})", mode & 0o7777))
}

/// [`distrust`] for a file and its folder. Checked only on the host itself, as root.
pub fn check_trust(root: &Root, path: &Path, file: &Metadata) -> Result<(), String> {
    if !root.is_host() || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let refusal = |path: &Path, why: String| {
        Err(format!(
            "{} {why}, but the agent follows it as root. Run `chown root {0}; chmod o-w {0}`",
            path.display()
        ))
    };
    if let Some(why) = distrust(file.uid(), file.mode()) {
        return refusal(path, why);
    }
    let Some(folder) = path.parent() else {
        return Ok(());
    };
    match fs::metadata(folder) {
        Ok(metadata) => match distrust(metadata.uid(), metadata.mode()) {
            Some(why) => refusal(folder, why),
            None => Ok(()),
        },
        Err(error) => Err(format!("cannot read {}: {error}", folder.display())),
    }
}

/// Identifies one state of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether a change after `now` must give another stamp. The kernel's clock has steps of
    /// milliseconds, that of some file systems 2 s: two changes within one step may look like one.
    pub fn tells_every_change(&self, now: SystemTime) -> bool {
        let changed = u64::try_from(self.changed.0).map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
        changed.is_ok_and(|changed| now.duration_since(changed).is_ok_and(|ago| ago > COARSEST_CLOCK))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_no_link_leads_to_is_found_in_one_call_as_it_is_part_by_part() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(fs::canonicalize(dir.path()).unwrap());
        fs::create_dir_all(root.join("/etc/app")).unwrap();
        fs::write(root.join("/etc/app/a.ini"), "12").unwrap();
        symlink("a.ini", root.join("/etc/app/link.ini")).unwrap();
        symlink("/nowhere", root.join("/etc/app/dangling")).unwrap();
        symlink("/etc/app", root.join("/etc/other")).unwrap();
        // What it is, whether in one call, and its size where it is there.
        let table = [
            ("/etc/app/a.ini", true, Some(2)),
            ("/etc/app/none.ini", true, None),
            ("/none/none.ini", true, None),
            ("/etc/app/a.ini/none", true, None),
            ("/etc/app/link.ini", false, Some(2)),
            ("/etc/app/dangling", false, None),
            ("/etc/other/a.ini", false, Some(2)),
            ("/etc/other/none.ini", false, None),
            ("/etc/app/../app/a.ini", false, Some(2)),
        ];
        for (path, in_one_call, size) in table {
            let path = Path::new(path);
            let known = !matches!(plain(&root, path), PlainPath::Unknown);
            assert_eq!(known, in_one_call, "{path:?}");
            let by_parts = resolve_by_parts(&root, path).unwrap();
            assert_eq!(resolve(&root, path).unwrap(), by_parts, "{path:?}");
            let found = find(&root, path).unwrap();
            assert_eq!(
                found.as_ref().map(|(_, metadata)| metadata.len()),
                size,
                "{path:?}"
            );
            assert!(found.is_none_or(|(real, _)| real == by_parts), "{path:?}");
            let (real, read) = resolve_and_read(&root, path, 10).unwrap();
            assert_eq!(real, by_parts, "{path:?}");
            assert_eq!(read.map(|(bytes, _)| bytes.len() as u64), size, "{path:?}");
        }
    }

    /// On a kernel with fine time stamps nothing else would show it.
    #[test]
    fn a_stamp_that_is_young_or_of_the_future_need_not_tell_the_next_change() {
        let dir = tempfile::tempdir().unwrap();
        let mut stamp = Stamp::of(&fs::metadata(dir.path()).unwrap());
        for (seconds, tells) in [
            (-1, false),
            (0, false),
            (2, false),
            (3, false),
            (4, true),
            (9999, true),
        ] {
            stamp.changed = (1_000_000 - seconds, 0);
            let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
            assert_eq!(stamp.tells_every_change(now), tells, "{seconds} s ago");
        }
    }

    #[test]
    fn links_are_followed_as_if_the_root_were_slash() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        fs::create_dir_all(root.join("/etc/app")).unwrap();
        fs::create_dir_all(root.join("/srv/conf")).unwrap();
        symlink("/srv/conf", root.join("/etc/app/absolute")).unwrap();
        symlink("../../../../srv/conf", root.join("/etc/app/upward")).unwrap();
        symlink("loop", root.join("/etc/app/loop")).unwrap();
        let real = root.join("/srv/conf/a.ini");
        for path in [
            "/srv/conf/a.ini",
            "/etc/app/absolute/a.ini",
            "/etc/app/upward/a.ini",
            "/etc/app/../../../srv/./conf/a.ini",
        ] {
            assert_eq!(resolve(&root, Path::new(path)).unwrap(), real, "{path}");
        }
        assert!(resolve(&root, Path::new("/etc/app/loop")).is_err());
    }

    #[test]
    fn a_link_of_someone_else_to_a_file_that_is_not_theirs_is_not_followed() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        fs::write(root.join("/shadow"), "root's").unwrap();
        symlink("/shadow", root.join("/app.ini")).unwrap();
        std::os::unix::fs::lchown(root.join("/app.ini"), Some(12345), Some(12345)).unwrap();
        let error = resolve(&root, Path::new("/app.ini")).unwrap_err();
        assert!(error.to_string().contains("belongs to user 12345"), "{error}");
        std::os::unix::fs::chown(root.join("/shadow"), Some(12345), None).unwrap();
        assert_eq!(
            resolve(&root, Path::new("/app.ini")).unwrap(),
            root.join("/shadow")
        );
    }

    #[test]
    fn only_a_regular_file_of_bounded_size_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(CWD, &pipe, rustix::fs::FileType::Fifo, Mode::from(0o600), 0).unwrap();
        assert!(
            read_capped(&pipe, 10)
                .unwrap_err()
                .to_string()
                .contains("not a regular file")
        );
        let file = dir.path().join("file");
        fs::write(&file, "01234567890").unwrap();
        assert!(
            read_capped(&file, 10)
                .unwrap_err()
                .to_string()
                .contains("larger than 10")
        );
        assert_eq!(read_capped(&file, 11).unwrap().unwrap().0.len(), 11);
        assert!(read_capped(&dir.path().join("none/x"), 10).unwrap().is_none());
    }

    #[test]
    fn root_takes_orders_from_root_only() {
        assert_eq!(distrust(0, 0o100755), None);
        assert_eq!(distrust(0, 0o100775), None);
        assert!(distrust(0, 0o100757).is_some_and(|why| why.contains("by everybody (mode 0757)")));
        assert!(distrust(1000, 0o100755).is_some_and(|why| why.contains("user 1000")));
    }
}
