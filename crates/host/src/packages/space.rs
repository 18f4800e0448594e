//! Whether the files of Debian packages have room, on each file system that they go to. apt and
//! dpkg do not check this; rpm does.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use protocol::Category;

use crate::{HostError, Root};

/// What a file takes up on the disk is a multiple of this.
const BLOCK: u64 = 4096;
/// File systems that packages go to. Others are not checked: a network file system may not answer.
const LOCAL_TYPES: [&str; 10] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "overlay", "tmpfs", "bcachefs",
];
/// No package ships anything below these.
const UNUSED: [&str; 5] = ["/dev", "/proc", "/run", "/sys", "/tmp"];

/// Files with their sizes, by absolute path without the root.
pub type Files = Vec<(PathBuf, u64)>;

/// A package to install, and the version that it replaces.
#[derive(Debug, Default)]
pub struct Arrival {
    pub name: String,
    pub new: Files,
    pub old: Vec<PathBuf>,
}

/// Whether `bytes` fit on every file system under `root`. Then no file list has to be read.
pub fn is_ample(root: &Root, bytes: u64) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut places = mount_points(&mounts, root.path());
    places.push(root.path().to_owned());
    places
        .iter()
        .filter_map(|place| free(place))
        .all(|free| bytes <= free)
}

/// Refuses packages that would fill a file system. Names the first file system without enough
/// space.
pub fn check(root: &Root, arrivals: &[Arrival]) -> Result<(), HostError> {
    let mut needs: BTreeMap<u64, SpaceNeed> = BTreeMap::new();
    for arrival in arrivals {
        for (device, (new, old, folder)) in by_file_system(root, arrival) {
            let need = needs.entry(device).or_insert_with(|| SpaceNeed {
                folder,
                grows: 0,
                twice: 0,
                names: Vec::new(),
            });
            need.grows += new.saturating_sub(old);
            need.twice = need.twice.max(new.min(old));
            if new > 0 {
                need.names.push(arrival.name.clone());
            }
        }
    }
    needs.values().try_for_each(SpaceNeed::check)
}

/// The space that is needed on one file system.
struct SpaceNeed {
    /// A folder on it.
    folder: PathBuf,
    /// What the new versions take up beyond the old ones.
    grows: u64,
    /// Of one package old and new files are there at the same time; this is the largest.
    twice: u64,
    names: Vec<String>,
}

impl SpaceNeed {
    fn check(&self) -> Result<(), HostError> {
        let needed = self.grows + self.twice;
        let Some(free) = free(&self.folder).filter(|free| needed > *free) else {
            return Ok(());
        };
        let mib = |bytes: u64| bytes.div_ceil(1024 * 1024);
        let message = format!(
            "{} {} up {} MiB on {} but only {} MiB are free there: free some space",
            self.names.join(", "),
            if self.names.len() == 1 { "takes" } else { "take" },
            mib(needed),
            mount_point_of(&self.folder).display(),
            free / (1024 * 1024),
        );
        Err(HostError::new(Category::DiskSpace, message))
    }
}

/// By device: bytes of the new files, bytes of the old files, a folder on it.
fn by_file_system(root: &Root, arrival: &Arrival) -> BTreeMap<u64, (u64, u64, PathBuf)> {
    let mut folders: BTreeMap<PathBuf, Option<(u64, PathBuf)>> = BTreeMap::new();
    let mut place_of = |path: &Path| {
        let parent = path.parent().unwrap_or(path).to_owned();
        let place = folders.entry(parent.clone());
        place
            .or_insert_with(|| existing_folder(&root.join(&parent)))
            .clone()
    };
    let mut sums = BTreeMap::new();
    for (path, size) in &arrival.new {
        if let Some((device, folder)) = place_of(path) {
            let sum = sums.entry(device).or_insert((0, 0, folder));
            sum.0 += size.next_multiple_of(BLOCK);
        }
    }
    for path in &arrival.old {
        let there = fs::symlink_metadata(root.join(path));
        if let Ok(there) = there.as_ref()
            && there.is_file()
            && let Some((device, folder)) = place_of(path)
        {
            let sum = sums.entry(device).or_insert((0, 0, folder));
            sum.1 += there.len().next_multiple_of(BLOCK);
        }
    }
    sums
}

/// The deepest folder of `path` that exists, with its device.
fn existing_folder(path: &Path) -> Option<(u64, PathBuf)> {
    path.ancestors()
        .find_map(|folder| Some((fs::metadata(folder).ok()?.dev(), folder.to_owned())))
}

