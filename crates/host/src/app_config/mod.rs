//! The application contract (docs/app-contract.md): how an application's config is read and written.
//! Its hook if it has one, else its manifest, else nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use protocol::name::check_plain_name;
use protocol::{AppName, Category, Config};

use crate::command::Runner;
use crate::{HostError, Root, Services};
use health::Checker;

mod facility;
mod configs;
mod files;
mod folder;
pub mod formats;
pub mod health;
pub mod hook;
pub mod manifest;
mod unfinished;

pub use facility::{AppConfig, Contract, ContractKind};
pub use manifest::Manifest;

use crate::paths::{Stamp, look, read_capped, resolve};
use crate::paths::{check_trust, find};
use configs::KnownConfigs;
use folder::{Entry, Listing};
use hook::Hook;
use manifest::OnChange;
use unfinished::Unfinished;

/// Where hooks are: `HOOKS/<app>/config`.
const HOOKS: &str = "/opt/pf9";
/// Where manifests are, `<app>.toml`; the operator's comes before the package's.
const MANIFESTS: [&str; 2] = ["/etc/hostagent/apps", "/usr/share/hostagent/apps"];
const MANIFEST_EXTENSION: &str = ".toml";
const MAX_MANIFEST: u64 = 256 * 1024;
const EXECUTABLE: u32 = 0o111;
const HOOK_DEADLINE: Duration = Duration::from_secs(30);
/// A hook that could not say its services is not asked again before: it may have taken its whole deadline.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// Applications' config by their contracts.
pub struct Contracts {
    root: Root,
    services: Arc<dyn Services>,
    runner: Option<Arc<Runner>>,
    unfinished: Unfinished,
    hook_deadline: Duration,
    cache: Mutex<Cache>,
    configs: KnownConfigs,
    /// Of every application that has none.
    no_contract: Arc<Contract>,
}

/// Where hooks and manifests can be, as of one moment.
struct Places {
    hooks: Listing,
    manifests: [Listing; MANIFESTS.len()],
}

impl Places {
    /// For many applications.
    fn seen(root: &Root) -> Self {
        Self {
            hooks: Listing::of(root, HOOKS),
            manifests: MANIFESTS.map(|folder| Listing::of(root, folder)),
        }
    }

    /// For one: its files are looked for by themselves.
    fn unseen() -> Self {
        Self {
            hooks: Listing::unknown(HOOKS),
            manifests: MANIFESTS.map(Listing::unknown),
        }
    }
}

/// A hook's answer; `None`: it does not know the question.
type HookServices = Result<Option<BTreeSet<String>>, HostError>;

/// A manifest, and the contract that it is.
struct Known {
    manifest: Arc<Manifest>,
    contract: Arc<Contract>,
}

type KnownAt = (Stamp, Result<Arc<Known>, HostError>);

/// What was worked out from a file, for as long as the file stays the same.
#[derive(Default)]
struct Cache {
    /// By name, for each folder of them.
    manifests: [HashMap<String, KnownAt>; MANIFESTS.len()],
    hook_services: HashMap<PathBuf, (Stamp, Instant, HookServices)>,
}

/// The contract that counts for an application.
enum Found {
    Hook(Box<(Hook, Stamp)>),
    Manifest(Arc<Known>),
    None,
}

impl Contracts {
    /// `services` reloads or restarts; `state_dir` (a real path, the agent's own) remembers what is
    /// unfinished.
    pub fn new(root: Root, services: Arc<dyn Services>, state_dir: &Path) -> Self {
        Self {
            root,
            services,
            runner: None,
            unfinished: Unfinished::new(state_dir),
            hook_deadline: HOOK_DEADLINE,
            cache: Mutex::default(),
            configs: KnownConfigs::default(),
            no_contract: Arc::new(Contract {
                manifest: None,
                kind: ContractKind::None,
                services: None,
                watched_files: Arc::default(),
            }),
        }
    }

    /// Starts hooks and health checks; not given: the agent does.
    pub fn runner(self, runner: Option<Arc<Runner>>) -> Self {
        Self { runner, ..self }
    }

