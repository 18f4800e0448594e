//! The folder of downloaded packages: names, metadata and eviction.
//!
//! Each URL (and digest) has one entry of up to four files: `NAME` (complete), `NAME.meta` (its
//! validators), `NAME.part` and `NAME.part.meta` (of an interrupted try). The cache never touches
//! files with other names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use protocol::Category;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Download, HostError};
use crate::{atomic_file, hex};

/// Each name begins with so many hex digits of the URL's hash.
const KEY_LENGTH: usize = 16;
/// A name contains at most so many characters of the URL's last segment.
const MAX_SEGMENT: usize = 100;

/// The cache of one agent.
pub struct PackageCache {
    folder: PathBuf,
    max_size: u64,
    /// What names end with, without the dot: package managers go by it. Empty: as in the URL.
    extension: &'static str,
    uses: Mutex<CacheUses>,
}

/// Entries that eviction spares.
#[derive(Default)]
struct CacheUses {
    /// Names with a download in progress; it holds the lock.
    active: BTreeMap<String, Weak<tokio::sync::Mutex<()>>>,
    /// Names handed out since [`PackageCache::protect`].
    handed_out: BTreeSet<String>,
    /// Names that the engine needs.
    protected: BTreeSet<String>,
}

/// The place of one download in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheEntry {
    name: String,
    pub complete: PathBuf,
    pub part: PathBuf,
    meta: PathBuf,
    part_meta: PathBuf,
}

/// The server's validators of a file, and how much of it is durable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMeta {
    pub etag: Option<String>,
    pub last_modified: Option<String>,
    /// Bytes of the part that were fsynced. After a power failure the others may be zeros.
    #[serde(default)]
    pub synced: u64,
}

impl FileMeta {
    /// For `If-Range`: a strong ETag, otherwise the date.
    pub fn strong_validator(&self) -> Option<&str> {
        let strong = self.etag.as_deref().filter(|etag| !etag.starts_with("W/"));
        strong.or(self.last_modified.as_deref())
    }
}

impl PackageCache {
    pub fn new(folder: PathBuf, max_size: u64) -> Self {
        Self {
            folder,
            max_size,
            extension: "",
            uses: Mutex::default(),
        }
    }

    pub fn with_extension(self, extension: &'static str) -> Self {
        Self { extension, ..self }
    }

    /// Packages are not secret, and apt's own user must be able to read them.
    pub fn create_folder(&self) -> Result<(), HostError> {
        fs::create_dir_all(&self.folder).map_err(|error| disk_error("create", &self.folder, &error))
    }

    pub fn entry(&self, download: &Download) -> CacheEntry {
        let name = entry_name(download, self.extension);
        let path = |suffix: &str| self.folder.join(format!("{name}{suffix}"));
        CacheEntry {
            complete: path(""),
            part: path(".part"),
            meta: path(".meta"),
            part_meta: path(".part.meta"),
            name,
        }
    }

    /// The lock of an entry: parallel fetches of one URL take turns, and eviction spares it.
    pub fn lock_of(&self, entry: &CacheEntry) -> Arc<tokio::sync::Mutex<()>> {
        let mut uses = self.uses();
        uses.active.retain(|_, lock| lock.strong_count() > 0);
        match uses.active.get(&entry.name).and_then(Weak::upgrade) {
            Some(lock) => lock,
            None => {
                let lock = Arc::new(tokio::sync::Mutex::new(()));
                uses.active.insert(entry.name.clone(), Arc::downgrade(&lock));
                lock
            }
        }
    }

    /// From now on eviction spares `files`, but no longer the entries fetched before.
    pub fn protect(&self, files: &BTreeSet<PathBuf>) {
        let names = files.iter().filter_map(|file| self.name_of(file)).collect();
        let mut uses = self.uses();
        uses.protected = names;
        uses.handed_out.clear();
    }

