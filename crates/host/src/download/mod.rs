//! Downloads of packages over http and https, into a cache.
//!
//! One download at a time for each URL, and `max_parallel` in all, not counting those that only
//! wait for the disk. Each try ([`transfer`]) runs on a thread that may block. A task here watches
//! it, ends it when it is cancelled or has [`stall`]ed, and decides whether to retry at once. The
//! engine retries later, with a longer backoff.

mod facility;
mod options;
mod url;
mod transfer;
mod client;
mod proxy;
mod no_proxy;
mod tls;
mod connections;
mod retry_after;
mod stall;
mod cache;
mod kept;

pub use self::facility::{Cancel, Download, Downloads};

use std::collections::BTreeSet;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use protocol::Category;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use self::cache::PackageCache;
use self::client::Transfer;
pub use self::client::describe;
use self::connections::Connections;
use self::kept::KeptFiles;
pub use self::no_proxy::is_no_proxy_entry;
pub use self::options::DownloadOptions;
use self::stall::StallWatch;
pub use self::tls::{ClientFiles, tls_config};
use self::transfer::{DownloadTry, TryOutcome};
pub use self::url::url_for_family;
use crate::HostError;
use crate::Root;
use protocol::without_credentials;

/// How often the progress of a transfer is checked.
const TICK: Duration = Duration::from_millis(200);
/// Tries within one fetch; each resumes the one before.
const TRIES: u32 = 5;
/// Pause after an interrupted try; it grows with each.
const PAUSE: Duration = Duration::from_millis(300);
/// A server may ask for so much waiting within one fetch. If it asks for more, the fetch fails.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// How long to wait for a stopped thread. It ends by itself in any case.
const AFTER_STOP: Duration = Duration::from_millis(500);

/// The real [`Downloads`].
pub struct Downloader {
    settings: Arc<DownloadOptions>,
    root: Root,
    cache: Arc<PackageCache>,
    kept: KeptFiles,
    slots: Arc<Semaphore>,
    connections: Connections,
}

impl Downloader {
    /// `folder`: of the cache; a real path. `extension`: of packages, without the dot.
    pub fn new(root: &Root, folder: PathBuf, options: DownloadOptions, extension: &'static str) -> Self {
        Self {
            kept: KeptFiles::new(&folder),
            cache: Arc::new(PackageCache::new(folder, options.max_cache_size).with_extension(extension)),
            slots: Arc::new(Semaphore::new(options.max_parallel as usize)),
            connections: Connections::default(),
            settings: Arc::new(options),
            root: root.clone(),
        }
    }
}

#[async_trait]
impl Downloads for Downloader {
    async fn fetch(&self, download: &Download, cancel: &Cancel) -> Result<PathBuf, HostError> {
        let location = url::parse(&download.url, self.settings.allow_file_urls, &self.root)?;
        let shown = without_credentials(&download.url);
        // Before this fetch's turn: the download that ends meanwhile leaves its connection.
        let shared = self.connections.hold();
        let entry = self.cache.entry(download);
        let lock = self.cache.lock_of(&entry);
        let in_turn = unless_cancelled(cancel, &shown, lock.lock_owned()).await?;
        let slot = unless_cancelled(cancel, &shown, Arc::clone(&self.slots).acquire_owned()).await?;
        let slot = Arc::new(Slot(Mutex::new(slot.ok())));
        // The thread holds it, too, as it holds the slot: it may outlive this future.
        let held = Arc::new(in_turn);
        let mut tries = 0;
        let mut waited = Duration::ZERO;
        loop {
            tries += 1;
            let job = DownloadTry {
                location: location.clone(),
                sha256: download.sha256.clone(),
                entry: entry.clone(),
                cache: Arc::clone(&self.cache),
                settings: Arc::clone(&self.settings),
                transfer: Arc::default(),
                slot: Arc::clone(&slot),
                shared: Arc::clone(&shared),
            };
            let pause = match self.run_watched(job, Arc::clone(&held), cancel, &shown).await? {
                TryOutcome::Complete(path) => return Ok(path),
                TryOutcome::Later { after, error } => {
                    waited = waited.saturating_add(after);
                    if waited > MAX_WAIT {
                        let seconds = after.as_secs();
                        let message = format!("{}; it asks to wait {seconds} s", error.message);
                        return Err(HostError::new(error.category, message));
                    }
                    tracing::info!(url = shown, ?after, "the server asks to wait");
                    after
                }
                TryOutcome::Interrupted(error) if tries >= TRIES => return Err(error),
                TryOutcome::Interrupted(error) => {
                    tracing::info!(tries, "download interrupted; resuming: {}", error.message);
                    PAUSE * tries
                }
            };
            unless_cancelled(cancel, &shown, tokio::time::sleep(pause)).await?;
        }
    }

    async fn discard(&self, file: &Path) {
        self.cache.discard(file);
    }

    async fn keep(&self, file: &Path) -> Result<PathBuf, HostError> {
        self.kept.keep(file)
    }

    fn protect(&self, files: &BTreeSet<PathBuf>) {
        self.cache.protect(files);
        self.kept.retain(files);
    }
}

impl Downloader {
    /// Runs one try on a thread of its own, and ends it when it is cancelled or stalls.
    async fn run_watched(
        &self,
        job: DownloadTry,
        held: Arc<impl Send + Sync + 'static>,
        cancel: &Cancel,
        shown: &str,
    ) -> Result<TryOutcome, HostError> {
        let transfer = Arc::clone(&job.transfer);
        // Dropping this future stops the thread, too.
        let _stop = StopOnDrop(Arc::clone(&transfer));
        let limit = self.settings.stall_timeout;
        let mut stall = StallWatch::new(limit, self.settings.min_rate, Instant::now());
        let mut thread = tokio::task::spawn_blocking(move || {
            let outcome = job.run();
            drop(held);
            outcome
        });
        let failed = loop {
            // Cancel-safe: a timeout drops only the reference to the handle.
            if let Ok(ended) = tokio::time::timeout(TICK, &mut thread).await {
                return ended.unwrap_or_else(|_| {
                    let message = format!("the download of {shown} panicked; this is a bug of the agent");
                    Err(HostError::new(Category::Host, message))
                });
            }
            if cancel.is_set() {
                break cancelled(shown);
            }
            let stalled = stall.is_stalled(Instant::now(), transfer.progress());
            if stalled && !transfer.is_finishing() {
                let (rate, limit) = (self.settings.min_rate, limit.as_secs());
                let message = format!(
                    "cannot download {shown}: it stalled (less than {rate} bytes a second for {limit} s); it \
                     will be resumed"
                );
                break HostError::new(Category::Network, message);
            }
        };
        transfer.stop();
        let _ = tokio::time::timeout(AFTER_STOP, &mut thread).await;
        Err(failed)
    }
}

/// One of the `max_parallel` downloads.
struct Slot(Mutex<Option<OwnedSemaphorePermit>>);

impl Slot {
    /// Lets the next download begin.
    fn free(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

struct StopOnDrop(Arc<Transfer>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

fn cancelled(shown: &str) -> HostError {
    HostError::new(Category::Host, format!("the download of {shown} was cancelled"))
}

async fn unless_cancelled<T>(
    cancel: &Cancel,
    shown: &str,
    future: impl Future<Output = T>,
) -> Result<T, HostError> {
    let mut future = std::pin::pin!(future);
    loop {
        let done = tokio::time::timeout(TICK, &mut future).await;
        // Also when it is done: a cancelled fetch must not use its turn.
        if cancel.is_set() {
            return Err(cancelled(shown));
        }
        if let Ok(done) = done {
            return Ok(done);
        }
    }
}