    /// What a hook may take; 30 s unless set.
    pub fn hook_deadline(self, deadline: Duration) -> Self {
        Self {
            hook_deadline: deadline,
            ..self
        }
    }

    /// The application's manifest, if that is its contract: for its health checks.
    pub fn manifest(&self, app: &AppName, package: &str) -> Result<Option<Arc<Manifest>>, HostError> {
        Ok(match self.find(&Places::unseen(), app, package)? {
            Found::Manifest(known) => Some(known.manifest.clone()),
            Found::Hook(_) | Found::None => None,
        })
    }

    fn checker(&self) -> Checker<'_> {
        Checker {
            root: &self.root,
            runner: self.runner.as_ref(),
        }
    }

    fn find(&self, places: &Places, app: &AppName, package: &str) -> Result<Found, HostError> {
        for folder in names(app, package).filter(|folder| places.hooks.may_hold(folder)) {
            if let Some((hook, stamp)) = self.find_hook(folder)? {
                return Ok(Found::Hook(Box::new((hook, stamp))));
            }
        }
        let mut file = String::new();
        for (number, folder) in places.manifests.iter().enumerate() {
            if folder.is_missing() {
                continue;
            }
            for name in names(app, package) {
                file.clear();
                file.reserve(name.len() + MANIFEST_EXTENSION.len());
                file.push_str(name);
                file.push_str(MANIFEST_EXTENSION);
                let last = self.cache().manifests[number].get(&file).cloned();
                // What was there is looked for without asking the folder first.
                if (last.is_some() || folder.may_hold(&file))
                    && let Some(known) = self.find_manifest(number, folder, &file, last)?
                {
                    return Ok(Found::Manifest(known));
                }
            }
        }
        Ok(Found::None)
    }

    fn find_hook(&self, folder: &str) -> Result<Option<(Hook, Stamp)>, HostError> {
        let path = PathBuf::from(format!("{HOOKS}/{folder}/config"));
        let failed = |error: io::Error| {
            let message = format!("cannot look at the hook {}: {error}", path.display());
            HostError::new(Category::Host, message)
        };
        let Some((real, metadata)) = find(&self.root, &path).map_err(failed)? else {
            return Ok(None);
        };
        // A folder of that name, or a file with settings in it, is no hook.
        if !metadata.is_file() || mode(&metadata) & EXECUTABLE == 0 {
            return Ok(None);
        }
        check_trust(&self.root, &real, &metadata)
            .map_err(|why| HostError::new(Category::Script, format!("the hook is not run: {why}")))?;
        let stamp = Stamp::of(&metadata);
        let hook = Hook::new(&self.root, real, self.hook_deadline).runner(self.runner.clone());
        Ok(Some((hook, stamp)))
    }

    /// `number`: which folder of [`MANIFESTS`] it is; `last`: what the last look at the file found.
    fn find_manifest(
        &self,
        number: usize,
        folder: &Listing,
        name: &str,
        last: Option<KnownAt>,
    ) -> Result<Option<Arc<Known>>, HostError> {
        let file = || Path::new(folder.path()).join(name);
        let failed = |error: io::Error| {
            let message = format!("cannot read the manifest {}: {error}", file().display());
            HostError::new(Category::Host, message)
        };
        let found = match folder.entry(name) {
            Entry::There(stamp) => Some(stamp),
            Entry::Missing => None,
            Entry::Unknown => look(&self.root, &file())
                .map_err(failed)?
                .map(|metadata| Stamp::of(&metadata)),
        };
        let Some(stamp) = found else {
            self.cache().manifests[number].remove(name);
            return Ok(None);
        };
        if let Some((parsed_at, parsed)) = last
            && parsed_at == stamp
        {
            return parsed.map(Some);
        }
        let file = &file();
        let real = resolve(&self.root, file).map_err(failed)?;
        // With the state of the file that is read, which may have come since.
        let Some((bytes, metadata)) = read_capped(&real, MAX_MANIFEST).map_err(failed)? else {
            return Ok(None);
        };
        // Not remembered: what cures it need not change the file.
        check_trust(&self.root, &real, &metadata).map_err(|why| {
            HostError::new(Category::Invalid, format!("the manifest is not followed: {why}"))
        })?;
        let parsed = parse_manifest(file, bytes)
            .map(|manifest| Arc::new(self.know(file, manifest)))
            .map_err(|message| HostError::new(Category::Invalid, message));
        let entry = (Stamp::of(&metadata), parsed.clone());
        self.cache().manifests[number].insert(name.to_owned(), entry);
        parsed.map(Some)
    }

    fn know(&self, file: &Path, manifest: Manifest) -> Known {
        for warning in &manifest.warnings {
            tracing::warn!("{warning}");
        }
        let files: BTreeSet<&Path> = manifest.sections.values().map(|s| s.file.as_path()).collect();
        let watched = files
            .into_iter()
            .chain([file])
            .map(|file| resolve(&self.root, file).unwrap_or_else(|_| self.root.join(file)))
            .collect();
        let manifest = Arc::new(manifest);
        let contract = Contract {
            kind: ContractKind::Manifest,
            services: manifest.services.clone().map(BTreeSet::from_iter),
            watched_files: watched,
            manifest: Some(manifest.clone()),
        };
        Known {
            manifest,
            contract: Arc::new(contract),
        }
    }

    async fn contract_of(&self, found: Found) -> Result<Arc<Contract>, HostError> {
        Ok(match found {
            Found::Hook(found) => {
                let (hook, stamp) = *found;
                Arc::new(Contract {
                    kind: ContractKind::Hook,
                    manifest: None,
                    services: self.hook_services(&hook, stamp).await?,
                    watched_files: [hook.program].into(),
                })
            }
            Found::Manifest(known) => known.contract.clone(),
            Found::None => self.no_contract.clone(),
        })
    }

    async fn hook_services(&self, hook: &Hook, stamp: Stamp) -> HookServices {
        if let Some((known, asked, answer)) = self.cache().hook_services.get(&hook.program)
            && *known == stamp
            && (answer.is_ok() || asked.elapsed() < ASK_AGAIN)
        {
            return answer.clone();
        }
        let answer = hook.get_services().await;
        let entry = (stamp, Instant::now(), answer.clone());
        self.cache().hook_services.insert(hook.program.clone(), entry);
        answer
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write_files(
        &self,
        app: &AppName,
        manifest: &Manifest,
        desired: &Config,
        running: &BTreeSet<String>,
    ) -> Result<(), HostError> {
        let writes = files::plan(&self.root, manifest, desired)?;
        if writes.is_empty() && !self.unfinished.holds(app)? {
            return Ok(());
        }
        self.unfinished.begin(app)?;
        // Each waits for the disk; the bus must not.
        let written = tokio::task::spawn_blocking(move || writes.iter().try_for_each(files::write));
        written
            .await
            .map_err(|_| HostError::new(Category::Host, "writing configuration files was cut short"))??;
        self.take_up(manifest, running).await?;
        self.unfinished.finish(app)
    }

    /// Lets all running services read the new files; the first failure counts, but stops none.
    async fn take_up(&self, manifest: &Manifest, running: &BTreeSet<String>) -> Result<(), HostError> {
        let named = manifest.services.iter().flatten();
        let first = named.filter(|service| running.contains(*service));
        let rest = running
            .iter()
            .filter(|service| !manifest.services.iter().flatten().any(|named| named == *service));
        let mut result = Ok(());
        for service in first.chain(rest) {
            let done = match manifest.on_change {
                OnChange::Reload => self.services.reload(service).await,
                OnChange::Restart => self.services.restart(service).await,
                OnChange::Nothing => Ok(()),
            };
            result = result.and(done);
        }
        result
    }
}

