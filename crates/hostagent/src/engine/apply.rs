//! Carries out a plan's steps. Decides nothing: what to do stands in the steps, what went wrong comes back
//! by application.

use protocol::{AppName, AppSpec, Apps, Category, Phase};
use std::path::Path;

use crate::engine::failure::{Failure, Failures};
use crate::engine::observe::{Observed, Observer};
use crate::engine::plan::{Action, Step};
use crate::engine::stage::Staged;
use crate::ledger::{Ledger, Provenance, Record};
use crate::state_file::StateFileError;
use host::{Applied, ApplyError, Family, Host, HostError, Source, Transaction};

/// What one run of the package manager is to do.
#[derive(Debug, Default)]
pub struct PackageWork {
    pub removals: Vec<Removal>,
    pub installs: Vec<Staged>,
}

#[derive(Debug, Clone)]
pub struct Removal {
    pub app: AppName,
    pub package: String,
}

impl PackageWork {
    /// What is left when those that failed are left alone.
    fn without(&self, failures: &Failures) -> Self {
        let open = |app: &AppName| !failures.contains_key(app);
        let removals = self.removals.iter().filter(|removal| open(&removal.app));
        let installs = self.installs.iter().filter(|staged| open(&staged.app));
        Self {
            removals: removals.cloned().collect(),
            installs: installs.cloned().collect(),
        }
    }

    fn whole(&self) -> Transaction {
        Transaction {
            install: self.installs.iter().map(|staged| staged.source.clone()).collect(),
            remove: self
                .removals
                .iter()
                .map(|removal| removal.package.clone())
                .collect(),
        }
    }

    /// By application: the phase in which it would fail, its package, and a transaction for it alone.
    fn one_by_one(&self) -> impl Iterator<Item = (&AppName, Phase, &str, Transaction)> {
        let removals = self.removals.iter().map(|removal| {
            let transaction = Transaction {
                install: Vec::new(),
                remove: vec![removal.package.clone()],
            };
            (&removal.app, Phase::Remove, &*removal.package, transaction)
        });
        let installs = self.installs.iter().map(|staged| {
            let transaction = Transaction {
                install: vec![staged.source.clone()],
                remove: Vec::new(),
            };
            (&staged.app, Phase::Install, staged.package(), transaction)
        });
        removals.chain(installs)
    }
}

/// How a run of the package manager ended.
#[derive(Debug)]
pub enum PackagesEnd {
    Done,
    /// Someone else holds the package manager's lock; what neither is done nor has failed is still to do.
    Locked(HostError),
}

/// Puts on record what is to be managed, before anything is done to it.
pub fn record(ledger: &Ledger, desired: &Apps, pairs: &[(&AppName, &str)]) -> Result<(), StateFileError> {
    ledger.change_records(|records| {
        for (app, package) in pairs {
            let rank = desired.get(*app).and_then(|spec| spec.rank);
            let known = records.entry((*app).clone()).or_insert_with(|| Record {
                package: (*package).to_owned(),
                rank,
                arriving: None,
                provenance: None,
            });
            known.rank = rank;
        }
    })
}

/// What the master says of where the adopted application `app` comes from, for a way back to it. Not proven: what lies there
/// is looked into when it is fetched.
pub fn record_source(ledger: &Ledger, app: &AppName, source: Provenance) -> Result<(), StateFileError> {
    ledger.change_records(|records| {
        if let Some(record) = records.get_mut(app)
            && record.provenance_of(&source.version).is_none()
        {
            record.provenance = Some(source);
        }
    })
}

fn file_of(staged: &Staged) -> Option<&Path> {
    match &staged.source {
        Source::File(file) => Some(&file.path),
        Source::Repository { .. } => None,
    }
}

/// Puts on record where what is about to be installed comes from, with its package file kept for a way
/// back. Before the package manager starts: it may end its work after the agent was killed.
pub async fn record_provenance(
    host: &Host,
    ledger: &Ledger,
    arriving: &[Staged],
) -> Result<(), StateFileError> {
    let files: Vec<&Path> = arriving.iter().filter_map(file_of).collect();
    let mut kept = host.downloads.keep_all(&files).await.into_iter();
    let mut provenances = Vec::new();
    for staged in arriving {
        let file = match file_of(staged).and_then(|_| kept.next()) {
            Some(Ok(kept)) => Some(kept),
            Some(Err(error)) => {
                tracing::warn!(app = %staged.app, %error, "the package file could not be kept for a later rollback");
                None
            }
            None => None,
        };
        let provenance = Provenance {
            version: staged.version().to_owned(),
            url: staged.install.url.clone(),
            sha256: staged.install.sha256.clone(),
            file,
        };
        provenances.push((staged, provenance));
    }
    ledger.change_records(|records| {
        for (staged, provenance) in provenances {
            if let Some(record) = records.get_mut(&staged.app) {
                let there = staged.install.from.as_deref();
                record.provenance = there.and_then(|version| record.provenance_of(version)).cloned();
                record.arriving = Some(provenance);
            }
        }
    })
}

