//! Watches what was changed for a while: a service that does not stay up, or a health check that fails, is a
//! failed change.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use protocol::{AppName, Category, Phase};
use tokio::time::Instant;

use crate::engine::Engine;
use crate::engine::failure::{Failure, Failures};
use crate::engine::observe::{Freshness, Observed, ObservedApp};
use crate::ledger::Desired;
use host::{HostError, ServiceState};

/// Between two looks at the services.
const LOOK: Duration = Duration::from_secs(1);

/// Whether `app` has a service that is to run.
fn runs(desired: &Desired, app: &AppName, there: &ObservedApp) -> bool {
    let spec = desired.apps.get(app);
    spec.is_some_and(|spec| there.services.keys().any(|name| spec.wants_service(name)))
}

/// Watches `apps`, as they are in `observed`, for the bake period: their services, and their health checks.
/// What has neither is not waited for. Cancel-safe: it changes nothing.
pub async fn bake(
    engine: &Engine,
    desired: &Arc<Desired>,
    apps: &[AppName],
    observed: &Arc<Observed>,
) -> Result<Failures, HostError> {
    let mut failures = Failures::new();
    let mut checks: FuturesUnordered<BoxFuture<'_, (AppName, Result<(), HostError>)>> = apps
        .iter()
        .filter_map(|app| Some((app, observed.apps.get(app)?)))
        .map(|(app, there)| {
            let healthy = engine
                .host
                .app_config
                .stays_healthy(app, &there.package, engine.bake_period);
            healthy.map(|result| (app.clone(), result)).boxed()
        })
        .collect();
    let begin = Instant::now();
    let any_runs = apps.iter().any(|app| {
        observed
            .apps
            .get(app)
            .is_some_and(|there| runs(desired, app, there))
    });
    let end = if any_runs {
        begin + engine.bake_period
    } else {
        begin
    };
    let mut looks = tokio::time::interval_at(begin + LOOK.min(engine.bake_period), LOOK);
    let mut seen_at = begin;
    loop {
        // Both arms only wait.
        tokio::select! {
            Some((app, result)) = checks.next() => {
                if let Err(error) = result {
                    failures.entry(app).or_insert_with(|| Failure::new(Phase::Health, error));
                }
            }
            now = looks.tick() => {
                engine.host.services.forget_answers();
                let seen = engine.observe(desired, Freshness::Light).await?;
                for app in apps.iter().filter(|app| !failures.contains_key(*app)).cloned().collect::<Vec<_>>() {
                    if let Some(failure) = fallen(desired, &app, observed, &seen, now - begin) {
                        failures.insert(app, failure);
                    }
                }
                seen_at = now;
            }
        }
        let over = checks.is_empty() && seen_at >= end;
        if over || failures.len() == apps.len() {
            return Ok(failures);
        }
    }
}

/// Whether a service of `app` that should run does not, or has been started anew since the bake began. Pure.
fn fallen(
    desired: &Desired,
    app: &AppName,
    first: &Observed,
    now: &Observed,
    after: Duration,
) -> Option<Failure> {
    let spec = desired.apps.get(app)?;
    let before: &BTreeMap<String, Option<ServiceState>> = &first.apps.get(app)?.services;
    let seconds = after.as_secs_f64().ceil();
    let fallen = before.iter().filter(|(name, _)| spec.wants_service(name)).find_map(|(name, then)| {
        let state = now.apps.get(app).and_then(|there| there.services.get(name)).copied().flatten();
        match state {
            Some(state) if state.running => {
                let flapped = then.and_then(|then| then.instance) != state.instance;
                flapped.then(|| format!("service {name} of {app} was started anew within {seconds} s of its start: it does not stay up"))
            }
            Some(_) => Some(format!("service {name} of {app} ended within {seconds} s of its start")),
            None => Some(format!("service {name} of {app} was gone {seconds} s after its start")),
        }
    })?;
    let message = format!("{fallen}. Look at the service's own log (journalctl -u, or its log file)");
    Some(Failure {
        phase: Phase::Health,
        category: Category::Unhealthy,
        message,
        rolled_back: false,
    })
}
