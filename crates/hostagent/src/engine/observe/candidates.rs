//! Which installed packages are applications.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock, Weak};

use protocol::AppName;
use protocol::spec::Rank;

use crate::ledger::{Desired, Record, Records};
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
    /// The services that its package, at this version, ships: once they were needed.
    pub(super) shipped: OnceLock<Arc<BTreeSet<String>>>,
}

/// All of them, by name; and what they were found in, none of which changes. The package database, which is large, is
/// held weakly: its place in memory is not taken by another one meanwhile.
#[derive(Default)]
pub(super) struct Candidates {
    desired: Arc<Desired>,
    records: Arc<Records>,
    packages: Weak<InstalledPackages>,
    found: Vec<Candidate>,
}

impl Candidates {
    pub(super) fn new(
        desired: &Arc<Desired>,
        records: &Arc<Records>,
        packages: &Arc<InstalledPackages>,
    ) -> Self {
        Self {
            desired: desired.clone(),
            records: records.clone(),
            packages: Arc::downgrade(packages),
            found: find(desired, records, packages),
        }
    }

    /// Whether they were found in just these.
    pub(super) fn are_of(
        &self,
        desired: &Arc<Desired>,
        records: &Arc<Records>,
        packages: &Arc<InstalledPackages>,
    ) -> bool {
        Arc::ptr_eq(&self.desired, desired)
            && Arc::ptr_eq(&self.records, records)
            && std::ptr::eq(self.packages.as_ptr(), Arc::as_ptr(packages))
    }

    pub(super) fn found(&self) -> &[Candidate] {
        &self.found
    }
}

/// Those on record, those that provide `pf9app`, and those that a desired application names and that are there
/// already. Pure.
fn find(desired: &Desired, records: &Records, packages: &InstalledPackages) -> Vec<Candidate> {
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
        shipped: OnceLock::new(),
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
    for (app, spec) in &desired.apps {
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
        // A package whose name can't be an application's stays out of reach.
        if let Ok(app) = AppName::new(package)
            && !found.contains_key(&app)
            && taken.insert(package)
        {
            found.insert(app.clone(), candidate(&app, package, installed, None));
        }
    }
    found.into_values().collect()
}
