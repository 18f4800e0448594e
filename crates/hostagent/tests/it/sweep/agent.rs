//! Row 21 of FAULTS.md: the agent is killed at every call that changes something, and started again.

use super::*;

/// Of each case, in the sample.
const SAMPLE: usize = 6;

for_each_case![killed_anywhere_the_agent_gets_there_after_a_restart: install Install, upgrade Upgrade, reconfigure Reconfigure, remove Remove, rollback Rollback];

fn killed_anywhere_the_agent_gets_there_after_a_restart(family: Family, case: Case) {
    let host = SweptHost::new(family, case);
    let log = host.path("strace");
    host.assert_undisturbed(&host.apply(&strace::record(&log, KILL_AT)));
    let points = strace::points(&std::fs::read_to_string(&log).unwrap(), 1, |_| true);
    sweep(Fault::Kill, "agent", &host, points, SAMPLE, |point| {
        kill_at(&host, point)
    });
}

/// Kills the agent there. What it had started either goes on (as after the OOM killer) or is killed as well
/// (as systemd does with what is left of a unit), in turns.
fn kill_at(host: &SweptHost, point: &Point) -> Result<Outcome, String> {
    use std::os::unix::process::ExitStatusExt;
    host.reset();
    let log = host.path("strace");
    let output = host.apply(&strace::inject(&log, point, "signal=SIGKILL"));
    let hit = output.status.signal() == Some(9) || output.status.code() == Some(137);
    if point.nth.is_multiple_of(2) {
        host.end_processes(|_| true);
    }
    if !hit && output.status.code() != Some(host.case.exit_code()) {
        return Err(format!(
            "it ended with {}: {}",
            output.status,
            host::said(&output)
        ));
    }
    host.restart_and_check().map(|recovery| Outcome { hit, recovery })
}
