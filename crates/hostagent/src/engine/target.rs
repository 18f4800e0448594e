//! What an application is to become: made purely from its spec, or from what it was. Going forward and going back differ in
//! nothing else.

use std::collections::BTreeMap;

use host::Family;
use host::download::url_for_family;
use protocol::spec::Rank;
use protocol::{AppSpec, Config};

use super::progress::Change;
use super::snapshot::{Before, SavedFile, SavedService, Snapshot, UndoSource};

#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    Absent,
    Present(Box<PresentTarget>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct PresentTarget {
    pub package: PackageTarget,
    pub config: ConfigTarget,
    pub services: ServicesTarget,
    /// Whole files, as they must be.
    pub files: Vec<SavedFile>,
    pub rank: Option<Rank>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum PackageTarget {
    /// Whatever is there.
    AsIs,
    Version {
        /// Its name, where it is known before its file is read.
        name: Option<String>,
        version: String,
        /// `version` is the full version, and no other satisfies it.
        is_exact: bool,
        source: PackageSource,
    },
}

/// Where a package comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PackageSource {
    Url {
        url: String,
        sha256: Option<String>,
    },
    /// The host's own repositories.
    Repository,
    /// A file that the agent has kept.
    Kept {
        path: std::path::PathBuf,
    },
    Unavailable {
        reason: String,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub enum ConfigTarget {
    /// These keys; others are left alone.
    Keys(Config),
    /// Just this, as a hook or manifest reads it.
    Whole(Config),
}

#[derive(Debug, Clone, PartialEq)]
pub enum ServicesTarget {
    /// All of them by `running`, but for those that `states` names.
    ByRule {
        running: bool,
        states: BTreeMap<String, bool>,
    },
    /// Each as it was.
    Saved(BTreeMap<String, ServiceTarget>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceTarget {
    /// `None`: as it is.
    pub running: Option<bool>,
    pub enabled: Option<bool>,
}

impl Target {
    /// What is desired.
    pub fn desired(spec: &AppSpec, family: Family) -> Self {
        let package = PackageTarget::Version {
            name: spec.package.clone(),
            version: spec.version.clone(),
            is_exact: false,
            source: match &spec.url {
                Some(url) => PackageSource::Url {
                    url: url_for_family(url, family),
                    sha256: spec.sha256.clone(),
                },
                None => PackageSource::Repository,
            },
        };
        Self::of_spec(spec, package)
    }

    /// The config and services of `spec`, whatever package is there.
    fn settled(spec: &AppSpec) -> Self {
        Self::of_spec(spec, PackageTarget::AsIs)
    }

    fn of_spec(spec: &AppSpec, package: PackageTarget) -> Self {
        Self::Present(Box::new(PresentTarget {
            package,
            config: ConfigTarget::Keys(spec.config.clone()),
            services: ServicesTarget::ByRule {
                running: spec.running,
                states: spec.service_states.iter().flatten().map(service_state).collect(),
            },
            files: Vec::new(),
            rank: spec.rank,
        }))
    }

    /// What `change` is undone to.
    pub fn undo(change: &Change) -> Self {
        match &change.before {
            Before::Absent { .. } => Self::Absent,
            Before::Installed(before) => Self::Present(Box::new(PresentTarget {
                package: PackageTarget::Version {
                    name: Some(before.package.clone()),
                    version: before.version.clone(),
                    is_exact: true,
                    source: source_of(before),
                },
                config: ConfigTarget::Whole(before.config.clone()),
                services: ServicesTarget::Saved(undone_services(change, before)),
                files: before.files.clone(),
                rank: before.record.as_ref().and_then(|record| record.rank),
            })),
        }
    }

    /// What a held application is kept at; `None`: it is not there.
    pub fn held(at: &Before) -> Option<Self> {
        let Before::Installed(at) = at else { return None };
        Some(match &at.settled {
            Some(spec) => Self::settled(spec),
            None => Self::Present(Box::new(PresentTarget {
                package: PackageTarget::AsIs,
                config: ConfigTarget::Keys(Config::new()),
                services: ServicesTarget::Saved(at.services.iter().map(saved).collect()),
                files: Vec::new(),
                rank: None,
            })),
        })
    }

    /// What an application is kept at that had reached `spec` and cannot be changed to what is desired now.
    pub fn kept(spec: &AppSpec) -> Self {
        Self::settled(spec)
    }
}

/// Services go by their names without `.service`.
fn service_state((name, running): (&String, &bool)) -> (String, bool) {
    (name.strip_suffix(".service").unwrap_or(name).to_owned(), *running)
}

fn saved((name, was): (&String, &SavedService)) -> (String, ServiceTarget) {
    let target = ServiceTarget {
        running: Some(was.running),
        enabled: was.enabled,
    };
    (name.clone(), target)
}

/// A service that did not run and that somebody else has started meanwhile is left running, unless its package was changed.
fn undone_services(change: &Change, before: &Snapshot) -> BTreeMap<String, ServiceTarget> {
    let is_ours = |name: &String| change.changes_package() || change.started.contains(name);
    let services = before.services.iter().map(saved).map(|(name, target)| {
        let running = target.running.filter(|running| *running || is_ours(&name));
        (name, ServiceTarget { running, ..target })
    });
    services.collect()
}

fn source_of(before: &Snapshot) -> PackageSource {
    match &before.undo {
        UndoSource::File { path } => PackageSource::Kept { path: path.clone() },
        UndoSource::Repository => PackageSource::Repository,
        // It is fetched before the change begins: this is met only where that was not possible.
        UndoSource::Url { url, .. } => PackageSource::Unavailable {
            reason: format!(
                "the previous package is available only from {}",
                protocol::without_credentials(url)
            ),
        },
        UndoSource::Nowhere { reason } => PackageSource::Unavailable {
            reason: reason.clone(),
        },
        UndoSource::NotNeeded => PackageSource::Unavailable {
            reason: format!("package {} is no longer at {}", before.package, before.version),
        },
    }
}
