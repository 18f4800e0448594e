//! Decides what to do: a pure function of targets and of what is observed. The same forward and back.
//!
//! The engine carries out only the first part of a plan that is not empty (packages, else config and services, else
//! restarts), then observes and plans again.

use std::collections::BTreeMap;

use host::Family;
use protocol::spec::{Rank, cmp_rank};
use protocol::{AppName, Apps};

use super::observe::{Observed, ObservedApp, SELF_APP};
use super::target::Target;

mod app;
mod shown;
mod steps;

use app::AppPlanner;
pub use shown::{ShownAction, ShownStep, shown};
pub use steps::{
    ConfigChange, Fault, Install, LaterAction, PackageAction, PackageChange, Plan, SettleAction, Step,
};

pub type Targets = BTreeMap<AppName, Target>;

/// Targets for every application that is desired, and for those that are managed and therefore go. The agent itself is never
/// removed by omission.
pub fn desired_targets(desired: &Apps, observed: &Observed, family: Family) -> Targets {
    let wanted = desired
        .iter()
        .map(|(app, spec)| (app.clone(), Target::desired(spec, family)));
    let going = observed.apps.iter().filter(|(app, there)| {
        there.managed && !desired.contains_key(*app) && app.as_str() != SELF_APP && there.package != SELF_APP
    });
    wanted
        .chain(going.map(|(app, _)| (app.clone(), Target::Absent)))
        .collect()
}

/// The plan from `observed` to `targets` on a host of `family`. Applications without a target are left alone.
pub fn plan(targets: &Targets, observed: &Observed, family: Family) -> Plan {
    let mut plan = Plan::default();
    plan_removals(targets, observed, &mut plan);
    let mut present: Vec<_> = targets
        .iter()
        .filter_map(|(app, target)| match target {
            Target::Present(target) => Some((app, target)),
            Target::Absent => None,
        })
        .collect();
    present.sort_by(|(a_name, a), (b_name, b)| cmp_rank(a.rank, b.rank).then_with(|| a_name.cmp(b_name)));
    for (app, target) in present {
        let planner = AppPlanner {
            app,
            target,
            family,
            files: &observed.files,
            plan: Plan::default(),
        };
        let mut of_app = planner.plan(observed.apps.get(app));
        plan.packages.append(&mut of_app.packages);
        plan.settle.append(&mut of_app.settle);
        plan.restarts.append(&mut of_app.restarts);
        plan.later.append(&mut of_app.later);
        plan.faults.append(&mut of_app.faults);
    }
    plan
}

/// What is to go, in reverse rank.
fn plan_removals(targets: &Targets, observed: &Observed, plan: &mut Plan) {
    let absent = targets.iter().filter(|(_, target)| **target == Target::Absent);
    let mut going: Vec<(&AppName, &ObservedApp)> = absent
        .filter_map(|(app, _)| Some((app, observed.apps.get(app)?)))
        .collect();
    going.sort_by(|(a_name, a), (b_name, b)| cmp_rank(b.rank, a.rank).then_with(|| b_name.cmp(a_name)));
    for (app, there) in &going {
        for service in there.running_services() {
            plan.packages.push(Step {
                app: (*app).clone(),
                action: PackageAction::StopForRemoval { service },
            });
        }
    }
    for (app, there) in &going {
        plan.packages.push(Step {
            app: (*app).clone(),
            action: PackageAction::Remove {
                package: there.package.clone(),
                version: there.version.clone(),
            },
        });
    }
}

/// The rank of `app` among `targets`.
pub fn rank_of(targets: &Targets, app: &AppName) -> Option<Rank> {
    match targets.get(app)? {
        Target::Present(target) => target.rank,
        Target::Absent => None,
    }
}

#[cfg(test)]
mod tests;
