//! Row 20 of FAULTS.md: every call of the agent that takes disk space fails in turn, once and for good.

use super::*;

/// Of each case, in the sample.
const SAMPLE: usize = 6;
/// The calls that a full disk fails.
const TAKES_SPACE: &str = "/^(write|pwrite64|fsync|fdatasync|rename|renameat|renameat2|link|linkat|symlink|symlinkat|\
                           mkdir|mkdirat|ftruncate|copy_file_range|sendfile)$";
/// Whether it is a call on a file; many a write goes to a pipe, or wakes a thread.
fn takes_space(host: &SweptHost, line: &str) -> bool {
    !line.contains("write(") || line.contains(&host.root().display().to_string())
}

fn fill_disk_at(host: &SweptHost, point: &Point) -> Result<bool, String> {
    host.reset();
    let log = host.path("strace");
    let output = host.apply(&strace::inject(&log, point, "error=ENOSPC"));
    let trace = std::fs::read_to_string(&log).unwrap_or_default();
    let failed: Vec<&str> = trace.lines().filter(|line| line.contains("(INJECTED)")).collect();
    if !failed.iter().all(|line| takes_space(host, line)) {
        // Wake-ups between threads come as they like, and no full disk fails them.
        return Ok(false);
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
    host.restart_and_check()?;
    Ok(!failed.is_empty())
}

fn sweep(family: Family) {
    let mut tally = Tally::new(format!("disk full, {family:?}"));
    for case in Case::ALL {
        let host = SweptHost::new(family, case);
        let log = host.path("strace");
        let output = host.apply(&strace::record(&log, TAKES_SPACE));
        assert_eq!(
            output.status.code(),
            Some(case.exit_code()),
            "{}",
            host::said(&output)
        );
        let points = strace::points(&std::fs::read_to_string(&log).unwrap(), 1, |line| {
            takes_space(&host, line)
        });
        let faults = choose(points, SAMPLE).into_iter();
        tally.case(
            case,
            faults.map(|point| (point.clone(), fill_disk_at(&host, &point))),
        );
    }
    tally.conclude();
}

#[test]
fn a_full_disk_is_said_and_got_over_with_dpkg() {
    sweep(Family::Deb);
}

#[test]
fn a_full_disk_is_said_and_got_over_with_rpm() {
    sweep(Family::Rpm);
}
