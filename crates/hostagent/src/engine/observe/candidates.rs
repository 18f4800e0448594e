//! Which installed packages are applications.

use std::collections::{BTreeMap, BTreeSet};

use protocol::spec::Rank;
use protocol::{AppName, Apps};

use crate::ledger::{Record, Records};
use host::{InstalledPackage, InstalledPackages};

/// An application that may be reported, and its package.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Candidate {
    pub(super) app: AppName,
    pub(super) package: String,
    pub(super) installed: InstalledPackage,
    pub(super) managed: bool,
    pub(super) url: Option<String>,
    pub(super) rank: Option<Rank>,
}

/// Those on record, those that provide `pf9app`, and those that a desired application names and that are there
/// already. Pure.
pub(super) fn find(desired: &Apps, records: &Records, packages: &InstalledPackages) -> Vec<Candidate> {
    let candidate = |app: &AppName,
                     package: &str,
                     installed: InstalledPackage<&str>,
                     record: Option<&Record>| Candidate {
        app: app.clone(),
        package: package.to_owned(),
        installed: installed.cloned(),
        managed: record.is_some() || installed.is_application,
        url: record.and_then(|record| record.provenance_of(installed.version)?.url.clone()),
        rank: record.and_then(|record| record.rank),
    };
    let mut found = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for (app, record) in records {
        if let Some(installed) = packages.get(&record.package) {
            taken.insert(record.package.as_str());
            found.insert(
                app.clone(),
                candidate(app, &record.package, installed, Some(record)),
            );
        }
    }
    for (app, spec) in desired {
        let package = spec.package.as_deref().unwrap_or(app.as_str());
        if let Some(installed) = packages.get(package)
            && !found.contains_key(app)
            && !records.contains_key(app)
            && taken.insert(package)
        {
            found.insert(app.clone(), candidate(app, package, installed, None));
        }
    }
    for (package, installed) in packages.iter().filter(|(_, installed)| installed.is_application) {
        // A package whose name cannot be an application's stays out of reach.
        if let Ok(app) = AppName::new(package)
            && !found.contains_key(&app)
            && taken.insert(package)
        {
            found.insert(app.clone(), candidate(&app, package, installed, None));
        }
    }
    found.into_values().collect()
}
