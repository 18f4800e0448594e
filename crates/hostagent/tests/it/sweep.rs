//! The real agent, killed and starved of disk space at every point that matters, while it changes a sandbox host
//! with the real dpkg or the real rpm.
//!
//! `make test` takes a sample of the points, always the same; `make test-long` (`SWEEP=all`) takes them all.

use std::fmt;
use std::io::Write;
use std::time::{Duration, Instant};

use harness::packages::Family;

/// A test for each case on each package manager.
macro_rules! for_each_case {
    ($test:ident: $($name:ident $case:ident),*) => {
        mod dpkg { $( #[test] fn $name() { super::$test(super::Family::Deb, super::Case::$case) } )* }
        mod rpm { $( #[test] fn $name() { super::$test(super::Family::Rpm, super::Case::$case) } )* }
    };
}

mod agent;
mod disk_full;
mod host;
mod package_manager;
mod shim;
mod strace;

use host::{Case, SweptHost};
use strace::Point;

/// The calls at which a process is killed: those that rename, remove, write, make durable, or start a child.
const KILL_AT: &str = "/^(rename|renameat|renameat2|unlink|unlinkat|link|linkat|symlink|symlinkat|mkdir|mkdirat|rmdir|\
                       write|pwrite64|fsync|fdatasync|sync_file_range|fchmod|fchown|chown|lchown|truncate|ftruncate|\
                       fork|vfork|clone|clone3)$";

/// All of `points`, or `sample` of them, spread evenly.
fn choose(points: Vec<Point>, sample: usize) -> Vec<Point> {
    if std::env::var_os("SWEEP").is_some_and(|value| value == "all") || points.len() <= sample {
        return points;
    }
    let all = points.len();
    // From the middle of each stretch: the first and last calls are the dullest.
    (0..sample)
        .map(|n| points[(2 * n + 1) * all / (2 * sample)].clone())
        .collect()
}

/// What is done to a process at a point.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Kill,
    DiskFull,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill",
            Self::DiskFull => "ENOSPC",
        })
    }
}

/// How a point ended that went well.
struct Outcome {
    /// The fault was reached.
    hit: bool,
    /// How long the agent took after its restart.
    recovery: Duration,
}

impl Outcome {
    fn missed() -> Self {
        Self {
            hit: false,
            recovery: Duration::ZERO,
        }
    }
}

/// Injects the fault at each point, says what was found, and fails if anything went wrong, or too few of the points
/// were reached to mean anything.
fn sweep(
    fault: Fault,
    victim: &str,
    host: &SweptHost,
    points: Vec<Point>,
    sample: usize,
    inject: impl Fn(&Point) -> Result<Outcome, String>,
) {
    let began = Instant::now();
    let (mut hit, mut missed, mut slowest) = (0, 0, Duration::ZERO);
    let mut wrong = Vec::new();
    for point in choose(points, sample) {
        match inject(&point) {
            Ok(outcome) => {
                hit += usize::from(outcome.hit);
                missed += usize::from(!outcome.hit);
                slowest = slowest.max(outcome.recovery);
            }
            Err(problem) => {
                hit += 1;
                let problem = format!("{point}: {problem}");
                println!("WRONG {problem}");
                wrong.push(problem);
            }
        }
    }
    let name = format!("{fault} {victim}, {:?}, {:?}", host.family, host.case);
    println!(
        "{name}: {hit} hit, {missed} not reached, {} wrong, slowest recovery {:.1} s, {:.0} s in all",
        wrong.len(),
        slowest.as_secs_f64(),
        began.elapsed().as_secs_f64()
    );
    add_to_counts(&format!(
        "{fault} {hit} {missed} {} {:.1}",
        wrong.len(),
        slowest.as_secs_f64()
    ));
    assert!(
        wrong.is_empty(),
        "{name}: {} of {hit}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(hit > 4 * missed, "{name}: only {hit} hit, {missed} not reached");
}

/// Each test is a process of its own: `make test-long` adds up what they write here.
fn add_to_counts(line: &str) {
    let Some(path) = std::env::var_os("SWEEP_COUNTS") else {
        return;
    };
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    writeln!(file.unwrap(), "{line}").unwrap();
}
