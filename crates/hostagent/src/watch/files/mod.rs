//! Which of some files have changed: inotify on the folders they are in, so that a file that is replaced by
//! rename, or does not exist yet, is watched like any other.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::io;
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

pub(super) struct Files {
    /// Tokio's safe way to wait for a descriptor that is only read from; it need not be a pipe's.
    inotify: pipe::Receiver,
    wanted: BTreeMap<PathBuf, Option<Fingerprint>>,
    /// Watched folders by watch; one folder may be known by several paths.
    folders: HashMap<i32, BTreeSet<PathBuf>>,
    /// Other paths of wanted files: where links lead to.
    targets: BTreeMap<PathBuf, PathBuf>,
    /// That the kernel's watches have run out has been said.
    complained: bool,
}

/// Tells a changed file from one that was only opened for writing (as databases are, to be read).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fingerprint {
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    /// In a folder the files change, not the folder.
    is_folder: bool,
}

impl Files {
    pub(super) fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        Ok(Self {
            inotify: pipe::Receiver::from_file_unchecked(fs::File::from(inotify))?,
            wanted: BTreeMap::new(),
            folders: HashMap::new(),
            targets: BTreeMap::new(),
            complained: false,
        })
    }

    /// Watches exactly these files; for a folder, what is in it.
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

    /// Waits until wanted files have changed. Cancel-safe. An error is for good.
    pub(super) async fn changed(&mut self) -> io::Result<BTreeSet<PathBuf>> {
        loop {
            self.inotify.readable().await?;
            let events = self.read_events()?;
            let changed = self.note(events);
            if !changed.is_empty() {
                return Ok(changed);
            }
        }
    }

    /// The events that are there by now.
    fn read_events(&self) -> io::Result<Vec<Event>> {
        let mut events = Vec::new();
        // Room for the longest name; the kernel hands out whole events only.
        let mut buffer = [0; 4096];
        loop {
            match self.inotify.try_read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => events.append(&mut parse(&buffer[..length])),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(events),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The wanted files that `events` are about and that are not as they were.
    fn note(&mut self, events: Vec<Event>) -> BTreeSet<PathBuf> {
        let mut suspects = BTreeSet::new();
        let mut is_armed = true;
        for event in events {
            match event {
                Event::Overflow => {
                    suspects.extend(self.wanted.keys().cloned());
                    is_armed = false;
                }
                Event::FolderGone(watch) => {
                    let _ = inotify::remove_watch(&self.inotify, watch);
                    for folder in self.folders.remove(&watch).unwrap_or_default() {
                        suspects.extend(self.wanted_at(&folder));
                    }
                    is_armed = false;
                }
                Event::Entry(watch, name) => {
                    for folder in self.folders.get(&watch).cloned().unwrap_or_default() {
                        suspects.extend(self.wanted_at(&folder.join(&name)));
                    }
                }
            }
        }
        if is_armed && suspects.is_empty() {
            return suspects;
        }
        // A file or folder on the way to a wanted one may have come, gone or become a link; and what is in a
        // folder may have come before the watch.
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

    /// Wanted files that are `path`, are in it (a folder on the way), or that it is in (a wanted folder).
    fn wanted_at(&self, path: &Path) -> Vec<PathBuf> {
        let concerns = |file: &Path| file.starts_with(path) || path.starts_with(file);
        let themselves = self.wanted.keys().filter(|file| concerns(file));
        let targets = self.targets.iter().filter(|(target, _)| concerns(target));
        themselves.chain(targets.map(|(_, file)| file)).cloned().collect()
    }

    /// Watches the folder of each wanted file, or the nearest one on the way to it that exists; lets go of
    /// all others.
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
            && !std::mem::replace(&mut self.complained, true)
        {
            tracing::warn!(
                file = %file.display(),
                %error,
                "cannot watch a file: its changes are seen at heartbeats only; if there is no space left, raise \
                 the sysctl fs.inotify.max_user_watches"
            );
        }
    }
}

/// Watches the deepest folder on the way to `file` that exists.
fn watch_nearest(inotify: impl AsFd + Copy, file: &Path) -> io::Result<(i32, PathBuf)> {
    'again: loop {
        let mut missing: Option<&Path> = None;
        for folder in file.ancestors().skip(1) {
            match inotify::add_watch(inotify, folder, EVENTS) {
                // It came between the look for it and the watch that would have told.
                Ok(_) if missing.is_some_and(Path::is_dir) => continue 'again,
                Ok(watch) => return Ok((watch, folder.to_owned())),
                Err(Errno::NOENT | Errno::NOTDIR) => missing = Some(folder),
                Err(error) => return Err(error.into()),
            }
        }
        return Err(io::ErrorKind::NotFound.into());
    }
}

enum Event {
    /// Something of this name in the folder of this watch.
    Entry(i32, PathBuf),
    /// The folder of this watch was deleted, moved or unmounted.
    FolderGone(i32),
    /// Events were lost.
    Overflow,
}

/// The events in what was read from inotify(7): watch, flags, cookie, length of the name; name.
fn parse(mut bytes: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some((header, rest)) = bytes.split_at_checked(16) {
        let word = |at: usize| {
            let bytes: [u8; 4] = header[at..at + 4].try_into().unwrap_or_default();
            u32::from_ne_bytes(bytes)
        };
        let (watch, flags) = (word(0) as i32, ReadFlags::from_bits_retain(word(4)));
        let Some((name, rest)) = rest.split_at_checked(word(12) as usize) else {
            break;
        };
        bytes = rest;
        // Padded with zeros.
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            events.push(Event::Overflow);
        } else if flags.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT) {
            events.push(Event::FolderGone(watch));
        } else if !name.is_empty() {
            events.push(Event::Entry(watch, PathBuf::from(OsStr::from_bytes(name))));
        }
    }
    events
}

/// Of what a path leads to; `None`: nothing.
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
