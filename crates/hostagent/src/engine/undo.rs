//! Takes down what an application is, before it is changed, and finds out how it could be brought back.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use protocol::AppName;

use crate::engine::journal::{Before, Entry, SavedFile, SavedService, Snapshot, WayBack};
use crate::engine::observe::Observed;
use crate::engine::plan::{Action, Step};
use crate::engine::stage::Staged;
use crate::ledger::Records;
use host::{Cancel, Download, Host, HostError};

/// The journal's entries for every application that `steps` change, with the packages that are `arriving`. Fetches previous packages that are not
/// on the host any more, as long as there is a way.
pub async fn entries(
    host: &Host,
    observed: &Observed,
    records: &Records,
    steps: &[&Step],
    arriving: &[Staged],
    cancel: &Cancel,
) -> Result<Vec<(AppName, Entry)>, HostError> {
    let mut changed: BTreeMap<&AppName, bool> = BTreeMap::new();
    for step in steps {
        let package_changes = matches!(step.action, Action::Install(_) | Action::Remove { .. });
        *changed.entry(&step.app).or_insert(false) |= package_changes;
    }
    let mut entries = Vec::new();
    for (app, package_changes) in changed {
        let mut purge = None;
        let before = match observed.apps.get(app) {
            None => {
                if let Some(staged) = arriving.iter().find(|staged| staged.app == *app)
                    && host.packages.is_new_here(&staged.source).await?
                {
                    purge = Some(staged.package().to_owned());
                }
                Before::Absent
            }
            Some(_) => Before::Installed(Box::new(
                snapshot(host, observed, records, app, package_changes, cancel).await?,
            )),
        };
        entries.push((
            app.clone(),
            Entry {
                before,
                doomed: None,
                restarted: false,
                purge,
            },
        ));
    }
    Ok(entries)
}

async fn snapshot(
    host: &Host,
    observed: &Observed,
    records: &Records,
    app: &AppName,
    package_changes: bool,
    cancel: &Cancel,
) -> Result<Snapshot, HostError> {
    let there = &observed.apps[app];
    let way_back = if package_changes {
        let found = way_back(host, records, app, &there.package, &there.version).await;
        secure(host, found, &there.package, &there.version, cancel).await
    } else {
        WayBack::NotNeeded
    };
    let contract = host.app_config.contract(app, &there.package).await;
    let files = contract
        .map(|contract| contract.watched_files)
        .unwrap_or_default();
    let services = there.services.iter().filter_map(|(name, state)| {
        let state = (*state)?;
        Some((
            name.clone(),
            SavedService {
                running: state.running,
                enabled: state.enabled,
                instance: state.instance,
            },
        ))
    });
    Ok(Snapshot {
        package: there.package.clone(),
        version: there.version.clone(),
        way_back,
        record: records.get(app).cloned(),
        config: there.config.as_ref().clone().unwrap_or_default(),
        services: services.collect(),
        files: files.iter().filter_map(|path| save_file(path)).collect(),
    })
}

/// Where `package` at `version` could come from again. Fetches nothing.
pub async fn way_back(
    host: &Host,
    records: &Records,
    app: &AppName,
    package: &str,
    version: &str,
) -> WayBack {
    let provenance = records.get(app).and_then(|record| record.provenance_of(version));
    if let Some(path) = provenance.and_then(|provenance| provenance.file.clone())
        && is_package(host, &path, package, version).await
    {
        return WayBack::File { path };
    }
    if let Some((url, sha256)) = provenance.and_then(|p| p.url.clone().map(|url| (url, p.sha256.clone()))) {
        return WayBack::Url { url, sha256 };
    }
    match host.packages.find_in_lists(package, version).await {
        Ok(found) if found == version => WayBack::Repository,
        Ok(found) => WayBack::Nowhere {
            reason: format!(
                "{package} {version} is not kept here, and the host's repositories offer {found} only"
            ),
        },
        Err(error) => WayBack::Nowhere {
            reason: format!(
                "{package} {version} was not installed by the agent, and no repository offers it: {error}"
            ),
        },
    }
}

/// A way back that needs no network: what must be fetched is fetched now.
async fn secure(host: &Host, found: WayBack, package: &str, version: &str, cancel: &Cancel) -> WayBack {
    let WayBack::Url { url, sha256 } = found else {
        return found;
    };
    let shown = crate::settings::without_credentials(&url);
    let download = Download { url, sha256 };
    let fetched = match host.downloads.fetch(&download, cancel).await {
        Ok(path) => host.downloads.keep(&path).await,
        Err(error) => Err(error),
    };
    match fetched {
        Ok(path) if is_package(host, &path, package, version).await => WayBack::File { path },
        Ok(_) => WayBack::Nowhere {
            reason: format!("{shown} does not hold {package} {version} any more"),
        },
        Err(error) => WayBack::Nowhere {
            reason: format!("the previous package can't be had again: {error}"),
        },
    }
}

async fn is_package(host: &Host, path: &Path, package: &str, version: &str) -> bool {
    match host.packages.inspect(path).await {
        Ok(file) => file.name == package && file.version == version,
        Err(_) => false,
    }
}

/// `None`: not a text file, which no contract writes.
fn save_file(path: &Path) -> Option<SavedFile> {
    let absent = SavedFile {
        path: path.to_owned(),
        content: None,
        mode: 0o600,
        owner: (0, 0),
    };
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Some(absent),
        Err(_) => return None,
    };
    let content = std::fs::read_to_string(path).ok()?;
    let owner = (meta.uid(), meta.gid());
    Some(SavedFile {
        content: Some(content),
        mode: meta.mode() & 0o7777,
        owner,
        ..absent
    })
}
