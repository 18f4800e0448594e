//! Reports changes of a set of files: inotify on their folders, so that a file that is replaced by
//! rename, or does not exist yet, is watched like any other.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::net::unix::pipe;

const EVENTS: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

pub(super) struct WatchedFiles {
    /// Tokio's safe way to wait for a file descriptor; it need not be a pipe's.
    inotify: pipe::Receiver,
    wanted: BTreeMap<PathBuf, Option<Fingerprint>>,
    /// Watched folders by watch; one folder may have several paths.
    folders: HashMap<i32, BTreeSet<PathBuf>>,
    /// Targets of symbolic links -> the wanted files that lead there.
    targets: BTreeMap<PathBuf, PathBuf>,
    /// The warning that a file cannot be watched was logged.
    warned: bool,
}

/// Distinguishes a changed file from one that was only opened for writing (as databases are, for
/// reading).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fingerprint {
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    /// A change in a folder need not change the folder's own fingerprint.
    is_folder: bool,
}

impl WatchedFiles {
    pub(super) fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        Ok(Self {
            inotify: pipe::Receiver::from_owned_fd_unchecked(inotify)?,
            wanted: BTreeMap::new(),
            folders: HashMap::new(),
            targets: BTreeMap::new(),
            warned: false,
        })
    }

    /// Watches exactly these files; for a folder, its entries.
    pub(super) fn set_wanted(&mut self, wanted: BTreeSet<PathBuf>) {
        if wanted.iter().eq(self.wanted.keys()) {
            return;
        }
        let old = std::mem::take(&mut self.wanted);
        self.wanted = wanted
            .into_iter()
            .map(|file| {
                let known = old.get(&file).copied();
                let fingerprint = known.unwrap_or_else(|| fingerprint(&file));
                (file, fingerprint)
            })
            .collect();
        self.arm();
    }

    /// Waits until wanted files have changed. Cancel-safe. An error is permanent.
    pub(super) async fn changed(&mut self) -> io::Result<BTreeSet<PathBuf>> {
        loop {
            self.inotify.readable().await?;
            let mut events = Vec::new();
            match self.inotify.try_io(|| read_events(&self.inotify, &mut events)) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let changed = self.note(events);
            if !changed.is_empty() {
                return Ok(changed);
            }
        }
    }

    /// The wanted files that `events` concern and that have changed.
    fn note(&mut self, events: Vec<FolderEvent>) -> BTreeSet<PathBuf> {
        let mut suspects = BTreeSet::new();
        let mut is_armed = true;
        for event in events {
            match event {
                FolderEvent::Overflow => {
                    suspects.extend(self.wanted.keys().cloned());
                    is_armed = false;
                }
                FolderEvent::FolderGone(watch) => {
                    let _ = inotify::remove_watch(&self.inotify, watch);
                    for folder in self.folders.remove(&watch).unwrap_or_default() {
                        suspects.extend(self.wanted_at(&folder));
                    }
                    is_armed = false;
                }
                FolderEvent::Entry(watch, name) => {
                    for folder in self.folders.get(&watch).cloned().unwrap_or_default() {
                        suspects.extend(self.wanted_at(&folder.join(&name)));
                    }
                }
            }
        }
        if is_armed && suspects.is_empty() {
            return suspects;
        }
        // A file or folder on the way to a wanted one may have appeared, disappeared or become a
        // link; and entries of a new folder may have appeared before the watch.
        self.arm();
        let mut changed = BTreeSet::new();
        for (file, known) in &mut self.wanted {
            let now = fingerprint(file);
            let is_folder = now.is_some_and(|now| now.is_folder);
            if std::mem::replace(known, now) != now || (is_folder && suspects.contains(file)) {
                changed.insert(file.clone());
            }
        }
        changed
    }

    /// Wanted files that are `path`, are below it (a folder on the way), or contain it (a wanted
    /// folder).
    fn wanted_at(&self, path: &Path) -> Vec<PathBuf> {
        let concerns = |file: &Path| file.starts_with(path) || path.starts_with(file);
        let themselves = self.wanted.keys().filter(|file| concerns(file));
        let targets = self.targets.iter().filter(|(target, _)| concerns(target));
        themselves.chain(targets.map(|(_, file)| file)).cloned().collect()
    }

    /// Watches the folder of each wanted file, or the nearest existing one on the way to it.
    /// Removes all other watches.
    fn arm(&mut self) {
        self.targets.clear();
        for file in self.wanted.keys() {
            if let Ok(target) = fs::canonicalize(file)
                && target != *file
            {
                self.targets.insert(target, file.clone());
            }
        }
        let mut folders: HashMap<i32, BTreeSet<PathBuf>> = HashMap::new();
        let mut failure = None;
        for file in self.wanted.keys().chain(self.targets.keys()) {
            // The file itself may be a folder.
            let itself = inotify::add_watch(&self.inotify, file, EVENTS);
            if let Ok(watch) = itself {
                folders.entry(watch).or_default().insert(file.clone());
            }
            match watch_nearest(&self.inotify, file) {
                Ok((watch, folder)) => {
                    folders.entry(watch).or_default().insert(folder);
                }
                Err(error) => failure = Some((file.clone(), error)),
            }
        }
        for watch in self.folders.keys().filter(|watch| !folders.contains_key(watch)) {
            let _ = inotify::remove_watch(&self.inotify, *watch);
        }
        self.folders = folders;
        if let Some((file, error)) = failure
            && !std::mem::replace(&mut self.warned, true)
        {
            tracing::warn!(
                "cannot watch {}, whose changes are noticed at heartbeats only: {error}. If there is no space left, raise \
                 the sysctl fs.inotify.max_user_watches",
                file.display()
            );
        }
    }
}