    /// Records that `entry` is used now. Eviction spares it until the next
    /// [`PackageCache::protect`].
    pub fn hand_out(&self, entry: &CacheEntry) -> PathBuf {
        self.uses().handed_out.insert(entry.name.clone());
        // Its age in the cache counts from now. If this fails, it is only evicted earlier.
        let _ = File::options()
            .append(true)
            .open(&entry.complete)
            .and_then(|file| file.set_modified(SystemTime::now()));
        entry.complete.clone()
    }

    /// Deletes all files of the entry that `file` belongs to. A file outside the cache stays.
    pub fn discard(&self, file: &Path) {
        if let Some(name) = self.name_of(file) {
            self.uses().handed_out.remove(&name);
            self.delete(&name);
        }
    }

    /// Deletes old entries until `needed` more bytes fit into the cache's limit and onto the disk.
    pub fn make_room(&self, needed: u64) -> Result<(), HostError> {
        let entries = self
            .list()
            .map_err(|error| disk_error("list", &self.folder, &error))?;
        for name in victims(&entries, needed, self.max_size, self.free()) {
            tracing::info!(package = name, "deleted a package from the cache to make room");
            self.delete(name);
        }
        let free = self.free();
        match free < needed {
            true => Err(self.disk_full(needed, free)),
            false => Ok(()),
        }
    }

    /// The error for a full disk.
    pub fn disk_full(&self, needed: u64, free: u64) -> HostError {
        let message = format!(
            "no space for the package in {}: it needs {needed} bytes, {free} are free. Free some space",
            self.folder.display()
        );
        HostError::new(Category::DiskSpace, message)
    }

    /// Bytes that can still be written. If unknown, the maximum: a write then shows it.
    pub fn free(&self) -> u64 {
        rustix::fs::statvfs(&self.folder).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    fn list(&self) -> io::Result<Vec<EntryUsage>> {
        let spared: BTreeSet<String> = {
            let uses = self.uses();
            let active = uses.active.iter().filter(|(_, lock)| lock.strong_count() > 0);
            let active = active.map(|(name, _)| name);
            active
                .chain(&uses.handed_out)
                .chain(&uses.protected)
                .cloned()
                .collect()
        };
        let mut by_name: BTreeMap<String, EntryUsage> = BTreeMap::new();
        for item in fs::read_dir(&self.folder)? {
            let item = item?;
            let (Some(name), Ok(metadata)) = (self.name_of(&item.path()), item.metadata()) else {
                continue;
            };
            let usage = by_name.entry(name.clone()).or_insert_with(|| EntryUsage {
                spared: spared.contains(&name),
                name,
                size: 0,
                used: SystemTime::UNIX_EPOCH,
            });
            usage.size += metadata.len();
            usage.used = usage.used.max(metadata.modified()?);
        }
        Ok(by_name.into_values().collect())
    }

    /// The entry's name, if `file` belongs to the cache.
    fn name_of(&self, file: &Path) -> Option<String> {
        if file.parent() != Some(&self.folder) {
            return None;
        }
        let name = file.file_name()?.to_str()?;
        let name = name.strip_suffix(".meta").unwrap_or(name);
        let name = name.strip_suffix(".part").unwrap_or(name);
        let (key, _) = name.split_at_checked(KEY_LENGTH)?;
        let is_ours = key.bytes().all(|byte| byte.is_ascii_hexdigit()) && name[KEY_LENGTH..].starts_with('-');
        is_ours.then(|| name.to_owned())
    }

    fn delete(&self, name: &str) {
        for suffix in ["", ".meta", ".part", ".part.meta"] {
            let _ = fs::remove_file(self.folder.join(format!("{name}{suffix}")));
        }
    }

    fn uses(&self) -> MutexGuard<'_, CacheUses> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CacheEntry {
    /// The validators of the complete file, if there is one.
    pub fn complete_meta(&self) -> Option<FileMeta> {
        fs::metadata(&self.complete).ok()?;
        read_meta(&self.meta)
    }

    pub fn part_meta(&self) -> FileMeta {
        read_meta(&self.part_meta).unwrap_or_default()
    }

    /// Durable, except for the first metadata of a part: if a crash loses them, the part is fetched
    /// again.
    pub fn write_part_meta(&self, meta: &FileMeta) -> Result<(), HostError> {
        let bytes = serde_json::to_vec(meta).unwrap_or_default();
        if meta.synced == 0 && !self.part_meta.exists() {
            return File::create_new(&self.part_meta)
                .and_then(|mut file| file.write_all(&bytes))
                .map_err(|error| disk_error("write", &self.part_meta, &error));
        }
        atomic_file::replace(&self.part_meta, &bytes, 0o644)
            .map_err(|error| disk_error("write", &self.part_meta, &error))
    }

    pub fn delete_part(&self) {
        let _ = fs::remove_file(&self.part);
        let _ = fs::remove_file(&self.part_meta);
    }

    pub fn delete_complete(&self) {
        let _ = fs::remove_file(&self.meta);
        let _ = fs::remove_file(&self.complete);
    }

    /// Makes the part, which is fsynced, the complete file. Meanwhile there may be a file without
    /// validators, but never one with wrong validators. A power failure may undo the rename; then
    /// the part is completed or fetched again. Files that must be durable are kept elsewhere
    /// ([`super::kept`]).
    pub fn complete_part(&self) -> io::Result<()> {
        match fs::remove_file(&self.meta) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::rename(&self.part, &self.complete)?;
        let _ = fs::rename(&self.part_meta, &self.meta);
        Ok(())
    }
}

/// An I/O error of the cache, for the operator.
pub fn disk_error(verb: &str, path: &Path, error: &io::Error) -> HostError {
    let category = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Category::DiskSpace,
        _ => Category::Host,
    };
    HostError::new(category, format!("cannot {verb} {}: {error}", path.display()))
}

