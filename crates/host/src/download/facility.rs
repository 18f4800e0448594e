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
    /// http, https or file URL, its extension already that of this host's family.
    pub url: String,
    /// Lower-case hex.
    pub sha256: Option<String>,
}

/// Downloads packages into the cache.
#[async_trait]
pub trait Downloads: Send + Sync {
    /// A complete local file (from the cache where it is there and, with a digest, verified). Resumes
    /// what an earlier try left. Ends early, transiently, when `cancel` is set.
    async fn fetch(&self, download: &Download, cancel: &Cancel) -> Result<PathBuf, HostError>;
    /// Deletes a file that turned out wrong, so that the next try fetches it anew.
    async fn discard(&self, file: &Path);
    /// Keeps the present content of a fetched file, whatever is fetched from the same URL later; gives the
    /// path to find it at. It stays until a call of [`Downloads::protect`] does not name it.
    async fn keep(&self, file: &Path) -> Result<PathBuf, HostError> {
        Ok(file.to_owned())
    }
    /// [`Self::keep`] of each, in their order.
    async fn keep_all(&self, files: &[&Path]) -> Vec<Result<PathBuf, HostError>> {
        let mut kept = Vec::with_capacity(files.len());
        for file in files {
            kept.push(self.keep(file).await);
        }
        kept
    }
    /// From now on the cache keeps `files`, however full it gets (those that a rollback needs), and no
    /// longer what was fetched before this call.
    fn protect(&self, _files: &BTreeSet<PathBuf>) {}
}

/// Set from outside to end a long operation at its next safe point. Cheap to clone.
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
