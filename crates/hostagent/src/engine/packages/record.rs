//! What the agent puts on record of packages: that they are managed, and where they came from.

use std::path::PathBuf;

use host::download::url_for_family;
use host::{Host, Source};
use protocol::satisfied::version_satisfied;
use protocol::{AppName, Apps};

use super::{PackageSteps, PackageWork};
use crate::engine::converge::Convergence;
use crate::engine::observe::Observed;
use crate::engine::plan::PackageAction;
use crate::engine::stage::Staged;
use crate::engine::target::PackageSource;
use crate::ledger::{Ledger, Provenance, Record};
use crate::state_file::StateFileError;

impl Convergence<'_> {
    /// Puts on record what is to be managed, before anything is done to it.
    pub(super) fn adopt(
        &self,
        steps: PackageSteps<'_>,
        work: &PackageWork,
        observed: &Observed,
    ) -> Result<(), StateFileError> {
        let ledger = &self.engine.ledger;
        let adopted = steps.iter().filter_map(|step| match &step.action {
            PackageAction::Adopt { package } => Some((&step.app, package.as_str())),
            PackageAction::StopForRemoval { .. }
            | PackageAction::Remove { .. }
            | PackageAction::Install(_) => None,
        });
        let installed = work.installs.iter().map(|staged| (&staged.app, staged.package()));
        let pairs: Vec<(&AppName, &str)> = adopted.clone().chain(installed).collect();
        record(ledger, &self.desired.apps, &pairs)?;
        for (app, _) in adopted {
            if let Some(source) = self.source_of_adopted(app, observed) {
                record_source(ledger, app, source)?;
            }
        }
        Ok(())
    }

    /// Where the version that is installed is available, by the desired state.
    fn source_of_adopted(&self, app: &AppName, observed: &Observed) -> Option<Provenance> {
        let spec = self.desired.apps.get(app)?;
        let there = observed.apps.get(app)?;
        let url = spec.url.as_deref()?;
        version_satisfied(&spec.version, &there.version).then(|| Provenance {
            version: there.version.clone(),
            url: Some(url_for_family(url, self.family())),
            sha256: spec.sha256.clone(),
            file: None,
        })
    }
}

fn record(ledger: &Ledger, desired: &Apps, pairs: &[(&AppName, &str)]) -> Result<(), StateFileError> {
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

/// Where the master says that an adopted application comes from, for a rollback to it. Not proven: the file is verified
/// when it is fetched.
fn record_source(ledger: &Ledger, app: &AppName, source: Provenance) -> Result<(), StateFileError> {
    ledger.change_records(|records| {
        if let Some(record) = records.get_mut(app)
            && record.provenance_of(&source.version).is_none()
        {
            record.provenance = Some(source);
        }
    })
}

/// A package that is about to be installed.
pub(super) struct Arriving {
    app: AppName,
    /// Full version that is there now.
    from: Option<String>,
    file: Option<PathBuf>,
    provenance: Provenance,
}

impl From<&Staged> for Arriving {
    fn from(staged: &Staged) -> Self {
        let (url, sha256) = match &staged.install.source {
            PackageSource::Url { url, sha256 } => (Some(url.clone()), sha256.clone()),
            PackageSource::Repository | PackageSource::Kept { .. } | PackageSource::Unavailable { .. } => {
                (None, None)
            }
        };
        Self {
            app: staged.app.clone(),
            from: staged.install.from.clone(),
            file: match &staged.source {
                Source::File(file) => Some(file.path.clone()),
                Source::Repository { .. } => None,
            },
            provenance: Provenance {
                version: staged.version().to_owned(),
                url,
                sha256,
                file: None,
            },
        }
    }
}

/// Puts on record where what is about to be installed comes from, with its package file kept for a rollback. Before the
/// package manager starts: it may end its work after the agent was killed.
pub(super) async fn provenance(
    host: &Host,
    ledger: &Ledger,
    mut arriving: Vec<Arriving>,
) -> Result<(), StateFileError> {
    for arriving in &mut arriving {
        let Some(file) = &arriving.file else { continue };
        match host.downloads.keep(file).await {
            Ok(kept) => arriving.provenance.file = Some(kept),
            Err(error) => {
                tracing::warn!(app = %arriving.app, "cannot keep the package file of {} for a rollback: {error}", arriving.app);
            }
        }
    }
    ledger.change_records(|records| {
        for arriving in arriving {
            if let Some(record) = records.get_mut(&arriving.app) {
                let there = arriving.from.as_deref();
                record.provenance = there.and_then(|version| record.provenance_of(version)).cloned();
                record.arriving = Some(arriving.provenance);
            }
        }
    })
}