fn read_meta(path: &Path) -> Option<FileMeta> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// `0123456789abcdef-name_1.0_amd64.deb`: the hash of URL and digest makes it unique; the URL's
/// last segment is for people. Ends with the extension of a package, which apt and dnf need.
fn entry_name(download: &Download, extension: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(download.url.as_bytes());
    if let Some(sha256) = &download.sha256 {
        hash.update([0]);
        hash.update(sha256.as_bytes());
    }
    let mut key = hex(&hash.finalize());
    key.truncate(KEY_LENGTH);
    let path = download.url.split(['?', '#']).next().unwrap_or_default();
    let segment: String = path
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .chars()
        .map(|c| match c.is_ascii_alphanumeric() || "+._-~".contains(c) {
            true => c,
            false => '_',
        })
        .collect();
    // ASCII only. The end holds the extension.
    let segment = &segment[segment.len().saturating_sub(MAX_SEGMENT)..];
    let end = format!(".{extension}");
    if extension.is_empty() || segment.ends_with(&end) {
        return format!("{key}-{segment}");
    }
    format!("{key}-{segment}{end}")
}

/// One entry, for eviction.
#[derive(Debug, Clone)]
struct EntryUsage {
    name: String,
    size: u64,
    used: SystemTime,
    spared: bool,
}