#[async_trait]
impl AppConfig for Contracts {
    async fn contract(&self, app: &AppName, package: &str) -> Result<Contract, HostError> {
        let found = self.find(&Places::unseen(), app, package)?;
        self.contract_of(found).await.map(Arc::unwrap_or_clone)
    }

    async fn contracts(&self, apps: &[(&AppName, &str)]) -> Vec<Result<Arc<Contract>, HostError>> {
        let places = Places::seen(&self.root);
        let found: Vec<_> = apps
            .iter()
            .map(|(app, package)| self.find(&places, app, package))
            .collect();
        let mut contracts = Vec::with_capacity(found.len());
        for found in found {
            contracts.push(match found {
                Ok(found) => self.contract_of(found).await,
                Err(error) => Err(error),
            });
        }
        contracts
    }

    async fn read(&self, app: &AppName, package: &str) -> Result<Config, HostError> {
        match self.find(&Places::unseen(), app, package)? {
            Found::Hook(found) => found.0.get_config().await,
            Found::Manifest(known) => files::read(&self.root, &known.manifest).map(|read| read.config),
            Found::None => Ok(BTreeMap::new()),
        }
    }

    async fn read_by(
        &self,
        contract: &Contract,
        app: &AppName,
        package: &str,
    ) -> Arc<Result<Config, HostError>> {
        match &contract.manifest {
            Some(manifest) => self.configs.read(&self.root, app, manifest),
            None => Arc::new(self.read(app, package).await),
        }
    }

