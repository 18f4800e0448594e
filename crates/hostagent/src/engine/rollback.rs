//! Brings an application back to what the journal says it was. Like everything else it is level-triggered: it
//! looks, does what is missing, and may be killed and begun again at any instant.

use std::sync::Arc;
use std::time::Duration;

use protocol::{AppName, Category, Phase};

use crate::engine::Engine;
use crate::engine::failure::Failure;
use crate::engine::journal::{Before, Entry, SavedFile, Snapshot, WayBack};
use crate::engine::observe::{Freshness, ObservedApp, SELF_APP};
use host::atomic_file;
use host::{Family, HostError, Source, Transaction};

/// Brings `app` back. `Err`: it is not what it was; what stands in the way, and what to do.
pub async fn roll_back(engine: &Engine, app: &AppName, entry: &Entry) -> Result<(), Failure> {
    let result = match &entry.before {
        Before::Absent => take_away(engine, app, entry.purge.as_deref()).await,
        Before::Installed(snapshot) => restore(engine, app, snapshot).await,
    };
    engine.observer.forget_config(app);
    result.map_err(|error| {
        let message = format!("could not be brought back: {}", error.message);
        Failure {
            phase: Phase::Rollback,
            category: error.category,
            message,
            rolled_back: false,
        }
    })
}

/// Whether somebody else has changed the package of `app` since the agent began to change its config and services, and
/// nothing else: what failed then says nothing of the application, and what it was is not for us to bring back.
pub async fn is_overtaken(engine: &Engine, app: &AppName, entry: &Entry) -> bool {
    let Before::Installed(snapshot) = &entry.before else {
        return false;
    };
    if snapshot.way_back != WayBack::NotNeeded {
        return false;
    }
    match observe_app(engine, app).await {
        Ok(Some(there)) => there.version != snapshot.version || there.broken,
        Ok(None) => true,
        Err(_) => false,
    }
}

/// It was not there before. `purge`: nor were configuration files of this package.
async fn take_away(engine: &Engine, app: &AppName, purge: Option<&str>) -> Result<(), HostError> {
    remove_again(engine, app).await?;
    let Some(package) = purge else {
        return Ok(());
    };
    // The application is gone; its leftovers are no reason to say that it is not.
    if let Err(error) = with_lock(|| engine.host.packages.purge(package)).await {
        tracing::warn!(%app, %error, "configuration files that were not there before could not be deleted");
    }
    Ok(())
}

async fn remove_again(engine: &Engine, app: &AppName) -> Result<(), HostError> {
    let Some(there) = observe_app(engine, app).await? else {
        return Ok(());
    };
    for service in there.running_services() {
        engine.host.services.stop(&service).await?;
    }
    let transaction = Transaction {
        install: Vec::new(),
        remove: vec![there.package.clone()],
    };
    change_package(engine, &transaction).await?;
    match observe_app(engine, app).await? {
        None => Ok(()),
        Some(there) => {
            let message = format!(
                "package {} is still installed, at {}",
                there.package, there.version
            );
            Err(HostError::new(Category::Script, message))
        }
    }
}

async fn restore(engine: &Engine, app: &AppName, snapshot: &Snapshot) -> Result<(), HostError> {
    let mut changed = restore_package(engine, app, snapshot).await?;
    with_lock(|| engine.host.packages.keep(&snapshot.package)).await?;
    changed |= restore_files(&snapshot.files)?;
    changed |= restore_config(engine, app, snapshot).await?;
    restore_services(engine, app, snapshot, changed).await?;
    verify(engine, app, snapshot).await
}

/// True if it had to be changed.
async fn restore_package(engine: &Engine, app: &AppName, snapshot: &Snapshot) -> Result<bool, HostError> {
    let there = observe_app(engine, app).await?;
    // rpm enters what it does to a package when it has done it: files of another version may be there under
    // the old entry, or none. Not so the agent's own: it is this program that looks, and to install it again would end
    // it in the midst, time and again.
    let may_deceive = engine.host.packages.family() == Family::Rpm
        && snapshot.way_back.is_package()
        && snapshot.package != SELF_APP;
    if !may_deceive && there.is_some_and(|there| there.version == snapshot.version && !there.broken) {
        return Ok(false);
    }
    let source = match &snapshot.way_back {
        WayBack::File { path } => Source::File(engine.host.packages.inspect(path).await?),
        WayBack::Repository => Source::Repository {
            name: snapshot.package.clone(),
            version: snapshot.version.clone(),
        },
        // Fetched before the change began, so this is only met where that was not possible.
        WayBack::Url { url, .. } => {
            let message = format!(
                "the previous package is only to be had from {}",
                crate::settings::without_credentials(url)
            );
            return Err(HostError::new(Category::NotFound, message));
        }
        WayBack::Nowhere { reason } => return Err(HostError::new(Category::NotFound, reason.clone())),
        // Then something else has changed it meanwhile.
        WayBack::NotNeeded => {
            let message = format!(
                "package {} is not at {} any more",
                snapshot.package, snapshot.version
            );
            return Err(HostError::new(Category::NotFound, message));
        }
    };
    let transaction = Transaction {
        install: vec![source],
        remove: Vec::new(),
    };
    change_package(engine, &transaction).await?;
    let record = snapshot.record.clone();
    let kept = engine.ledger.change_records(|records| {
        if let Some(record) = record {
            records.insert(app.clone(), record);
        }
    });
    kept.map_err(|error| HostError::new(Category::Host, error.to_string()))?;
    Ok(true)
}

