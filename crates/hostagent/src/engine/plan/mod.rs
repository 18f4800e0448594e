//! Decides what to do: a pure function of what is desired and what is observed.
//!
//! A plan's steps stand in the order in which they would be carried out. The reconciler carries out only
//! the first [`Stage`] of a plan, then observes and plans again, so later stages are a forecast.

use protocol::spec::cmp_rank;
use protocol::{AppName, AppSpec, Apps};

use crate::engine::observe::{Observed, ObservedApp, SELF_APP};
use host::Family;

mod app;
mod steps;

use app::AppPlanner;
pub use steps::{Action, Change, ConfigChange, Fault, Install, Plan, Stage, Step};

/// The plan from `observed` to `desired` on a host of `family`.
pub fn plan(desired: &Apps, observed: &Observed, family: Family) -> Plan {
    let mut plan = Plan::default();
    plan_removals(desired, observed, &mut plan);
    let mut ranked: Vec<(&AppName, &AppSpec)> = desired.iter().collect();
    ranked.sort_by(|(a_name, a), (b_name, b)| cmp_rank(a.rank, b.rank).then_with(|| a_name.cmp(b_name)));
    let mut settling = Vec::new();
    for (app, spec) in ranked {
        let mut planner = AppPlanner {
            app,
            spec,
            family,
            packages: Vec::new(),
            settle: Vec::new(),
            faults: Vec::new(),
        };
        match observed.apps.get(app) {
            None => planner.install_anew(),
            Some(there) => planner.bring_up_to_date(there),
        }
        plan.steps.append(&mut planner.packages);
        settling.append(&mut planner.settle);
        plan.faults.append(&mut planner.faults);
    }
    plan.steps.append(&mut settling);
    plan
}

/// Managed applications that are not desired go, in reverse rank.
fn plan_removals(desired: &Apps, observed: &Observed, plan: &mut Plan) {
    let surplus = |(app, there): &(&AppName, &ObservedApp)| {
        there.managed && !desired.contains_key(*app) && app.as_str() != SELF_APP && there.package != SELF_APP
    };
    let mut going: Vec<_> = observed.apps.iter().filter(surplus).collect();
    going.sort_by(|(a_name, a), (b_name, b)| cmp_rank(b.rank, a.rank).then_with(|| b_name.cmp(a_name)));
    for (app, there) in &going {
        for service in there.running_services() {
            plan.steps.push(Step {
                app: (*app).clone(),
                action: Action::StopForRemoval { service },
            });
        }
    }
    for (app, there) in &going {
        let action = Action::Remove {
            package: there.package.clone(),
            version: there.version.clone(),
        };
        plan.steps.push(Step {
            app: (*app).clone(),
            action,
        });
    }
}

#[cfg(test)]
mod tests;
