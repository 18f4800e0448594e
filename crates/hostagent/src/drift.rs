//! Follows the drift watch: has changed configs read again, and wakes the reconciler.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::{Notify, watch};

use crate::engine::Engine;
use crate::host_state::{HostState, Standing};
use crate::watch::{Drift, Watch};

/// Runs until the reconciler ends.
pub async fn follow(engine: Arc<Engine>, mut state: watch::Receiver<HostState>, wake: Arc<Notify>) {
    let mut watch = Watch::new(
        engine.host.packages.database_paths(),
        engine.host.services.changes(),
    );
    let mut watched = (BTreeSet::new(), BTreeSet::new());
    loop {
        let is_busy = matches!(state.borrow().standing, Standing::Converging { .. });
        // Both arms are cancel-safe: the next call returns what was seen.
        tokio::select! {
            drift = next(&mut watch, is_busy) => {
                forget(&engine, &state.borrow(), &drift);
                if !is_busy {
                    wake.notify_one();
                }
            }
            changed = state.changed() => {
                if changed.is_err() {
                    return;
                }
                let wanted = files_and_services(&state.borrow_and_update());
                if wanted != watched {
                    watch.set_files(wanted.0.clone());
                    watch.set_units(wanted.1.clone());
                    watched = wanted;
                }
            }
        }
    }
}

/// The next drift. During a convergence the reconciler is not woken: its own changes must not start
/// another one, and it observes external changes itself. Changed configs are noted at once in both
/// cases.
async fn next(watch: &mut Watch, is_busy: bool) -> Drift {
    match is_busy {
        true => watch.seen().await,
        false => watch.changed().await,
    }
}

/// Config files and services of all applications.
fn files_and_services(state: &HostState) -> (BTreeSet<std::path::PathBuf>, BTreeSet<String>) {
    let apps = state.observed.iter().flat_map(|observed| observed.apps.values());
    let mut found = (BTreeSet::new(), BTreeSet::new());
    for app in apps {
        found.0.extend(app.config_files().iter().cloned());
        found.1.extend(app.services.keys().cloned());
    }
    found
}

/// Has each config read again whose file has changed.
fn forget(engine: &Engine, state: &HostState, drift: &Drift) {
    let Some(observed) = &state.observed else { return };
    for (app, there) in &observed.apps {
        if there
            .config_files()
            .iter()
            .any(|file| drift.config.contains(file))
        {
            engine.observer.forget_config(app);
        }
    }
}