/// What the failed change left half-installed is healed only where it stands in the way: to heal is to run
/// those scripts again that have just failed, or hung until their deadline.
async fn change_package(engine: &Engine, transaction: &Transaction) -> Result<(), HostError> {
    let packages = &*engine.host.packages;
    let apply = || async {
        let applied = packages.apply(transaction).await?;
        super::apply::warn_of(&applied);
        Ok(())
    };
    match with_lock(apply).await {
        Ok(()) => {}
        Err(error) if error.category == Category::Timeout => return Err(error),
        Err(error) => {
            tracing::warn!(%error, "the way back is blocked; healing half-installed packages, then trying again");
            if let Err(error) = packages.heal().await {
                tracing::warn!(%error, "could not heal half-installed packages");
            }
            with_lock(apply).await?;
        }
    }
    engine.host.services.reread_units().await
}

/// Waits as long as somebody else holds the package manager's lock.
async fn with_lock<F>(change: impl Fn() -> F) -> Result<(), HostError>
where
    F: Future<Output = Result<(), HostError>>,
{
    const LOCK_RETRY: Duration = Duration::from_secs(2);
    loop {
        match change().await {
            Err(error) if error.category == Category::Locked => tokio::time::sleep(LOCK_RETRY).await,
            result => return result,
        }
    }
}

/// True if any had to be changed.
fn restore_files(files: &[SavedFile]) -> Result<bool, HostError> {
    let mut changed = false;
    for file in files {
        let failed = |error: std::io::Error| {
            HostError::new(
                Category::Host,
                format!("can't restore {}: {error}", file.path.display()),
            )
        };
        let now = std::fs::read_to_string(&file.path).ok();
        if now == file.content {
            continue;
        }
        changed = true;
        match &file.content {
            Some(content) => {
                atomic_file::replace_owned(&file.path, content.as_bytes(), file.mode, Some(file.owner))
                    .map_err(failed)?;
            }
            None => std::fs::remove_file(&file.path).map_err(failed)?,
        }
    }
    Ok(changed)
}

/// What a hook keeps where only it knows. True if it had to be changed.
async fn restore_config(engine: &Engine, app: &AppName, snapshot: &Snapshot) -> Result<bool, HostError> {
    engine.observer.forget_config(app);
    let Some(there) = observe_app(engine, app).await? else {
        return Ok(false);
    };
    let running = there.running_services();
    // What can't be read now may be just what the failed change has done to it; keys that it added go
    // where the hook replaces the whole.
    let is_as_it_was = (there.config.as_ref().as_ref()).is_ok_and(|current| *current == snapshot.config);
    if is_as_it_was || snapshot.config.is_empty() {
        return Ok(false);
    }
    engine
        .host
        .app_config
        .write(app, &snapshot.package, &snapshot.config, &running)
        .await?;
    Ok(true)
}

/// A service that ran while its files were being put back runs with what was there before: restarted.
async fn restore_services(
    engine: &Engine,
    app: &AppName,
    snapshot: &Snapshot,
    changed: bool,
) -> Result<(), HostError> {
    let services = &engine.host.services;
    for (name, saved) in &snapshot.services {
        let Some(now) = services.state(name, true).await? else {
            let message = format!("service {name} of {app} is gone");
            return Err(HostError::new(Category::NotFound, message));
        };
        match saved.enabled {
            Some(true) if now.enabled == Some(false) => services.enable(name).await?,
            Some(false) if now.enabled == Some(true) => services.disable(name).await?,
            Some(_) | None => {}
        }
        match (now.running, saved.running) {
            (true, true) if changed => services.restart(name).await?,
            (false, true) => services.start(name).await?,
            (true, false) => services.stop(name).await?,
            (true, true) | (false, false) => {}
        }
    }
    Ok(())
}

async fn verify(engine: &Engine, app: &AppName, snapshot: &Snapshot) -> Result<(), HostError> {
    let Some(there) = observe_app(engine, app).await? else {
        return Err(HostError::new(
            Category::Script,
            format!("package {} is not there", snapshot.package),
        ));
    };
    if there.version != snapshot.version || there.broken {
        let state = if there.broken {
            "half-installed"
        } else {
            "installed"
        };
        let message = format!(
            "package {} is {state} at {}, not at {}",
            there.package, there.version, snapshot.version
        );
        return Err(HostError::new(Category::Script, message));
    }
    let down = snapshot.services.iter().find(|(name, saved)| {
        saved.running
            && !there
                .services
                .get(*name)
                .copied()
                .flatten()
                .is_some_and(|state| state.running)
    });
    if let Some((name, _)) = down {
        let message = format!("its service {name} does not stay up");
        return Err(HostError::new(Category::Unhealthy, message));
    }
    // What is not to run can't do its work.
    if snapshot.services.is_empty() || snapshot.services.values().any(|saved| saved.running) {
        let checks = &engine.host.app_config;
        checks.stays_healthy(app, &there.package, Duration::ZERO).await?;
    }
    Ok(())
}

async fn observe_app(engine: &Engine, app: &AppName) -> Result<Option<ObservedApp>, HostError> {
    let observed = engine.observe(&Arc::default(), Freshness::Light).await?;
    Ok(observed.apps.get(app).cloned())
}