/// The entries to delete, oldest use first, so that `needed` bytes fit into `max` and into `free`.
fn victims(entries: &[EntryUsage], needed: u64, max: u64, free: u64) -> Vec<&str> {
    let mut total: u64 = entries.iter().map(|entry| entry.size).sum();
    let mut free = free;
    let mut candidates: Vec<&EntryUsage> = entries.iter().filter(|entry| !entry.spared).collect();
    candidates.sort_by_key(|entry| entry.used);
    let mut victims = Vec::new();
    for candidate in candidates {
        if total.saturating_add(needed) <= max && needed <= free {
            break;
        }
        total -= candidate.size;
        free = free.saturating_add(candidate.size);
        victims.push(candidate.name.as_str());
    }
    victims
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn download(url: &str, sha256: Option<&str>) -> Download {
        Download {
            url: url.to_owned(),
            sha256: sha256.map(str::to_owned),
        }
    }

    #[test]
    fn names_are_safe_and_differ_by_url_and_digest() {
        let name = |url: &str, sha256| entry_name(&download(url, sha256), "");
        assert!(name("http://h/a_1.deb?x=/b.rpm", None).ends_with("-a_1.deb"));
        assert!(name("http://h/..%2f\u{e9}\0 $x.deb", None).ends_with("-.._2f____x.deb"));
        assert!(
            name(&format!("http://h/{}.deb", "x".repeat(300)), None).len() <= KEY_LENGTH + 1 + MAX_SEGMENT
        );
        assert_ne!(name("http://h/a", None), name("http://g/a", None));
        assert_ne!(name("http://h/a", None), name("http://h/a", Some("00")));
        assert_eq!(name("http://h/a", Some("00")), name("http://h/a", Some("00")));
    }

    /// FIELD REPORT R34: apt and dnf refuse a file by its name.
    #[test]
    fn names_end_with_the_extension_of_a_package() {
        let name = |url: &str, extension| entry_name(&download(url, None), extension);
        assert!(name("https://h/download/web/1.0?arch=amd64", "deb").ends_with("-1.0.deb"));
        assert!(name("https://h/", "rpm").ends_with("-.rpm"));
        assert!(name("https://h/web.rpm", "rpm").ends_with("-web.rpm"));
        assert!(name("https://h/web.zip", "deb").ends_with("-web.zip.deb"));
    }

    #[test]
    fn the_oldest_go_until_it_fits() {
        let entry = |name: &str, size, age: u64, spared| EntryUsage {
            name: name.to_owned(),
            size,
            used: SystemTime::UNIX_EPOCH + Duration::from_secs(1000 - age),
            spared,
        };
        let entries = [
            entry("young", 40, 1, false),
            entry("pinned", 40, 9, true),
            entry("old", 40, 8, false),
            entry("middle", 40, 5, false),
        ];
        const PLENTY: u64 = u64::MAX;
        for (needed, max, free, expected) in [
            (0, 160, PLENTY, &[][..]),
            (1, 160, PLENTY, &["old"]),
            (41, 160, PLENTY, &["old", "middle"]),
            (0, 0, PLENTY, &["old", "middle", "young"]),
            (100, PLENTY, 100, &[]),
            (100, PLENTY, 30, &["old", "middle"]),
            (PLENTY, 160, 0, &["old", "middle", "young"]),
        ] {
            assert_eq!(
                victims(&entries, needed, max, free),
                expected,
                "{needed} {max} {free}"
            );
        }
    }

    #[test]
    fn only_files_of_the_cache_are_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let cache = PackageCache::new(dir.path().join("cache"), 0);
        cache.create_folder().unwrap();
        let foreign = dir.path().join("cache/app.rpm");
        let outside = dir.path().join("0123456789abcdef-a.deb");
        let ours = cache.entry(&download("http://h/a.deb", None));
        for file in [&foreign, &outside, &ours.complete, &ours.part, &ours.meta] {
            fs::write(file, "x").unwrap();
        }
        cache.discard(&foreign);
        cache.discard(&outside);
        cache.make_room(0).unwrap();
        assert!(foreign.exists() && outside.exists());
        assert!(!ours.complete.exists() && !ours.part.exists() && !ours.meta.exists());
    }

    #[test]
    fn what_is_in_use_is_spared() {
        let dir = tempfile::tempdir().unwrap();
        let cache = PackageCache::new(dir.path().to_owned(), 0);
        let entries = ["a", "b", "c", "d"].map(|name| cache.entry(&download(name, None)));
        for entry in &entries {
            fs::write(&entry.complete, "x").unwrap();
        }
        let [pinned, fetched, active, unused] = &entries;
        cache.protect(&BTreeSet::from([pinned.complete.clone()]));
        cache.hand_out(fetched);
        let lock = cache.lock_of(active);
        cache.make_room(0).unwrap();
        assert_eq!(
            entries.clone().map(|entry| entry.complete.exists()),
            [true, true, true, false]
        );
        assert!(!unused.complete.exists());
        drop(lock);
        cache.protect(&BTreeSet::from([fetched.complete.clone()]));
        cache.make_room(0).unwrap();
        assert_eq!(
            entries.clone().map(|entry| entry.complete.exists()),
            [false, true, false, false]
        );
    }
}
