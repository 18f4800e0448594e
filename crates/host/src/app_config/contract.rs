//! Finds the contract of an application.

use std::collections::{BTreeSet, HashMap};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protocol::name::check_plain_name;
use protocol::{AppName, Category, Config};

use super::configs::CachedConfig;
use super::hook::Hook;
use super::{Contract, ContractKind, Manifest};
use crate::command::Runner;
use crate::paths::{Stamp, check_trust, find, look, read_capped, resolve};
use crate::{HostError, Root};

/// Where hooks are: `HOOKS/<app>/config`.
pub(super) const HOOKS: &str = "/opt/pf9";
/// Where manifests are, `<app>.toml`; the operator's has precedence over the package's.
pub(super) const MANIFESTS: [&str; 2] = ["/etc/hostagent/apps", "/usr/share/hostagent/apps"];
const MAX_MANIFEST: u64 = 256 * 1024;
const EXECUTABLE: u32 = 0o111;
/// A hook whose `--get-services` has failed is not asked again sooner: it may take its whole
/// deadline.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// Finds contracts. Caches what was worked out from a file until the file changes.
pub(super) struct ContractFinder {
    root: Root,
    runner: Option<Arc<Runner>>,
    hook_deadline: Duration,
    manifests: Mutex<HashMap<PathBuf, (Stamp, Arc<KnownManifest>)>>,
    hook_services: Mutex<HashMap<PathBuf, CachedServices>>,
    /// The contract of applications without one.
    no_contract: Arc<Contract>,
}

/// The contract that counts for an application.
pub(super) enum ContractSource {
    Hook { hook: Hook, stamp: Stamp },
    Manifest(Arc<KnownManifest>),
    None,
}

/// A manifest, the contract that follows from it, and the config that was last read by it.
pub(super) struct KnownManifest {
    pub(super) manifest: Arc<Manifest>,
    contract: Arc<Contract>,
    config: CachedConfig,
}

impl KnownManifest {
    pub(super) fn read_config(&self, root: &Root) -> Result<Arc<Config>, HostError> {
        self.config.read(root, &self.manifest)
    }
}

/// The services that a hook names; `None`: it does not know the question.
type HookServices = Result<Option<BTreeSet<String>>, HostError>;

struct CachedServices {
    stamp: Stamp,
    asked_at: Instant,
    answer: HookServices,
}

impl ContractFinder {
    pub(super) fn new(root: Root, hook_deadline: Duration) -> Self {
        Self {
            root,
            runner: None,
            hook_deadline,
            manifests: Mutex::default(),
            hook_services: Mutex::default(),
            no_contract: Arc::new(Contract {
                kind: ContractKind::None,
                services: None,
                watched_files: Arc::default(),
                has_checks: false,
                stamp: None,
            }),
        }
    }

    pub(super) fn runner(self, runner: Option<Arc<Runner>>) -> Self {
        Self { runner, ..self }
    }

    pub(super) fn hook_deadline(self, hook_deadline: Duration) -> Self {
        Self {
            hook_deadline,
            ..self
        }
    }

    pub(super) async fn contract(&self, app: &AppName, package: &str) -> Result<Arc<Contract>, HostError> {
        Ok(match self.find(app, package)? {
            ContractSource::Hook { hook, stamp } => Arc::new(Contract {
                kind: ContractKind::Hook,
                services: self.hook_services(&hook, stamp).await?,
                watched_files: [hook.program].into(),
                has_checks: false,
                stamp: Some(stamp),
            }),
            ContractSource::Manifest(known) => known.contract.clone(),
            ContractSource::None => self.no_contract.clone(),
        })
    }

    pub(super) fn find(&self, app: &AppName, package: &str) -> Result<ContractSource, HostError> {
        for name in names(app, package) {
            if let Some((hook, stamp)) = self.find_hook(name)? {
                return Ok(ContractSource::Hook { hook, stamp });
            }
        }
        for folder in MANIFESTS {
            for name in names(app, package) {
                let file = Path::new(folder).join(format!("{name}.toml"));
                if let Some(known) = self.find_manifest(&file)? {
                    return Ok(ContractSource::Manifest(known));
                }
            }
        }
        Ok(ContractSource::None)
    }

