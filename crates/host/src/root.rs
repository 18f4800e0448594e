//! The folder that all paths of a host are below.

use std::path::{Path, PathBuf};

/// `/` on a real host; a sandbox folder in tests and the demo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root(PathBuf);

impl Root {
    /// `path` must be absolute: package managers that get it change their folder.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The real path of `path`, an absolute path as the host's own programs would name it.
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Whether this is the host itself, where apt, dnf and systemd may be used.
    pub fn is_host(&self) -> bool {
        self.0 == Path::new("/")
    }
}
