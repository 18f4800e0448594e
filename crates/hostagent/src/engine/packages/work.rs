//! What one run of the package manager is to do, and who fails in it.

use host::{ApplyError, Cancel, Host, HostError, Packages, Transaction};
use protocol::{AppName, Category, Phase};

use super::super::Engine;
use super::super::converge::Direction;
use super::super::failure::{Failure, Failures};
use super::super::observe::Freshness;
use super::super::plan::{self, PackageAction, Step, Targets};
use super::super::progress::Change;
use super::super::stage::{self, Staged};
use super::super::target::Target;
use super::with_lock;

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
    pub fn removals_of(steps: &[Step<PackageAction>]) -> Self {
        let removals = steps.iter().filter_map(|step| match &step.action {
            PackageAction::Remove { package, .. } => Some(Removal {
                app: step.app.clone(),
                package: package.clone(),
            }),
            PackageAction::Adopt { .. }
            | PackageAction::StopForRemoval { .. }
            | PackageAction::Install(_) => None,
        });
        Self {
            removals: removals.collect(),
            installs: Vec::new(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.removals.is_empty() && self.installs.is_empty()
    }

    pub fn apps(&self) -> impl Iterator<Item = &AppName> {
        let removals = self.removals.iter().map(|removal| &removal.app);
        removals.chain(self.installs.iter().map(|staged| &staged.app))
    }

    pub fn retain(&mut self, keep: impl Fn(&AppName) -> bool) {
        self.removals.retain(|removal| keep(&removal.app));
        self.installs.retain(|staged| keep(&staged.app));
    }

    pub fn transaction(&self) -> Transaction {
        Transaction {
            install: self.installs.iter().map(|staged| staged.source.clone()).collect(),
            remove: self
                .removals
                .iter()
                .map(|removal| removal.package.clone())
                .collect(),
        }
    }

    pub fn describe(&self) -> String {
        let removals = self
            .removals
            .iter()
            .map(|removal| format!("removing {}", removal.package));
        let installs = self
            .installs
            .iter()
            .map(|staged| format!("installing {} {}", staged.package(), staged.version()));
        removals.chain(installs).collect::<Vec<_>>().join(", ")
    }

    /// What is left when those that failed are left alone.
    fn without(&self, failures: &Failures) -> Self {
        let mut open = Self {
            removals: self.removals.clone(),
            installs: self.installs.clone(),
        };
        open.retain(|app| !failures.contains_key(app));
        open
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

/// All packages in one transaction; if that fails, application by application, so that one bad one does not hold back the
/// others. Those in `failures` are left alone, and those that fail now are added. `Locked`: what neither is done nor has
/// failed is still to do.
///
/// What hangs costs its deadline once: what is known to have hung is not run again.
pub async fn change_packages(
    host: &Host,
    work: &PackageWork,
    failures: &mut Failures,
    direction: Direction,
) -> Result<(), ApplyError> {
    let mut healed = false;
    loop {
        let open = work.without(failures);
        if open.is_empty() {
            return Ok(());
        }
        let error = match host.packages.apply(&open.transaction()).await {
            Ok(applied) => {
                log_warnings(&open, &applied.warnings);
                return Ok(());
            }
            Err(ApplyError::Refused(error)) if !failures.is_empty() => error,
            // apt refuses everything while dpkg is interrupted, as after a power cut.
            Err(ApplyError::Refused(error)) if direction == Direction::Back && !healed => error,
            Err(error @ (ApplyError::Locked(_) | ApplyError::Refused(_))) => return Err(error),
            Err(ApplyError::Failed(error)) => error,
        };
        let alone = open.removals.len() + open.installs.len() == 1;
        // What the failed change left half-installed is healed only where it stands in the way: to heal is to run those
        // scripts again that have just failed, or hung until their deadline.
        if direction == Direction::Back && !healed && error.category != Category::Timeout {
            tracing::warn!(
                "the rollback is blocked; healing half-installed packages, then trying again: {error}"
            );
            heal(host).await;
            healed = true;
            continue;
        }
        let mut culprits = Vec::new();
        for (app, phase, package, _) in open.one_by_one() {
            if alone || (error.category == Category::Timeout && was_in_hand(host, package).await) {
                culprits.push((app.clone(), Failure::new(phase, error.clone())));
            }
        }
        if culprits.is_empty() {
            tracing::warn!(
                "the joint package transaction failed; continuing application by application: {error}"
            );
            return change_one_by_one(host, &open, failures).await;
        }
        failures.extend(culprits);
    }
}

fn log_warnings(work: &PackageWork, warnings: &[String]) {
    for warning in warnings {
        let apps: Vec<&str> = work.apps().map(AppName::as_str).collect();
        tracing::warn!("{}: done, with a warning: {warning}", apps.join(", "));
    }
}

async fn heal(host: &Host) {
    if let Err(error) = host.packages.heal().await {
        tracing::warn!("cannot heal half-installed packages: {error}");
    }
}

/// Whether dpkg was at work on this very package when it was killed. (rpm's database does not tell.)
async fn was_in_hand(host: &Host, package: &str) -> bool {
    let Ok(packages) = host.packages.installed().await else {
        return false;
    };
    let there = packages.get(package);
    host.packages.family().database_tells_whole() && there.is_some_and(|there| there.broken && !there.waits)
}

async fn change_one_by_one(
    host: &Host,
    work: &PackageWork,
    failures: &mut Failures,
) -> Result<(), ApplyError> {
    for (app, phase, _, transaction) in work.one_by_one() {
        // To heal what dpkg left is to run scripts again; one that has hung would hang again.
        let has_hung = failures
            .values()
            .any(|failure| failure.category == Category::Timeout);
        if !(has_hung && host.packages.family().healing_runs_scripts()) {
            heal(host).await;
        }
        if is_done(host, &transaction).await {
            continue;
        }
        match host.packages.apply(&transaction).await {
            Ok(applied) => applied
                .warnings
                .iter()
                .for_each(|warning| tracing::warn!(%app, "{app}: done, with a warning: {warning}")),
            Err(error @ ApplyError::Locked(_)) => return Err(error),
            Err(ApplyError::Refused(error) | ApplyError::Failed(error)) => {
                failures.insert(app.clone(), Failure::new(phase, error));
            }
        }
    }
    Ok(())
}

/// Whether the joint attempt got this far already. Of an installation rpm's database does not tell: a package whose last
/// script failed is entered like any other.
async fn is_done(host: &Host, transaction: &Transaction) -> bool {
    if !host.packages.family().database_tells_whole() && !transaction.install.is_empty() {
        return false;
    }
    let Ok(packages) = host.packages.installed().await else {
        return false;
    };
    let installed = transaction.install.iter().all(|source| {
        packages
            .get(source.name())
            .is_some_and(|there| there.version == source.version() && !there.broken)
    });
    installed && transaction.remove.iter().all(|name| !packages.contains(name))
}

/// An error: refused, or other packages would have to be removed.
pub(super) async fn simulate(packages: &dyn Packages, transaction: &Transaction) -> Result<(), HostError> {
    packages.simulate(transaction).await?.refuse_removals(transaction)
}

/// Of applications that are refused together, those that do not fit, and why. `error`: of all of them.
pub(super) async fn failing_in_simulation(
    packages: &dyn Packages,
    work: &PackageWork,
    error: HostError,
) -> Vec<(AppName, HostError)> {
    if work.installs.len() <= 1 && work.removals.is_empty() || work.installs.is_empty() {
        return work.apps().map(|app| (app.clone(), error.clone())).collect();
    }
    let mut passing: Vec<Staged> = Vec::new();
    let mut open = work.installs.clone();
    loop {
        let count = open.len();
        let mut failing: Vec<(Staged, HostError)> = Vec::new();
        for staged in open {
            passing.push(staged);
            let trial = PackageWork {
                removals: work.removals.clone(),
                installs: passing.clone(),
            };
            if let Err(error) = simulate(packages, &trial.transaction()).await
                && let Some(staged) = passing.pop()
            {
                failing.push((staged, error));
            }
        }
        if failing.len() == count || failing.is_empty() {
            return failing
                .into_iter()
                .map(|(staged, error)| (staged.app, error))
                .collect();
        }
        open = failing.into_iter().map(|(staged, _)| staged).collect();
    }
}

pub(super) async fn undo_package(engine: &Engine, app: &AppName, change: &Change) -> Result<(), HostError> {
    let observed = engine.observe(&protocol::Apps::new(), Freshness::Light).await?;
    let targets = Targets::from([(app.clone(), Target::undo(change))]);
    let plan = plan::plan(&targets, &observed, engine.host.packages.family());
    let mut work = PackageWork::removals_of(&plan.packages);
    let installs: Vec<_> = plan
        .packages
        .into_iter()
        .filter_map(|step| match step.action {
            PackageAction::Install(install) => Some((step.app, install)),
            PackageAction::Adopt { .. }
            | PackageAction::StopForRemoval { .. }
            | PackageAction::Remove { .. } => None,
        })
        .collect();
    let records = engine.ledger.records();
    let staged = stage::stage(&engine.host, &installs, &records, &Cancel::default()).await;
    if let Some((_, failure)) = staged.failures.into_iter().next() {
        return Err(HostError::new(failure.category, failure.message));
    }
    work.installs = staged.staged;
    with_lock(|| async {
        let mut failures = Failures::new();
        match change_packages(&engine.host, &work, &mut failures, Direction::Back).await {
            Ok(()) => failures.into_iter().next().map_or(Ok(()), |(_, failure)| {
                Err(HostError::new(failure.category, failure.message))
            }),
            Err(ApplyError::Locked(error) | ApplyError::Refused(error) | ApplyError::Failed(error)) => {
                Err(error)
            }
        }
    })
    .await
}
