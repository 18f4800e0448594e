//! Downloads, as the engine sees them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use crate::HostError;

/// What to download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// An http, https or file URL with the extension of this host's package family.
    pub url: String,
    /// Lower-case hex.
    pub sha256: Option<String>,
}

/// Downloads packages into the cache.
#[async_trait]
pub trait Downloads: Send + Sync {
    /// A complete local file, from the cache if possible; verified if there is a digest. Resumes an
    /// interrupted download. Fails with a transient error when `cancel` is set.
    async fn fetch(&self, download: &Download, cancel: &Cancel) -> Result<PathBuf, HostError>;
    /// Deletes a file that is not valid, so that the next [`Self::fetch`] downloads it again.
    async fn discard(&self, file: &Path);
    /// Keeps the current content of a fetched file under another path, whatever is fetched from the
    /// same URL later. Returns that path. It is kept until a call of [`Self::protect`] does not
    /// name it.
    async fn keep(&self, file: &Path) -> Result<PathBuf, HostError>;
    /// Makes the cache keep `files` (those that a rollback needs), however full it is. Releases
    /// every other file that was kept, or fetched before this call.
    fn protect(&self, files: &BTreeSet<PathBuf>);
}

/// Ends a long operation at its next safe point. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