/// Bytes that are free on the file system of `folder`. `None`: unknown, as for read-only ones.
fn free(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    let says_nothing = found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) || found.f_blocks == 0;
    (!says_nothing).then(|| found.f_bavail.saturating_mul(found.f_frsize))
}

fn mount_point_of(folder: &Path) -> &Path {
    let device = |path: &Path| fs::metadata(path).ok().map(|metadata| metadata.dev());
    let own = device(folder);
    let mut ancestors = folder.ancestors().take_while(|ancestor| device(ancestor) == own);
    ancestors.by_ref().last().unwrap_or(folder)
}

/// Where local file systems are mounted at or below `root` (proc_pid_mountinfo(5)).
fn mount_points(mountinfo: &str, root: &Path) -> Vec<PathBuf> {
    let mount_point = |line: &str| {
        let (mount, file_system) = line.split_once(" - ")?;
        let kind = file_system.split(' ').next()?;
        let place = mount.split(' ').nth(4)?;
        // A space in it is written as an octal number.
        let place = PathBuf::from(place.replace("\\040", " "));
        let inside = place.strip_prefix(root).ok()?;
        let inside = Path::new("/").join(inside);
        let is_used = !UNUSED.iter().any(|unused| inside.starts_with(unused));
        (LOCAL_TYPES.contains(&kind) && is_used).then_some(place)
    };
    mountinfo.lines().filter_map(mount_point).collect()
}

/// Regular files in the output of `dpkg-deb --contents`: `MODE OWNER SIZE DATE TIME ./PATH` a line.
pub fn contents(output: &str) -> Files {
    let file = |line: &str| {
        let mut rest = line.strip_prefix('-')?;
        let mut word = || {
            let (word, after) = rest.trim_start().split_once(' ')?;
            rest = after;
            Some(word)
        };
        let (_mode, _owner, size, _date, _time) = (word()?, word()?, word()?, word()?, word()?);
        let path = rest.trim_start().strip_prefix('.')?;
        Some((PathBuf::from(path), size.parse().ok()?))
    };
    output.lines().filter_map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_local_file_systems_below_the_root_are_found() {
        let mountinfo = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
            23 22 8:2 / /opt/my\\040app rw - xfs /dev/sda2 rw\n\
            24 22 0:5 / /proc rw - proc proc rw\n\
            25 22 0:6 / /run rw - tmpfs tmpfs rw\n\
            26 22 0:7 / /srv/nfs rw - nfs4 server:/srv rw\n\
            nonsense\n";
        assert_eq!(
            mount_points(mountinfo, Path::new("/")),
            [Path::new("/"), Path::new("/opt/my app")]
        );
        assert_eq!(
            mount_points(mountinfo, Path::new("/opt")),
            [Path::new("/opt/my app")]
        );
    }

    #[test]
    fn the_contents_of_a_package_are_its_regular_files() {
        let output = "drwxr-xr-x root/root         0 2020-01-01 00:00 ./opt/\n\
            -rw-r--r-- root/root     50000 2020-01-01 00:00 ./opt/a file\n\
            lrwxrwxrwx root/root         0 2020-01-01 00:00 ./opt/link -> a file\n\
            -rwxr-xr-x root/root       7 2020-01-01 00:00 ./usr/bin/x\n";
        let expected = [("/opt/a file", 50_000), ("/usr/bin/x", 7)];
        assert_eq!(
            contents(output),
            expected.map(|(path, size)| (PathBuf::from(path), size))
        );
    }

    #[test]
    fn room_is_needed_for_what_grows_and_once_for_what_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let free = free(dir.path()).unwrap();
        let try_with = |new: u64, old: u64| {
            fs::write(dir.path().join("file"), "").unwrap();
            let file = fs::File::options()
                .write(true)
                .open(dir.path().join("file"))
                .unwrap();
            file.set_len(old).unwrap();
            let arrival = Arrival {
                name: "app".into(),
                new: vec![("/file".into(), new)],
                old: vec!["/file".into()],
            };
            check(&root, &[arrival])
        };
        try_with(1, 0).unwrap();
        try_with(free / 2, free / 2).unwrap();
        try_with(free / 2, free * 4).unwrap();
        for (new, old) in [(free * 2, 0), (free * 2, free), (free * 2, free * 2)] {
            let refused = try_with(new, old).unwrap_err();
            assert_eq!(refused.category, Category::DiskSpace);
            assert!(refused.message.starts_with("app takes up "), "{refused}");
        }
        assert!(is_ample(&root, 1) && !is_ample(&root, u64::MAX));
    }
}
