//! Row 21 of FAULTS.md: the package manager that the agent has started is killed at every call that changes something.

use super::shim::Shim;
use super::*;

/// Of each case, in the sample.
const SAMPLE: usize = 5;

for_each_case![a_killed_package_manager_leaves_nothing_half_done: install Install, upgrade Upgrade, remove Remove, rollback Rollback];

fn a_killed_package_manager_leaves_nothing_half_done(family: Family, case: Case) {
    let host = SweptHost::new(family, case);
    let shim = Shim::new(&host);
    let points = shim.points(KILL_AT, |_| true);
    assert!(points.len() > 10, "{points:?}");
    sweep(Fault::Kill, "package manager", &host, points, SAMPLE, |point| {
        kill_at(&shim, point)
    });
}

fn kill_at(shim: &Shim<'_>, point: &Point) -> Result<Outcome, String> {
    let tracer = strace::inject("@LOG@".as_ref(), point, "signal=SIGKILL");
    let output = shim.apply(point.run, &tracer);
    let hit = shim.has_killed();
    // What the agent makes of it by itself, before any restart.
    shim.host.check_survived(&output)?;
    shim.host
        .restart_and_check()
        .map(|recovery| Outcome { hit, recovery })
}