/// Watches the deepest existing folder on the way to `file`.
fn watch_nearest(inotify: impl AsFd + Copy, file: &Path) -> io::Result<(i32, PathBuf)> {
    'again: loop {
        let mut missing: Option<&Path> = None;
        for folder in file.ancestors().skip(1) {
            match inotify::add_watch(inotify, folder, EVENTS) {
                // It was created before this watch, which therefore does not report it.
                Ok(_) if missing.is_some_and(Path::is_dir) => continue 'again,
                Ok(watch) => return Ok((watch, folder.to_owned())),
                Err(Errno::NOENT | Errno::NOTDIR) => missing = Some(folder),
                Err(error) => return Err(error.into()),
            }
        }
        return Err(io::ErrorKind::NotFound.into());
    }
}

/// Adds all pending events to `events`. Ends with [`io::ErrorKind::WouldBlock`] when there are no
/// more.
fn read_events(inotify: impl AsFd, events: &mut Vec<FolderEvent>) -> io::Result<()> {
    // Room for the longest name; the kernel returns whole events only.
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(inotify, &mut buffer);
    loop {
        match reader.next() {
            Ok(event) => events.extend(folder_event(&event)),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

enum FolderEvent {
    /// Something of this name in the folder of this watch.
    Entry(i32, PathBuf),
    /// The folder of this watch was deleted, moved or unmounted.
    FolderGone(i32),
    /// Events were lost.
    Overflow,
}

fn folder_event(event: &inotify::Event<'_>) -> Option<FolderEvent> {
    let flags = event.events();
    if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
        Some(FolderEvent::Overflow)
    } else if flags.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT) {
        Some(FolderEvent::FolderGone(event.wd()))
    } else {
        let name = OsStr::from_bytes(event.file_name()?.to_bytes());
        Some(FolderEvent::Entry(event.wd(), PathBuf::from(name)))
    }
}

/// Follows links. `None`: there is no such file.
fn fingerprint(path: &Path) -> Option<Fingerprint> {
    let metadata = fs::metadata(path).ok()?;
    Some(Fingerprint {
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        is_folder: metadata.is_dir(),
    })
}

#[cfg(test)]
mod tests;
