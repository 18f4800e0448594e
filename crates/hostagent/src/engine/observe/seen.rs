//! What a look has found of one application, borrowed from where it was found: copied only if it is news.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use protocol::{AppName, Config};

use super::ObservedApp;
use super::candidates::Candidate;
use super::configs::{ReadAt, is_same};
use host::{Contract, ContractKind, HostError, ServiceState};

pub(super) struct Seen<'a> {
    pub(super) candidate: &'a Candidate,
    /// `None`: it is broken.
    pub(super) contract: Option<&'a Contract>,
    pub(super) names: Names<'a>,
    /// Of each of `names`.
    pub(super) services: Vec<Option<ServiceState>>,
    pub(super) config: Arc<Result<Config, HostError>>,
    pub(super) config_unfinished: bool,
    pub(super) healthy: bool,
    pub(super) config_read_at: Option<ReadAt>,
}

/// Names of an application's services.
pub(super) enum Names<'a> {
    /// By its contract.
    Named(&'a BTreeSet<String>),
    /// Its own, or its package's.
    One(&'a str),
    /// Of what its package ships.
    Shipped(Arc<BTreeSet<String>>),
}

impl Names<'_> {
    /// In order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        let (set, one) = match self {
            Self::Named(names) => (Some(*names), None),
            Self::Shipped(names) => (Some(&**names), None),
            Self::One(name) => (None, Some(*name)),
        };
        set.into_iter().flatten().map(String::as_str).chain(one)
    }
}

impl Seen<'_> {
    fn contract_kind(&self) -> ContractKind {
        self.contract.map_or(ContractKind::None, |contract| contract.kind)
    }

    fn config_files(&self) -> Arc<[PathBuf]> {
        self.contract
            .map(|contract| contract.watched_files.clone())
            .unwrap_or_default()
    }

    fn has_config_files(&self, files: &Arc<[PathBuf]>) -> bool {
        match self.contract {
            Some(contract) => Arc::ptr_eq(&contract.watched_files, files) || contract.watched_files == *files,
            None => files.is_empty(),
        }
    }

    /// Whether an earlier look has found just the same.
    pub(super) fn is(&self, (app, there): (&AppName, &ObservedApp)) -> bool {
        // All of them, by name: what is added must be compared, too.
        let ObservedApp {
            package,
            version,
            broken,
            managed,
            url,
            rank,
            contract,
            config_files,
            services,
            config,
            config_unfinished,
            healthy,
            config_read_at,
        } = there;
        let same_services = services.len() == self.services.len()
            && services
                .iter()
                .map(|(name, state)| (name.as_str(), state))
                .eq(self.names.iter().zip(&self.services));
        let candidate = self.candidate;
        candidate.app == *app
            && candidate.package == *package
            && candidate.installed.version == *version
            && candidate.installed.broken == *broken
            && candidate.managed == *managed
            && candidate.url == *url
            && candidate.rank == *rank
            && self.contract_kind() == *contract
            && self.has_config_files(config_files)
            && same_services
            && is_same(&self.config, config)
            && self.config_unfinished == *config_unfinished
            && self.healthy == *healthy
            && self.config_read_at == *config_read_at
    }

    pub(super) fn to_owned(&self) -> ObservedApp {
        let names = self.names.iter().map(str::to_owned);
        let candidate = self.candidate.clone();
        ObservedApp {
            package: candidate.package,
            version: candidate.installed.version,
            broken: candidate.installed.broken,
            managed: candidate.managed,
            url: candidate.url,
            rank: candidate.rank,
            contract: self.contract_kind(),
            config_files: self.config_files(),
            services: names.zip(self.services.iter().copied()).collect(),
            config: self.config.clone(),
            config_unfinished: self.config_unfinished,
            healthy: self.healthy,
            config_read_at: self.config_read_at.clone(),
        }
    }
}
