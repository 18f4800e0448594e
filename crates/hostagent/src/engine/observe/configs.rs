//! Configs as they were last read, and when that was.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::{AppName, Config};
use tokio::time::Instant;

use super::Freshness;
use super::candidates::Candidate;
use host::{AppConfig, Contract, ContractKind, HostError};

/// A config that could not be read is read again after this long.
const FAILED_CONFIG_AGE: Duration = Duration::from_secs(5);

/// A config, or why it could not be read.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) config: Arc<Result<Config, HostError>>,
    /// `None`: there is nothing to be read.
    pub(super) read_at: Option<Instant>,
}

struct Known {
    package: String,
    version: String,
    config: Arc<Result<Config, HostError>>,
    read_at: Instant,
}

impl Known {
    fn is_of(&self, candidate: &Candidate) -> bool {
        self.package == candidate.package && self.version == candidate.installed.version
    }

    fn found(&self) -> Found {
        Found {
            config: self.config.clone(),
            read_at: Some(self.read_at),
        }
    }
}

pub(super) struct Configs {
    known: Mutex<HashMap<AppName, Known>>,
    /// Of applications that have no contract.
    none: Arc<Result<Config, HostError>>,
}

impl Configs {
    pub(super) fn new() -> Self {
        Self {
            known: Mutex::default(),
            none: Arc::new(Ok(Config::new())),
        }
    }

    /// It may have changed.
    pub(super) fn forget(&self, app: &AppName) {
        self.lock().remove(app);
    }

    /// As last read or, for a full look, as it is now.
    pub(super) async fn look(
        &self,
        app_config: &dyn AppConfig,
        candidate: &Candidate,
        contract: &Contract,
        freshness: Freshness,
    ) -> Found {
        if contract.kind == ContractKind::None {
            return Found {
                config: self.none.clone(),
                read_at: None,
            };
        }
        if freshness != Freshness::Full
            && let Some(known) = self.lock().get(&candidate.app)
            && known.is_of(candidate)
            && (known.config.is_ok() || known.read_at.elapsed() < FAILED_CONFIG_AGE)
        {
            return known.found();
        }
        let read = app_config.read(&candidate.app, &candidate.package).await;
        let config = Arc::new(read.map(Arc::unwrap_or_clone));
        self.remember(candidate, config, Instant::now())
    }

    fn remember(
        &self,
        candidate: &Candidate,
        config: Arc<Result<Config, HostError>>,
        read_at: Instant,
    ) -> Found {
        let new = Known {
            package: candidate.package.clone(),
            version: candidate.installed.version.clone(),
            config,
            read_at,
        };
        let found = new.found();
        // Where it is broken, perhaps its files are being put in place right now: says nothing of what will be there.
        if !candidate.installed.broken {
            self.lock().insert(candidate.app.clone(), new);
        }
        found
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AppName, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
