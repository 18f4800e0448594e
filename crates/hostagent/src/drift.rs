//! Follows the drift watch: forgets what may have changed, and wakes the reconciler.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::{Notify, watch};

use crate::engine::Engine;
use crate::host_state::{HostState, Standing};
use crate::watch::{Drift, Watch};

/// Until the reconciler ends.
pub async fn follow(engine: Arc<Engine>, mut state: watch::Receiver<HostState>, wake: Arc<Notify>) {
    let mut watch = Watch::new(
        engine.host.packages.database_paths(),
        engine.host.services.changes(),
    );
    let mut watched = (BTreeSet::new(), BTreeSet::new());
    loop {
        let is_busy = matches!(state.borrow().standing, Standing::Converging { .. });
        // Both arms are cancel-safe: what was seen is told by the next call.
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
                let wanted = what_matters(&state.borrow_and_update());
                if wanted != watched {
                    watch.set_files(wanted.0.clone());
                    watch.set_units(wanted.1.clone());
                    watched = wanted;
                }
            }
        }
    }
}

/// What an attempt changes itself must not wake the reconciler again and again; what somebody else does meanwhile, its own
/// looks must find. So nobody is woken before it has ended, but what may have changed is known at once.
async fn next(watch: &mut Watch, is_busy: bool) -> Drift {
    match is_busy {
        true => watch.seen().await,
        false => watch.changed().await,
    }
}

/// Config files and services of all applications.
fn what_matters(state: &HostState) -> (BTreeSet<std::path::PathBuf>, BTreeSet<String>) {
    let apps = state.observed.iter().flat_map(|observed| observed.apps.values());
    let mut matters = (BTreeSet::new(), BTreeSet::new());
    for app in apps {
        matters.0.extend(app.config_files().iter().cloned());
        matters.1.extend(app.services.keys().cloned());
    }
    matters
}

/// A config whose file has changed must be read again.
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
