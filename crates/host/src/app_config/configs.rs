//! Configs as they were read last, for as long as their files stay as they are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use protocol::{AppName, Config};
use tokio::time::Instant;

use super::files::{self, FileStates, Reading};
use super::manifest::Manifest;
use crate::{HostError, Root};

/// Files are read again after this long even where the kernel says that they are as they were: it does not know of all that
/// other hosts and mappings into memory have written.
const READ_AGAIN: Duration = Duration::from_secs(600);

/// What was read, by application.
#[derive(Default)]
pub struct KnownConfigs(Mutex<HashMap<AppName, Known>>);

/// A config, and the files that it was read from.
struct Known {
    /// Weak: it ends with the manifest, whose place in memory is not taken by another one meanwhile.
    manifest: Weak<Manifest>,
    files: FileStates,
    read_at: Instant,
    config: Arc<Result<Config, HostError>>,
}

impl KnownConfigs {
    /// The config that the manifest's files hold; the very same as before, if they have not changed.
    pub fn read(
        &self,
        root: &Root,
        app: &AppName,
        manifest: &Arc<Manifest>,
    ) -> Arc<Result<Config, HostError>> {
        if let Some(known) = self.lock().get(app)
            && std::ptr::eq(known.manifest.as_ptr(), Arc::as_ptr(manifest))
            && known.read_at.elapsed() < READ_AGAIN
            && known.files.are_unchanged(root)
        {
            return known.config.clone();
        }
        let read = files::read(root, manifest);
        let mut all = self.lock();
        all.retain(|_, known| known.manifest.strong_count() > 0);
        let (config, files) = match read {
            Ok(Reading { config, files }) => (Arc::new(Ok(config)), files),
            Err(error) => (Arc::new(Err(error)), None),
        };
        match files {
            Some(files) => {
                let known = Known {
                    manifest: Arc::downgrade(manifest),
                    files,
                    read_at: Instant::now(),
                    config: config.clone(),
                };
                all.insert(app.clone(), known);
            }
            None => {
                all.remove(app);
            }
        }
        config
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AppName, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn files_that_seem_unchanged_are_read_again_after_a_while() {
        // One that has not changed in the last seconds.
        let text = format!(
            "[config.package]\nfile = \"{}/Cargo.toml\"\nformat = \"toml\"\n",
            env!("CARGO_MANIFEST_DIR")
        );
        let manifest = Arc::new(Manifest::parse(Path::new("app.toml"), &text).unwrap());
        let (known, root) = (KnownConfigs::default(), Root::new("/"));
        let read = || known.read(&root, &AppName::new("app").unwrap(), &manifest);
        let first = read();
        assert_eq!(first.as_ref().as_ref().unwrap()["package"]["name"], "host");
        tokio::time::advance(READ_AGAIN - Duration::from_secs(1)).await;
        assert!(Arc::ptr_eq(&first, &read()), "it was read again");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!Arc::ptr_eq(&first, &read()), "it was not read again");
    }
}
