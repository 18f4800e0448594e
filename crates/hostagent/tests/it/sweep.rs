//! The real agent, killed, starved of disk space and robbed of its memory at every point that matters, while it
//! changes a sandbox host with the real dpkg or the real rpm.
//!
//! `make test` takes a sample of the points, always the same; `make test-long` (`SWEEP=all`) takes them all.

use std::time::Instant;

use harness::packages::Family;

mod agent;
mod disk_full;
mod host;
mod package_manager;
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

/// What a sweep found; printed, so that the long run shows its counts.
struct Tally {
    name: String,
    began: Instant,
    hit: usize,
    missed: usize,
    wrong: Vec<String>,
}

impl Tally {
    fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            began: Instant::now(),
            hit: 0,
            missed: 0,
            wrong: Vec::new(),
        }
    }

    /// The outcome of one case: whether each fault was reached, or what went wrong.
    fn case(&mut self, case: Case, outcomes: impl Iterator<Item = (Point, Result<bool, String>)>) {
        let began = Instant::now();
        let (mut hit, mut missed) = (0, 0);
        for (point, outcome) in outcomes {
            match outcome {
                Ok(true) => hit += 1,
                Ok(false) => missed += 1,
                Err(problem) => {
                    hit += 1;
                    let problem = format!("{case:?}, {point}: {problem}");
                    println!("WRONG {problem}");
                    self.wrong.push(problem);
                }
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "{}, {case:?}: {hit} hit, {missed} not reached, {seconds:.1} s",
            self.name
        );
        self.hit += hit;
        self.missed += missed;
    }

    /// Fails if anything went wrong, or too few of the points were reached to mean anything.
    fn conclude(self) {
        let Self {
            name,
            hit,
            missed,
            wrong,
            began,
        } = self;
        println!(
            "{name}: {hit} hit, {missed} not reached, {} wrong, {:.0} s",
            wrong.len(),
            began.elapsed().as_secs_f64()
        );
        assert!(
            wrong.is_empty(),
            "{} of {hit}:\n{}",
            wrong.len(),
            wrong.join("\n")
        );
        assert!(hit > 4 * missed, "{name}: only {hit} hit, {missed} not reached");
    }
}
