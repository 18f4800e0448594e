//! Counts restarts of services over a sliding window. An application that does not stay up is unhealthy until it has been
//! quiet for that long, and is repaired after growing pauses. In memory: after a restart of the agent it is counted anew.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use host::ServiceState;
use protocol::{AppName, Category, Phase};
use tokio::time::Instant;

use super::failure::Failure;
use super::observe::ObservedApp;
use super::retry::retry_delay;

const WINDOW: Duration = Duration::from_secs(300);
/// So many restarts within the window are too many.
const TOO_MANY: usize = 5;

#[derive(Debug, Default)]
pub struct Flaps {
    /// Each service as it was last seen.
    last: BTreeMap<(AppName, String), ServiceState>,
    restarts: BTreeMap<AppName, VecDeque<Instant>>,
}

impl Flaps {
    /// Takes note of the services of `app`. `counts`: not while the agent changes them itself.
    pub fn note(&mut self, app: &AppName, there: &ObservedApp, counts: bool, now: Instant) {
        for (name, state) in &there.services {
            let Some(state) = state else { continue };
            let before = self.last.insert((app.clone(), name.clone()), *state);
            if counts && before.is_some_and(|before| is_restart(before, *state)) {
                self.restarts.entry(app.clone()).or_default().push_back(now);
            }
        }
    }

    /// Forgets restarts that are long ago.
    pub fn prune(&mut self, now: Instant) {
        for restarts in self.restarts.values_mut() {
            restarts.retain(|at| now.duration_since(*at) < WINDOW);
        }
    }

    /// What is wrong with `app`, if it was restarted too often.
    pub fn failure(&self, app: &AppName) -> Option<Failure> {
        let count = self.too_often(app)?;
        let minutes = WINDOW.as_secs() / 60;
        Some(Failure {
            phase: Phase::Health,
            category: Category::Unhealthy,
            message: format!(
                "{app} does not stay up: restarted {count} times in {minutes} min. It is repaired after growing pauses, and \
                 healthy again after {minutes} min without a restart. See its services' own logs (journalctl -u, or the log \
                 file)"
            ),
        })
    }

    /// Until when a repair of `app` is put off.
    pub fn paused_until(&self, app: &AppName) -> Option<Instant> {
        let beyond = self.too_often(app)? - TOO_MANY;
        let last = self.restarts.get(app)?.back()?;
        let attempts = u32::try_from(beyond + 1).unwrap_or(u32::MAX);
        Some(*last + retry_delay(attempts))
    }

    /// When the next pause or error ends.
    pub fn next_change(&self, now: Instant) -> Option<Instant> {
        let flapping = self
            .restarts
            .iter()
            .filter(|(app, _)| self.too_often(app).is_some());
        let changes = flapping.flat_map(|(app, restarts)| {
            let quiet = restarts.get(restarts.len() - TOO_MANY).map(|at| *at + WINDOW);
            quiet.into_iter().chain(self.paused_until(app))
        });
        changes.filter(|at| *at > now).min()
    }

    fn too_often(&self, app: &AppName) -> Option<usize> {
        let count = self.restarts.get(app)?.len();
        (count >= TOO_MANY).then_some(count)
    }
}

/// Where the init system cannot tell one process from another, only a service that was seen stopped counts.
fn is_restart(before: ServiceState, now: ServiceState) -> bool {
    now.running && (!before.running || before.instance != now.instance)
}
