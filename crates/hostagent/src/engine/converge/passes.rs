//! How often an application may go through a stage of one attempt before that counts as a failure.

use std::collections::{BTreeMap, BTreeSet};

use protocol::{AppName, Category, Phase};

use crate::engine::failure::Failure;
use crate::engine::observe::Observed;
use crate::engine::plan::Plan;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Packages,
    Settle,
    Restart,
}

impl Stage {
    /// The first of `plan` that is not empty.
    pub(super) fn first_of(plan: &Plan) -> Option<Self> {
        if !plan.packages.is_empty() {
            Some(Self::Packages)
        } else if !plan.settle.is_empty() {
            Some(Self::Settle)
        } else if !plan.restarts.is_empty() {
            Some(Self::Restart)
        } else {
            None
        }
    }

    fn apps_in(self, plan: &Plan) -> BTreeSet<AppName> {
        match self {
            Self::Packages => plan.packages.iter().map(|step| step.app.clone()).collect(),
            Self::Settle => plan.settle.iter().map(|step| step.app.clone()).collect(),
            Self::Restart => plan.restarts.iter().map(|step| step.app.clone()).collect(),
        }
    }

    fn allowed(self) -> u32 {
        match self {
            Self::Packages => 1,
            Self::Settle => 2,
            Self::Restart => 2,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Passes(BTreeMap<(AppName, Stage), u32>);

impl Passes {
    /// Counts one more pass for each application that is to go through `stage`. Those that may not are the failures: their
    /// steps went well, and are needed again.
    pub(super) fn count(
        &mut self,
        stage: Stage,
        plan: &Plan,
        observed: &Observed,
    ) -> Vec<(AppName, Failure)> {
        let mut failures = Vec::new();
        for app in stage.apps_in(plan) {
            let passes = self.0.entry((app.clone(), stage)).or_insert(0);
            if *passes < stage.allowed() {
                *passes += 1;
            } else {
                let failure = does_not_converge(&app, stage, &plan.describe(&app), observed);
                failures.push((app, failure));
            }
        }
        failures
    }

    /// After the package database was healed.
    pub(super) fn begin_anew(&mut self) {
        self.0.clear();
    }

    /// It goes another way now.
    pub(super) fn forget(&mut self, app: &AppName) {
        self.0.retain(|(passed, _), _| passed != app);
    }
}

fn does_not_converge(app: &AppName, stage: Stage, steps: &str, observed: &Observed) -> Failure {
    match stage {
        Stage::Packages => {
            let now = observed
                .apps
                .get(app)
                .map_or("not installed".to_owned(), |there| {
                    format!("at {}", there.version)
                });
            Failure {
                phase: Phase::Install,
                category: Category::Script,
                message: format!(
                    "{app} does not converge: the package manager reported success, yet {app} is {now} and still needs: \
                     {steps}. See the package manager's log on the host"
                ),
            }
        }
        Stage::Settle | Stage::Restart => Failure {
            phase: Phase::Health,
            category: Category::Unhealthy,
            message: format!(
                "{app} does not converge: every step succeeded, yet {app} still needs: {steps}. Its service may end right \
                 after its start, or something else changes it; see the service's own log"
            ),
        },
    }
}
