//! What every command needs that observes the host.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use protocol::HostId;

use crate::engine::Engine;
use crate::engine::observe::Observer;
use crate::identity::{self, IdSource, Identity};
use crate::ledger::Ledger;
use crate::settings::Settings;
use host::{self, Facts, Host};

pub struct Context {
    pub host_id: HostId,
    pub host: Host,
    /// A real path.
    pub state_dir: PathBuf,
    id_source: IdSource,
    bake_period: Duration,
    max_crashes: u32,
}

impl Context {
    pub fn open(settings: &Settings) -> Result<Self> {
        let Identity { host_id, source } = super::id::identify(settings)?;
        if source.is_doubtful() {
            tracing::warn!(%host_id, "source of the host id: {source}");
        }
        let state_dir = settings.state_dir();
        let host = host::open(settings.host_options())?;
        Ok(Self {
            host_id,
            host,
            state_dir,
            id_source: source,
            bake_period: settings.hostagent.bake_period,
            max_crashes: settings.hostagent.max_converge_attempts,
        })
    }

    /// Collects the facts of this host, anew at each call.
    pub fn facts(&self, settings: &Settings) -> impl Fn() -> Facts + Send + Sync + 'static {
        let root = settings.root();
        let family = self.host.packages.family();
        let init = if host::services::is_systemd(&root) {
            "systemd"
        } else {
            "sysv"
        };
        let facts = host::facts::Collector::new(&root, family, init);
        move || facts.collect()
    }

    /// For commands that change the host or its desired state.
    pub fn create_state_dir(&self) -> Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.state_dir)
            .with_context(|| format!("cannot create the state folder {}", self.state_dir.display()))?;
        let identity = Identity {
            host_id: self.host_id.clone(),
            source: self.id_source.clone(),
        };
        identity::keep(&self.state_dir, &identity).context("cannot store the host id in the state folder")
    }

    pub fn engine(&self, ledger: Ledger) -> Arc<Engine> {
        Arc::new(Engine {
            observer: Observer::new(self.host.clone()),
            host: self.host.clone(),
            ledger: Arc::new(ledger),
            bake_period: self.bake_period,
            max_crashes: self.max_crashes,
            guard: None,
        })
    }

    /// An engine for commands that only read.
    pub fn looking_engine(&self) -> Result<Arc<Engine>> {
        let ledger = Ledger::look(&self.state_dir, self.host_id.clone())?;
        Ok(self.engine(ledger))
    }
}
