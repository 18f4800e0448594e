//! Takes down what an application is before it is changed, and finds out where its package could come from again.

use std::path::Path;

use host::{Cancel, Download, Host, HostError};
use protocol::{AppName, AppSpec};

use super::observe::{Observed, ObservedApp, save_file};
use super::snapshot::{Before, SavedService, Snapshot, UndoSource};
use super::stage::Staged;
use crate::ledger::Records;

/// What an application is before its package changes, by the packages that are `arriving`. Fetches the previous package
/// where it is not on the host and there is a way.
pub async fn before_package_change(
    host: &Host,
    observed: &Observed,
    records: &Records,
    app: &AppName,
    arriving: &[Staged],
    settled: Option<&AppSpec>,
    cancel: &Cancel,
) -> Result<Before, HostError> {
    let Some(there) = observed.apps.get(app) else {
        let arriving = arriving.iter().find(|staged| staged.app == *app);
        let mut purge = None;
        if let Some(staged) = arriving
            && host.packages.is_new_here(&staged.source).await?
        {
            purge = Some(staged.package().to_owned());
        }
        return Ok(Before::Absent { purge });
    };
    let found = undo_source(host, records, app, &there.package, &there.version).await;
    let undo = secure(host, found, &there.package, &there.version, cancel).await;
    Ok(Before::Installed(Box::new(snapshot(
        there, records, app, undo, settled,
    ))))
}

/// What an application is before its config and services change, or while nothing of it does.
pub fn before(observed: &Observed, records: &Records, app: &AppName, settled: Option<&AppSpec>) -> Before {
    match observed.apps.get(app) {
        None => Before::Absent { purge: None },
        Some(there) => Before::Installed(Box::new(snapshot(
            there,
            records,
            app,
            UndoSource::NotNeeded,
            settled,
        ))),
    }
}

fn snapshot(
    there: &ObservedApp,
    records: &Records,
    app: &AppName,
    undo: UndoSource,
    settled: Option<&AppSpec>,
) -> Snapshot {
    let services = there.services.iter().filter_map(|(name, state)| {
        let state = (*state)?;
        let saved = SavedService {
            running: state.running,
            enabled: state.enabled,
        };
        Some((name.clone(), saved))
    });
    Snapshot {
        package: there.package.clone(),
        version: there.version.clone(),
        undo,
        record: records.get(app).cloned(),
        config: there.config.as_ref().clone().unwrap_or_default(),
        services: services.collect(),
        files: there
            .config_files()
            .iter()
            .filter_map(|path| save_file(path))
            .collect(),
        settled: settled.cloned().map(Box::new),
    }
}

/// Where `package` at `version` could come from again. Fetches nothing.
pub async fn undo_source(
    host: &Host,
    records: &Records,
    app: &AppName,
    package: &str,
    version: &str,
) -> UndoSource {
    let provenance = records.get(app).and_then(|record| record.provenance_of(version));
    if let Some(path) = provenance.and_then(|provenance| provenance.file.clone())
        && is_package(host, &path, package, version).await
    {
        return UndoSource::File { path };
    }
    if let Some((url, sha256)) = provenance.and_then(|p| p.url.clone().map(|url| (url, p.sha256.clone()))) {
        return UndoSource::Url { url, sha256 };
    }
    match host.packages.find_in_lists(package, version).await {
        Ok(found) if found == version => UndoSource::Repository,
        Ok(found) => UndoSource::Nowhere {
            reason: format!(
                "{package} {version} is not kept here, and the host's repositories offer {found} only"
            ),
        },
        Err(error) => UndoSource::Nowhere {
            reason: format!(
                "{package} {version} was not installed by the agent, and no repository offers it: {error}"
            ),
        },
    }
}

/// A source that needs no network: what must be fetched is fetched now.
async fn secure(host: &Host, found: UndoSource, package: &str, version: &str, cancel: &Cancel) -> UndoSource {
    let UndoSource::Url { url, sha256 } = found else {
        return found;
    };
    let shown = protocol::without_credentials(&url);
    let download = Download { url, sha256 };
    let fetched = match host.downloads.fetch(&download, cancel).await {
        Ok(path) => host.downloads.keep(&path).await,
        Err(error) => Err(error),
    };
    match fetched {
        Ok(path) if is_package(host, &path, package, version).await => UndoSource::File { path },
        Ok(_) => UndoSource::Nowhere {
            reason: format!("{shown} no longer holds {package} {version}"),
        },
        Err(error) => UndoSource::Nowhere {
            reason: format!("cannot fetch the previous package again: {error}"),
        },
    }
}

async fn is_package(host: &Host, path: &Path, package: &str, version: &str) -> bool {
    match host.packages.inspect(path).await {
        Ok(file) => file.name == package && file.version == version,
        Err(_) => false,
    }
}
