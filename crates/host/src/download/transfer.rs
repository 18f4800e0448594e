//! One try of one download, on a thread that may block.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use protocol::Category;
use sha2::{Digest, Sha256};
use ureq::{Body, http};
use url::Url;

use super::DownloadOptions;
use super::Slot;
use super::cache::{CacheEntry, FileMeta, PackageCache, disk_error};
use super::client::{Client, Transfer};
use super::connections::SharedConnections;
use super::retry_after::retry_after;
use super::url::{Location, follow};
use crate::HostError;
use crate::hex;
use protocol::without_credentials;

const BUFFER: usize = 64 * 1024;

/// One try: what to download, and with what.
pub struct DownloadTry {
    pub location: Location,
    /// Lower-case hex.
    pub sha256: Option<String>,
    pub entry: CacheEntry,
    pub cache: Arc<PackageCache>,
    pub settings: Arc<DownloadOptions>,
    pub transfer: Arc<Transfer>,
    pub(super) shared: Arc<SharedConnections>,
    pub(super) slot: Arc<Slot>,
}

/// How a try ended. (An error is final for this fetch.)
#[derive(Debug)]
pub enum TryOutcome {
    Complete(PathBuf),
    /// The server asks to retry after this time.
    Later {
        after: Duration,
        error: HostError,
    },
    /// Interrupted. The received bytes are kept if the download can be resumed.
    Interrupted(HostError),
}

/// How a body ended.
enum BodyEnd {
    Complete,
    Broken(String),
}

impl DownloadTry {
    pub fn run(&self) -> Result<TryOutcome, HostError> {
        self.cache.create_folder()?;
        if let Some(sha256) = &self.sha256
            && let Some(found) = self.digest_of(&self.entry.complete)?
        {
            if found == *sha256 {
                return Ok(TryOutcome::Complete(self.cache.hand_out(&self.entry)));
            }
            tracing::warn!(file = %self.entry.complete.display(), "deleted a package from the cache: its contents had changed");
            self.entry.delete_complete();
        }
        match &self.location {
            Location::Web(url) => self.request(url),
            Location::Local(path) => self.copy_local(path),
        }
    }

    /// The URL without credentials.
    fn shown(&self) -> String {
        match &self.location {
            Location::Web(url) => without_credentials(url.as_str()),
            Location::Local(path) => path.display().to_string(),
        }
    }

    fn error(&self, category: Category, reason: &str) -> HostError {
        HostError::new(category, format!("cannot download {}: {reason}", self.shown()))
    }

    fn request(&self, url: &Url) -> Result<TryOutcome, HostError> {
        let offset = self.resumable_bytes();
        let (response, conditional) = self.follow_redirects(url, offset)?;
        let status = response.status().as_u16();
        match status {
            304 if conditional => {
                drop(response);
                self.release_connection();
                Ok(TryOutcome::Complete(self.cache.hand_out(&self.entry)))
            }
            200 => self.receive(response, 0, None),
            206 => match content_range(&response) {
                Some((start, whole)) if start == offset && offset > 0 => self.receive(response, start, whole),
                _ => Ok(self.start_over("the server sent another range than requested")),
            },
            416 if offset > 0 => self.complete_or_start_over(offset),
            401 | 403 => {
                let reason = format!("the server refuses it ({status}): has the URL expired?");
                Err(self.error(Category::NotFound, &reason))
            }
            404 | 410 => {
                let reason = format!("the server does not have it ({status})");
                Err(self.error(Category::NotFound, &reason))
            }
            429 | 503 => {
                let error = self.error(Category::Network, &format!("the server is busy ({status})"));
                match retry_after(response.headers()) {
                    Some(after) => Ok(TryOutcome::Later { after, error }),
                    None => Err(error),
                }
            }
            _ => Err(self.error(Category::Network, &format!("the server answered {status}"))),
        }
    }

    /// How many bytes of the part can be kept. With a digest all of them: it is checked in the end.
    /// Without one, the durable bytes, if a validator shows whether they belong to the same file.
    fn resumable_bytes(&self) -> u64 {
        let length = std::fs::metadata(&self.entry.part).map_or(0, |metadata| metadata.len());
        let meta = self.entry.part_meta();
        match (&self.sha256, meta.strong_validator()) {
            (Some(_), _) => length,
            (None, Some(_)) => length.min(meta.synced),
            (None, None) => 0,
        }
    }

