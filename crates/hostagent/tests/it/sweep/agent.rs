//! Row 21 of FAULTS.md: the agent is killed at every call that changes something, and started again.

use super::*;

/// Of each case, in the sample.
const SAMPLE: usize = 6;

/// Kills the agent there. What it had started either goes on (as after the OOM killer) or is killed as well
/// (as systemd does with what is left of a unit), in turns. False: it was not reached.
fn kill_at(host: &SweptHost, point: &Point) -> Result<bool, String> {
    use std::os::unix::process::ExitStatusExt;
    host.reset();
    let log = host.path("strace");
    let output = host.apply(&strace::inject(&log, point, "signal=SIGKILL"));
    let killed = output.status.signal() == Some(9) || output.status.code() == Some(137);
    if point.nth.is_multiple_of(2) {
        host.end_processes(|_| true);
    }
    if !killed && output.status.code() != Some(host.case.exit_code()) {
        return Err(format!(
            "it ended with {}: {}",
            output.status,
            host::said(&output)
        ));
    }
    host.restart_and_check()?;
    Ok(killed)
}

fn sweep(family: Family) {
    let mut tally = Tally::new(format!("agent killed, {family:?}"));
    for case in Case::ALL {
        let host = SweptHost::new(family, case);
        let log = host.path("strace");
        let output = host.apply(&strace::record(&log, KILL_AT));
        assert_eq!(
            output.status.code(),
            Some(case.exit_code()),
            "{}",
            host::said(&output)
        );
        let points = strace::points(&std::fs::read_to_string(&log).unwrap(), 1, |_| true);
        let kills = choose(points, SAMPLE).into_iter();
        tally.case(case, kills.map(|point| (point.clone(), kill_at(&host, &point))));
    }
    tally.conclude();
}

#[test]
fn killed_anywhere_the_agent_gets_there_after_a_restart_with_dpkg() {
    sweep(Family::Deb);
}

#[test]
fn killed_anywhere_the_agent_gets_there_after_a_restart_with_rpm() {
    sweep(Family::Rpm);
}