    async fn write(
        &self,
        app: &AppName,
        package: &str,
        desired: &Config,
        running: &BTreeSet<String>,
    ) -> Result<(), HostError> {
        let empty = desired.values().all(BTreeMap::is_empty);
        match self.find(&Places::unseen(), app, package)? {
            Found::Hook(found) => {
                if !empty {
                    self.unfinished.begin(app)?;
                    found.0.set_config(desired).await?;
                }
                self.unfinished.finish(app)
            }
            Found::Manifest(known) => self.write_files(app, &known.manifest, desired, running).await,
            Found::None if empty => self.unfinished.finish(app),
            Found::None => Err(no_contract(app)),
        }
    }

    async fn unfinished(&self) -> Result<BTreeSet<AppName>, HostError> {
        self.unfinished.all()
    }

    async fn stays_healthy(&self, app: &AppName, package: &str, period: Duration) -> Result<(), HostError> {
        match self.manifest(app, package)? {
            Some(manifest) => self.checker().stays_healthy(app, &manifest.health, period).await,
            None => Ok(()),
        }
    }

    async fn is_healthy(&self, app: &AppName, package: &str) -> Result<(), HostError> {
        match self.manifest(app, package)? {
            Some(manifest) => self.checker().is_healthy(app, &manifest.health).await,
            None => Ok(()),
        }
    }

    async fn is_healthy_by(
        &self,
        contract: &Contract,
        app: &AppName,
        _package: &str,
    ) -> Result<(), HostError> {
        match &contract.manifest {
            Some(manifest) => self.checker().is_healthy(app, &manifest.health).await,
            None => Ok(()),
        }
    }
}

/// The application's own name first, then its package's.
fn names<'n>(app: &'n AppName, package: &'n str) -> impl Iterator<Item = &'n str> {
    let app = app.as_str();
    // It comes from a package database and becomes part of a path.
    let other = (package != app && check_plain_name(package, AppName::MAX_LEN).is_ok()).then_some(package);
    [app].into_iter().chain(other)
}

fn mode(metadata: &fs::Metadata) -> u32 {
    std::os::unix::fs::MetadataExt::mode(metadata)
}

fn parse_manifest(file: &Path, bytes: Vec<u8>) -> Result<Manifest, String> {
    let text = String::from_utf8(bytes).map_err(|_| format!("{}: is not UTF-8", file.display()))?;
    Manifest::parse(file, &text).map_err(|error| error.to_string())
}

fn no_contract(app: &AppName) -> HostError {
    let message = format!(
        "a config is desired, but nothing says where {app} keeps it: add a manifest, {}/{app}.toml (by the \
         operator) or {}/{app}.toml (by its package), with a [config.<section>] for each section, or an \
         executable {HOOKS}/{app}/config; docs/app-contract.md shows both. Or leave the config empty",
        MANIFESTS[0], MANIFESTS[1]
    );
    HostError::new(Category::Invalid, message)
}