    fn find_hook(&self, folder: &str) -> Result<Option<(Hook, Stamp)>, HostError> {
        let path = PathBuf::from(format!("{HOOKS}/{folder}/config"));
        let failed = |error: io::Error| {
            let message = format!("cannot read the hook {}: {error}", path.display());
            HostError::new(Category::Host, message)
        };
        let Some((real, metadata)) = find(&self.root, &path).map_err(failed)? else {
            return Ok(None);
        };
        // A folder of that name, or a file that is not executable, is no hook.
        if !metadata.is_file() || metadata.mode() & EXECUTABLE == 0 {
            return Ok(None);
        }
        check_trust(&self.root, &real, &metadata)
            .map_err(|why| HostError::new(Category::Script, format!("refusing to run the hook: {why}")))?;
        let stamp = Stamp::of(&metadata);
        let hook = Hook::new(&self.root, real, self.hook_deadline).runner(self.runner.clone());
        Ok(Some((hook, stamp)))
    }

    fn find_manifest(&self, file: &Path) -> Result<Option<Arc<KnownManifest>>, HostError> {
        let failed = |error| manifest_error(file, &error);
        let Some(metadata) = look(&self.root, file).map_err(failed)? else {
            self.manifests().remove(file);
            return Ok(None);
        };
        if let Some((stamp, known)) = self.manifests().get(file)
            && *stamp == Stamp::of(&metadata)
        {
            return Ok(Some(known.clone()));
        }
        let real = resolve(&self.root, file).map_err(failed)?;
        // The metadata of the file that is read: it may have changed since.
        let Some((bytes, metadata)) = read_capped(&real, MAX_MANIFEST).map_err(failed)? else {
            return Ok(None);
        };
        let manifest = self.parse(file, &real, bytes, &metadata)?;
        let known = Arc::new(self.know(file, manifest));
        let cached = (Stamp::of(&metadata), known.clone());
        self.manifests().insert(file.to_owned(), cached);
        Ok(Some(known))
    }

    fn parse(
        &self,
        file: &Path,
        real: &Path,
        bytes: Vec<u8>,
        metadata: &Metadata,
    ) -> Result<Manifest, HostError> {
        let invalid = |message| HostError::new(Category::Invalid, message);
        check_trust(&self.root, real, metadata)
            .map_err(|why| invalid(format!("refusing to follow the manifest: {why}")))?;
        let text =
            String::from_utf8(bytes).map_err(|_| invalid(format!("{}: is not UTF-8", file.display())))?;
        let manifest = Manifest::parse(file, &text).map_err(|error| invalid(error.to_string()))?;
        for warning in &manifest.warnings {
            tracing::warn!("{warning}");
        }
        Ok(manifest)
    }

    fn know(&self, file: &Path, manifest: Manifest) -> KnownManifest {
        let files: BTreeSet<&Path> = manifest.sections.values().map(|s| s.file.as_path()).collect();
        let watched = files
            .into_iter()
            .chain([file])
            .map(|file| resolve(&self.root, file).unwrap_or_else(|_| self.root.join(file)))
            .collect();
        let contract = Contract {
            kind: ContractKind::Manifest,
            services: manifest.services.clone().map(BTreeSet::from_iter),
            watched_files: watched,
            has_checks: !manifest.health.is_empty(),
            stamp: stamp_of(&self.root, file),
        };
        KnownManifest {
            manifest: Arc::new(manifest),
            contract: Arc::new(contract),
            config: CachedConfig::default(),
        }
    }

    async fn hook_services(&self, hook: &Hook, stamp: Stamp) -> HookServices {
        if let Some(cached) = locked(&self.hook_services).get(&hook.program)
            && cached.stamp == stamp
            && (cached.answer.is_ok() || cached.asked_at.elapsed() < ASK_AGAIN)
        {
            return cached.answer.clone();
        }
        let answer = hook.get_services().await;
        let cached = CachedServices {
            stamp,
            asked_at: Instant::now(),
            answer: answer.clone(),
        };
        locked(&self.hook_services).insert(hook.program.clone(), cached);
        answer
    }

    fn manifests(&self) -> MutexGuard<'_, HashMap<PathBuf, (Stamp, Arc<KnownManifest>)>> {
        locked(&self.manifests)
    }
}

// Every holder leaves the maps consistent, so a panic elsewhere does no harm.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The application's own name first, then its package's.
fn names<'n>(app: &'n AppName, package: &'n str) -> impl Iterator<Item = &'n str> {
    let app = app.as_str();
    // It comes from a package database and becomes part of a path.
    let other = (package != app && check_plain_name(package, AppName::MAX_LEN).is_ok()).then_some(package);
    [app].into_iter().chain(other)
}

fn manifest_error(file: &Path, error: &io::Error) -> HostError {
    let message = format!("cannot read the manifest {}: {error}", file.display());
    HostError::new(Category::Host, message)
}
fn stamp_of(root: &Root, file: &Path) -> Option<Stamp> {
    let file = resolve(root, file).ok()?;
    Some(Stamp::of(&std::fs::metadata(file).ok()?))
}