    /// The first answer that is no redirect, and whether the request was conditional ("unless
    /// unchanged").
    fn follow_redirects(&self, url: &Url, offset: u64) -> Result<(http::Response<Body>, bool), HostError> {
        let mut headers = Vec::new();
        if offset > 0 {
            headers.push(("range", format!("bytes={offset}-")));
            if let Some(validator) = self.entry.part_meta().strong_validator() {
                headers.push(("if-range", validator.to_owned()));
            }
        }
        let mut conditional = true;
        match self.entry.complete_meta() {
            Some(FileMeta { etag: Some(etag), .. }) => headers.push(("if-none-match", etag)),
            Some(FileMeta {
                last_modified: Some(date),
                ..
            }) => headers.push(("if-modified-since", date)),
            Some(_) | None => conditional = false,
        }
        let client = Client {
            settings: &self.settings,
            transfer: &self.transfer,
            shared: &self.shared,
        };
        let mut url = url.clone();
        for _ in 0..=self.settings.max_redirects {
            let response = client
                .get(&url, &headers)
                .map_err(|error| self.error(error.category, &error.message))?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok((response, conditional));
            }
            let location = header(&response, "location")
                .ok_or_else(|| self.error(Category::Network, "the server redirects without a location"))?;
            url = follow(&url, &location)?;
        }
        let reason = format!("over {} redirects (max_redirects)", self.settings.max_redirects);
        Err(self.error(Category::Network, &reason))
    }

    /// Receives the body, which begins at `start` of the file.
    fn receive(
        &self,
        response: http::Response<Body>,
        start: u64,
        whole: Option<u64>,
    ) -> Result<TryOutcome, HostError> {
        let length = header(&response, "content-length").and_then(|value| value.parse::<u64>().ok());
        let whole = whole.or(length.map(|length| start.saturating_add(length)));
        let before = self.entry.part_meta();
        let meta = FileMeta {
            etag: header(&response, "etag").or(before.etag.filter(|_| start > 0)),
            last_modified: header(&response, "last-modified").or(before.last_modified.filter(|_| start > 0)),
            synced: 0,
        };
        self.receive_body(&mut response.into_body().into_reader(), start, whole, meta)
    }

    fn copy_local(&self, path: &Path) -> Result<TryOutcome, HostError> {
        let open = || -> io::Result<(File, std::fs::Metadata)> {
            let file = File::open(path)?;
            let metadata = file.metadata()?;
            Ok((file, metadata))
        };
        let (mut file, metadata) = open().map_err(|error| {
            let category = match error.kind() {
                io::ErrorKind::NotFound => Category::NotFound,
                _ => Category::Host,
            };
            self.error(category, &error.to_string())
        })?;
        if !metadata.is_file() {
            return Err(self.error(Category::NotFound, "it is not a regular file"));
        }
        self.receive_body(&mut file, 0, Some(metadata.len()), FileMeta::default())
    }

    /// Writes a body to the complete, verified file. `whole`: the file's length, if known.
    fn receive_body(
        &self,
        body: &mut dyn Read,
        start: u64,
        whole: Option<u64>,
        mut meta: FileMeta,
    ) -> Result<TryOutcome, HostError> {
        if whole.is_some_and(|whole| whole > self.settings.max_size) {
            return Err(self.too_large(whole));
        }
        self.cache.make_room(whole.unwrap_or(0).saturating_sub(start))?;
        meta.synced = start;
        let part_error = |verb, error| disk_error(verb, &self.entry.part, &error);
        let mut sink = self.open_sink(start).map_err(|error| part_error("open", error))?;
        self.entry.write_part_meta(&meta)?;
        match self.pump(body, &mut sink, whole)? {
            BodyEnd::Complete => {}
            BodyEnd::Broken(reason) => {
                // The bytes must be durable before the metadata says so.
                sink.file
                    .sync_data()
                    .map_err(|error| part_error("write", error))?;
                meta.synced = sink.size;
                self.entry.write_part_meta(&meta)?;
                return Ok(TryOutcome::Interrupted(self.error(Category::Network, &reason)));
            }
        }
        if let (Some(wanted), Some(found)) = (&self.sha256, sink.digest())
            && *wanted != found
        {
            self.entry.delete_part();
            // The part may be of an older file, or damaged by a power failure.
            if start > 0 {
                return Ok(self.start_over("the part from an earlier try does not match"));
            }
            let reason = format!("its sha256 is {found}, expected {wanted}; the file was deleted");
            return Err(self.error(Category::Verification, &reason));
        }
        self.transfer.finish();
        self.release_connection();
        self.slot.free();
        sink.file.sync_all().map_err(|error| part_error("write", error))?;
        self.entry
            .complete_part()
            .map_err(|error| part_error("rename", error))?;
        Ok(TryOutcome::Complete(self.cache.hand_out(&self.entry)))
    }

    /// Leaves the connection to the next download.
    fn release_connection(&self) {
        if let Some(server) = self.transfer.release() {
            self.shared.give_back(server);
        }
    }

    fn pump(
        &self,
        body: &mut dyn Read,
        sink: &mut PartWriter,
        whole: Option<u64>,
    ) -> Result<BodyEnd, HostError> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let read = body.read(&mut buffer);
            // A stop shuts the socket down. For a body without a length that looks like its end.
            if self.transfer.is_stopped() {
                return Ok(BodyEnd::Broken("it was stopped".to_owned()));
            }
            let bytes = match read {
                Ok(0) => break,
                Ok(count) => &buffer[..count],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let of = whole.map(|whole| format!(" of {whole}")).unwrap_or_default();
                    return Ok(BodyEnd::Broken(format!(
                        "the connection ended after {}{of} bytes: {error}",
                        sink.size
                    )));
                }
            };
            self.transfer.add_progress(bytes.len());
            if sink.size + bytes.len() as u64 > self.settings.max_size {
                return Err(self.too_large(None));
            }
            sink.write(bytes)
                .map_err(|error| self.write_error(&error, sink.size, whole))?;
        }
        match whole {
            Some(whole) if sink.size < whole => Ok(BodyEnd::Broken(format!(
                "the connection ended after {} of {whole} bytes",
                sink.size
            ))),
            _ => Ok(BodyEnd::Complete),
        }
    }

    fn write_error(&self, error: &io::Error, size: u64, whole: Option<u64>) -> HostError {
        match disk_error("write", &self.entry.part, error) {
            error if error.category == Category::DiskSpace => {
                let free = self.cache.free();
                self.cache
                    .disk_full(whole.map_or(free.saturating_add(1), |whole| whole - size), free)
            }
            error => error,
        }
    }

    fn too_large(&self, whole: Option<u64>) -> HostError {
        self.entry.delete_part();
        let size = whole.map(|whole| format!("{whole} bytes, ")).unwrap_or_default();
        let limit = self.settings.max_size;
        self.error(
            Category::Invalid,
            &format!("it is {size}larger than max_size in [download] allows ({limit} bytes)"),
        )
    }

    /// The server has no bytes beyond the part: either the part is complete, or it is of another
    /// file.
    fn complete_or_start_over(&self, offset: u64) -> Result<TryOutcome, HostError> {
        match (&self.sha256, self.digest_of(&self.entry.part)?) {
            (Some(wanted), Some(found)) if *wanted == found => {
                let meta = self.entry.part_meta();
                self.receive_body(&mut io::empty(), offset, Some(offset), meta)
            }
            _ => Ok(self.start_over("the part from an earlier try does not match")),
        }
    }

    /// Keeps the first `start` bytes of the part.
    fn open_sink(&self, start: u64) -> io::Result<PartWriter> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&self.entry.part)?;
        file.set_len(start)?;
        let mut hash = self.sha256.is_some().then(Sha256::new);
        if let Some(hash) = &mut hash {
            self.hash_all(&mut file, hash)?;
        }
        file.seek(SeekFrom::Start(start))?;
        Ok(PartWriter {
            file,
            size: start,
            hash,
        })
    }

    /// `None`: there is no such file.
    fn digest_of(&self, path: &Path) -> Result<Option<String>, HostError> {
        let digest = || -> io::Result<String> {
            let mut hash = Sha256::new();
            self.hash_all(&mut File::open(path)?, &mut hash)?;
            Ok(hex(&hash.finalize()))
        };
        match digest() {
            Ok(digest) => Ok(Some(digest)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(disk_error("read", path, &error)),
        }
    }

    fn hash_all(&self, file: &mut File, hash: &mut Sha256) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            if self.transfer.is_stopped() {
                return Err(io::Error::other("it was stopped"));
            }
            let count = file.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            self.transfer.add_progress(count);
            hash.update(&buffer[..count]);
        }
    }

    fn start_over(&self, reason: &str) -> TryOutcome {
        self.entry.delete_part();
        TryOutcome::Interrupted(self.error(Category::Network, reason))
    }
}

/// The part that is written, and its hash so far.
struct PartWriter {
    file: File,
    size: u64,
    hash: Option<Sha256>,
}

impl PartWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        Ok(())
    }

    fn digest(&mut self) -> Option<String> {
        self.hash.take().map(|hash| hex(&hash.finalize()))
    }
}

fn header(response: &http::Response<Body>, name: &str) -> Option<String> {
    Some(response.headers().get(name)?.to_str().ok()?.to_owned())
}

/// `bytes 5-9/10`: the start, and the length of the whole file if the server knows it.
fn content_range(response: &http::Response<Body>) -> Option<(u64, Option<u64>)> {
    let value = header(response, "content-range")?;
    let (range, whole) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.trim().parse().ok()?, whole.trim().parse().ok()))
}
