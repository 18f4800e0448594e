//! Row 20 of FAULTS.md: every call that takes disk space fails in turn, in the agent and in its package manager.

use super::shim::Shim;
use super::*;

/// Of each case, in the sample.
const SAMPLE: usize = 6;
const SAMPLE_OF_PACKAGE_MANAGER: usize = 3;
/// The calls that a full disk fails.
const TAKES_SPACE: &str = "/^(open|openat|openat2|creat|write|pwrite64|fsync|fdatasync|rename|renameat|renameat2|link|\
                           linkat|symlink|symlinkat|mkdir|mkdirat|ftruncate|fallocate|copy_file_range|sendfile)$";

mod agent {
    use super::*;

    for_each_case![a_full_disk_is_said_and_got_over: install Install, upgrade Upgrade, reconfigure Reconfigure, remove Remove, rollback Rollback];
}

mod package_manager {
    use super::*;

    for_each_case![a_full_disk_leaves_nothing_half_done: install Install, upgrade Upgrade, remove Remove, rollback Rollback];
}

/// Whether it is a call that makes or fills a file; many a write goes to a pipe, or wakes a thread.
fn takes_space(host: &SweptHost, line: &str) -> bool {
    if line.contains("open") {
        line.contains("O_CREAT") || line.contains("creat(")
    } else if line.contains("write(") {
        line.contains(&host.root().display().to_string())
    } else {
        true
    }
}

fn a_full_disk_is_said_and_got_over(family: Family, case: Case) {
    let host = SweptHost::new(family, case);
    let log = host.path("strace");
    host.assert_undisturbed(&host.apply(&strace::record(&log, TAKES_SPACE)));
    let trace = std::fs::read_to_string(&log).unwrap();
    let points = strace::points(&trace, 1, |line| takes_space(&host, line));
    sweep(Fault::DiskFull, "agent", &host, points, SAMPLE, |point| {
        fill_disk_of_agent_at(&host, point)
    });
}

fn fill_disk_of_agent_at(host: &SweptHost, point: &Point) -> Result<Outcome, String> {
    host.reset();
    let log = host.path("strace");
    let output = host.apply(&strace::inject(&log, point, "error=ENOSPC"));
    let trace = std::fs::read_to_string(&log).unwrap_or_default();
    let failed: Vec<&str> = trace.lines().filter(|line| line.contains("(INJECTED)")).collect();
    if !failed.iter().all(|line| takes_space(host, line)) {
        // Wake-ups between threads come as they like, and no full disk fails them.
        return Ok(Outcome::missed());
    }
    let said = host::said(&output);
    if said.contains("panicked") || output.status.code().is_none_or(|code| ![0, 1, 3].contains(&code)) {
        return Err(format!("it ended with {}: {said}", output.status));
    }
    if output.status.code() == Some(1) && !(said.contains("No space left on device") && said.contains('/')) {
        return Err(format!("the error does not say what and where: {said}"));
    }
    // Whatever was not reached is said, and the next run gets there.
    if output.status.code() == Some(0) {
        host.check_survived(&output)?;
    } else {
        host.check_desired_state()?;
    }
    let hit = !failed.is_empty();
    host.restart_and_check().map(|recovery| Outcome { hit, recovery })
}

fn a_full_disk_leaves_nothing_half_done(family: Family, case: Case) {
    let host = SweptHost::new(family, case);
    let shim = Shim::new(&host);
    let points = shim.points(TAKES_SPACE, |line| takes_space(&host, line));
    assert!(points.len() > 10, "{points:?}");
    let sample = SAMPLE_OF_PACKAGE_MANAGER;
    sweep(
        Fault::DiskFull,
        "package manager",
        &host,
        points,
        sample,
        |point| fill_disk_of_package_manager_at(&shim, point),
    );
}

fn fill_disk_of_package_manager_at(shim: &Shim<'_>, point: &Point) -> Result<Outcome, String> {
    let tracer = strace::inject("@LOG@".as_ref(), point, "error=ENOSPC");
    let output = shim.apply(point.run, &tracer);
    let trace = shim.log(point.run).unwrap_or_default();
    let hit = trace.contains("(INJECTED)");
    shim.host.check_survived(&output)?;
    shim.host
        .restart_and_check()
        .map(|recovery| Outcome { hit, recovery })
}
