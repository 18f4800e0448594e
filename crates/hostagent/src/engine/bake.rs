//! Watches what was changed for a while: a service that does not stay up, or a health check that fails, is a failed
//! change. Applications are watched side by side, each for its own time.

use std::collections::BTreeMap;
use std::time::Duration;

use host::{HostError, ServiceState};
use protocol::{AppName, AppSpec, Category, Phase};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Engine;
use super::failure::Failure;
use super::observe::Observed;

/// Between two looks at the services.
const LOOK: Duration = Duration::from_secs(1);

type Services = BTreeMap<String, Option<ServiceState>>;

/// What one look has shown.
#[derive(Debug)]
pub enum BakeResult {
    Watching,
    Good,
    Failed(Failure),
}

/// One application on trial.
struct Bake {
    since: Instant,
    until: Instant,
    /// As they were when it began.
    services: Services,
    /// Of its health checks, as soon as they have passed or failed.
    checked: Option<Result<(), HostError>>,
}

/// All applications on trial.
#[derive(Default)]
pub struct Bakes {
    running: BTreeMap<AppName, Bake>,
    /// Health checks, one task for each application.
    checks: JoinSet<(AppName, Instant, Result<(), HostError>)>,
}

impl Bakes {
    /// Forgets those that are not among `apps`.
    pub fn keep(&mut self, apps: &[AppName]) {
        self.running.retain(|app, _| apps.contains(app));
        if self.running.is_empty() {
            self.checks.abort_all();
        }
    }

    /// Whether all of these are being watched.
    pub fn have_begun<'a>(&self, mut apps: impl Iterator<Item = &'a str>) -> bool {
        apps.all(|app| self.running.keys().any(|running| running.as_str() == app))
    }

    pub fn forget(&mut self, app: &AppName) {
        self.running.remove(app);
    }

    /// How `app` stands, as it is in `observed`. The first look begins its time.
    pub fn look(
        &mut self,
        engine: &Engine,
        app: &AppName,
        spec: &AppSpec,
        observed: &Observed,
    ) -> BakeResult {
        let Some(there) = observed.apps.get(app) else {
            return BakeResult::Failed(unhealthy(format!("{app} was gone while it was watched")));
        };
        let now = Instant::now();
        let Some(bake) = self.running.get(app) else {
            self.begin(engine, app, spec, &there.services, &there.package, now);
            return BakeResult::Watching;
        };
        if let Some(reason) = fallen(app, spec, &bake.services, &there.services, now - bake.since) {
            let message = format!("{reason}. See the service's own log (journalctl -u, or its log file)");
            return BakeResult::Failed(unhealthy(message));
        }
        match &bake.checked {
            Some(Err(error)) => BakeResult::Failed(Failure::new(Phase::Health, error.clone())),
            Some(Ok(())) if now >= bake.until => BakeResult::Good,
            Some(Ok(())) | None => BakeResult::Watching,
        }
    }

    fn begin(
        &mut self,
        engine: &Engine,
        app: &AppName,
        spec: &AppSpec,
        services: &Services,
        package: &str,
        now: Instant,
    ) {
        let runs = services.keys().any(|name| spec.wants_service(name));
        // What has no service that is to run has nothing that could end.
        let period = if runs { engine.bake_period } else { Duration::ZERO };
        let bake = Bake {
            since: now,
            until: now + period,
            services: services.clone(),
            checked: None,
        };
        self.running.insert(app.clone(), bake);
        let (checks, app, package) = (engine.host.app_config.clone(), app.clone(), package.to_owned());
        let period = engine.bake_period;
        let checking = async move {
            let result = checks.stays_healthy(&app, &package, period).await;
            (app, now, result)
        };
        self.checks.spawn(checking);
    }

    /// Returns when there is something to look at: a second has passed, or a health check has come to its end. Cancel-safe.
    pub async fn next_look(&mut self) {
        tokio::select! {
            Some(Ok((app, begun, result))) = self.checks.join_next() => {
                if let Some(bake) = self.running.get_mut(&app)
                    && bake.since == begun
                {
                    bake.checked = Some(result);
                }
            }
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

fn unhealthy(message: String) -> Failure {
    Failure {
        phase: Phase::Health,
        category: Category::Unhealthy,
        message,
    }
}

/// What became of a service of `app` that should run: it ended, or was started anew since. Pure.
fn fallen(
    app: &AppName,
    spec: &AppSpec,
    first: &Services,
    now: &Services,
    after: Duration,
) -> Option<String> {
    let seconds = after.as_secs_f64().ceil();
    first
        .iter()
        .filter(|(name, _)| spec.wants_service(name))
        .find_map(|(name, then)| {
            let state = now.get(name).copied().flatten();
            match state {
                Some(state) if state.running => {
                    let restarted = then.and_then(|then| then.instance) != state.instance;
                    restarted.then(|| {
                        format!("service {name} of {app} was restarted within {seconds} s of its start: it does not stay up")
                    })
                }
                Some(_) => Some(format!("service {name} of {app} ended within {seconds} s of its start")),
                None => Some(format!("service {name} of {app} was gone {seconds} s after its start")),
            }
        })
}