/// Stops the services of what is about to be removed. A failure does not stop the removal, whose own
/// scripts may fare better; it is logged.
pub async fn stop_for_removal(host: &Host, steps: &[&Step]) {
    for step in steps {
        if let Action::StopForRemoval { service } = &step.action
            && let Err(error) = host.services.stop(service).await
        {
            tracing::warn!(app = %step.app, service, %error, "could not stop a service before its removal");
        }
    }
}

/// All packages in one transaction; if that fails, application by application, so that one bad one does
/// not hold back the others. Those in `failures` are left alone, and those that fail now are added.
///
/// What hangs costs its deadline once: what is known to have hung is not run again.
pub async fn change_packages(host: &Host, work: &PackageWork, failures: &mut Failures) -> PackagesEnd {
    loop {
        let open = work.without(failures);
        let whole = open.whole();
        if whole.is_empty() {
            return PackagesEnd::Done;
        }
        let error = match host.packages.apply(&whole).await {
            Ok(applied) => {
                warn_of(&applied);
                return PackagesEnd::Done;
            }
            Err(ApplyError::Locked(error)) => return PackagesEnd::Locked(error),
            Err(error) => HostError::from(error),
        };
        let alone = open.removals.len() + open.installs.len() == 1;
        let mut culprits = Vec::new();
        for (app, phase, package, _) in open.one_by_one() {
            if alone || (error.category == Category::Timeout && was_in_hand(host, package).await) {
                culprits.push((app.clone(), Failure::new(phase, error.clone())));
            }
        }
        if culprits.is_empty() {
            tracing::warn!(%error, "the joint package transaction failed; going on application by application");
            return change_packages_one_by_one(host, &open, failures).await;
        }
        failures.extend(culprits);
    }
}

/// What failed besides the packages that were asked for.
pub fn warn_of(applied: &Applied) {
    for warning in &applied.warnings {
        tracing::warn!("the packages are as desired, but: {warning}");
    }
}

/// Whether dpkg was at work on this very package when it was killed. (rpm's database does not tell.)
async fn was_in_hand(host: &Host, package: &str) -> bool {
    let Ok(packages) = host.packages.installed().await else {
        return false;
    };
    let there = packages.get(package);
    host.packages.family() == Family::Deb && there.is_some_and(|there| there.broken && !there.waits)
}

async fn change_packages_one_by_one(host: &Host, work: &PackageWork, failures: &mut Failures) -> PackagesEnd {
    for (app, phase, _, transaction) in work.one_by_one() {
        // To heal what dpkg left is to run scripts again; one that has hung would hang again.
        let has_hung = failures
            .values()
            .any(|failure| failure.category == Category::Timeout);
        if !(has_hung && host.packages.family() == Family::Deb)
            && let Err(error) = host.packages.heal().await
        {
            tracing::warn!(%error, "could not heal the package database between two packages");
        }
        if is_done(host, &transaction).await {
            continue;
        }
        match host.packages.apply(&transaction).await {
            Ok(applied) => warn_of(&applied),
            Err(ApplyError::Locked(error)) => return PackagesEnd::Locked(error),
            Err(error) => {
                failures.insert(app.clone(), Failure::new(phase, error.into()));
            }
        }
    }
    PackagesEnd::Done
}

/// Whether the joint attempt got this far already. Of an installation rpm's database does not tell: a package
/// whose last script failed is entered like any other.
async fn is_done(host: &Host, transaction: &Transaction) -> bool {
    if host.packages.family() == Family::Rpm && !transaction.install.is_empty() {
        return false;
    }
    let Ok(packages) = host.packages.installed().await else {
        return false;
    };
    let installed = transaction.install.iter().all(|source| {
        let (name, version) = match source {
            Source::File(file) => (&file.name, &file.version),
            Source::Repository { name, version } => (name, version),
        };
        packages
            .get(name)
            .is_some_and(|there| there.version == *version && !there.broken)
    });
    installed && transaction.remove.iter().all(|name| !packages.contains(name))
}

/// One step of config or services.
pub async fn settle_step(
    host: &Host,
    observer: &Observer,
    observed: &Observed,
    spec: &AppSpec,
    step: &Step,
) -> Result<(), Failure> {
    let service_failure = |error| Failure::new(Phase::Service, error);
    match &step.action {
        Action::Configure { .. } => {
            let Some(there) = observed.apps.get(&step.app) else {
                return Ok(());
            };
            let running = there.running_services();
            let written = host
                .app_config
                .write(&step.app, &there.package, &spec.config, &running)
                .await;
            observer.forget_config(&step.app);
            written.map_err(|error| Failure::new(Phase::Configure, error))
        }
        Action::Enable { service } => host.services.enable(service).await.map_err(service_failure),
        Action::Disable { service } => host.services.disable(service).await.map_err(service_failure),
        Action::Start { service } => host.services.start(service).await.map_err(service_failure),
        Action::Stop { service } => host.services.stop(service).await.map_err(service_failure),
        // Forecasts, and the other stage's actions: not for this function.
        Action::RunServices { .. }
        | Action::Adopt { .. }
        | Action::StopForRemoval { .. }
        | Action::Remove { .. }
        | Action::Install(_) => Ok(()),
    }
}
