//! Downloads and verifies everything a plan installs, before anything is touched.

use std::collections::BTreeMap;

use protocol::satisfied::version_satisfied;
use protocol::{AppName, Category, Phase};

use crate::engine::failure::Failure;
use crate::engine::plan::Install;
use crate::ledger::Records;
use host::{Cancel, Download, Host, HostError, PackageFile, Source};

/// A package that is ready to be installed.
#[derive(Debug, Clone, PartialEq)]
pub struct Staged {
    pub app: AppName,
    pub source: Source,
    pub install: Install,
}

impl Staged {
    pub fn package(&self) -> &str {
        self.source.name()
    }

    /// Full version that it will bring.
    pub fn version(&self) -> &str {
        match &self.source {
            Source::File(file) => &file.version,
            Source::Repository { version, .. } => version,
        }
    }
}

/// What is ready, in the order asked, and what is not, by application.
#[derive(Debug, Default)]
pub struct StageOutcome {
    pub staged: Vec<Staged>,
    pub failures: BTreeMap<AppName, Failure>,
}

/// Stages `installs` side by side. Nothing on the host changes but the download cache.
pub async fn stage(
    host: &Host,
    installs: &[(&AppName, &Install)],
    records: &Records,
    cancel: &Cancel,
) -> StageOutcome {
    let staging = installs
        .iter()
        .map(|(app, install)| stage_one(host, app, install, records, cancel));
    let results = futures_util::future::join_all(staging).await;
    let mut outcome = StageOutcome::default();
    for ((app, install), result) in installs.iter().zip(results) {
        match result {
            Ok(source) => {
                outcome.staged.push(Staged {
                    app: (*app).clone(),
                    source,
                    install: (*install).clone(),
                });
            }
            Err(failure) => {
                outcome.failures.insert((*app).clone(), failure);
            }
        }
    }
    refuse_shared_packages(&mut outcome, records);
    outcome
}

async fn stage_one(
    host: &Host,
    app: &AppName,
    install: &Install,
    records: &Records,
    cancel: &Cancel,
) -> Result<Source, Failure> {
    let expected = install
        .package
        .as_deref()
        .or_else(|| records.get(app).map(|record| record.package.as_str()));
    let Some(url) = &install.url else {
        let package = expected.unwrap_or(app.as_str());
        let found = host
            .packages
            .find_in_repositories(package, &install.version)
            .await;
        let version = found.map_err(|error| Failure::new(Phase::Download, error))?;
        return Ok(Source::Repository {
            name: package.to_owned(),
            version,
        });
    };
    let download = Download {
        url: url.clone(),
        sha256: install.sha256.clone(),
    };
    let path = host.downloads.fetch(&download, cancel).await.map_err(|error| {
        let phase = if error.category == Category::Verification {
            Phase::Verify
        } else {
            Phase::Download
        };
        Failure::new(phase, error)
    })?;
    let file = match host.packages.inspect(&path).await {
        Ok(file) => file,
        Err(error) => {
            host.downloads.discard(&path).await;
            return Err(Failure::new(Phase::Verify, error));
        }
    };
    if let Err(reason) = verify(&file, install, expected) {
        host.downloads.discard(&path).await;
        let message =
            format!("the package file for {app} is not what was asked: {reason}; nothing was changed");
        return Err(Failure::new(
            Phase::Verify,
            HostError::new(Category::Verification, message),
        ));
    }
    Ok(Source::File(file))
}

/// Whether a package file is the one that was asked for. Pure.
fn verify(file: &PackageFile, install: &Install, package: Option<&str>) -> Result<(), String> {
    if let Some(package) = package
        && package != file.name
    {
        return Err(format!("it holds package {}, expected {package}", file.name));
    }
    if let Err(error) = protocol::name::check_plain_name(&file.name, AppName::MAX_LEN) {
        return Err(format!("its package name {error}"));
    }
    if !version_satisfied(&install.version, &file.version) {
        return Err(format!(
            "it holds version {}, expected {}",
            file.version, install.version
        ));
    }
    if !file.arch_fits {
        return Err(format!(
            "it is for architecture {}, which this host does not take",
            file.arch
        ));
    }
    Ok(())
}

/// No two applications share a package: the one on record keeps it, else the first.
fn refuse_shared_packages(outcome: &mut StageOutcome, records: &Records) {
    let mut owners: BTreeMap<String, AppName> = records
        .iter()
        .map(|(app, record)| (record.package.clone(), app.clone()))
        .collect();
    let mut kept = Vec::new();
    for staged in outcome.staged.drain(..) {
        let owner = owners
            .entry(staged.package().to_owned())
            .or_insert_with(|| staged.app.clone());
        if *owner == staged.app {
            kept.push(staged);
            continue;
        }
        let message = format!(
            "package {} of {} belongs to application {owner} already; no two applications share a package",
            staged.package(),
            staged.app,
        );
        let failure = Failure::new(Phase::Verify, HostError::new(Category::Verification, message));
        outcome.failures.insert(staged.app, failure);
    }
    outcome.staged = kept;
}
