//! The cost of pings and observations must not grow unnoticed. Instructions and processes are
//! counted: other programs on the machine do not change these counts.

use std::collections::BTreeMap;
use std::process::Command;

const PROGRAM: &str = env!("CARGO_BIN_EXE_hotpaths");
/// Millions of instructions of the development build. The test fails if the cost changes, and
/// prints the new figure to write here.
const KNOWN: [(&str, f64); 4] = [
    ("decode", 9.97),
    ("read", 67.1),
    ("observe", 19.9),
    ("plan", 2.17),
];
/// Between two compilers, the figures differ by some percent. Work that is done twice differs by
/// far more.
const TOLERANCE: f64 = 1.3;

/// Millions of instructions of one run of `path`.
fn instructions(path: &str) -> f64 {
    // A cheap operation runs more times: the start of the program varies by some hundred thousand
    // instructions.
    let more = if path == "plan" { 40 } else { 3 };
    let [few, many] = [1, 1 + more].map(|times| count(path, times));
    (many - few) / f64::from(more)
}

fn count(path: &str, times: u32) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--trace-children=no"])
        .arg(format!(
            "--callgrind-out-file={}",
            folder.path().join("out").display()
        ))
        .args([PROGRAM, path, &times.to_string()])
        .output()
        .expect("valgrind is installed by scripts/install-test-tools");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let line = stderr.lines().find_map(|line| line.split_once("Collected :"));
    let number = line.expect(&stderr).1.split_whitespace().next().unwrap();
    number.parse::<f64>().unwrap() / 1e6
}

#[test]
fn frequent_operations_take_as_many_instructions_as_before() {
    let measured: BTreeMap<&str, f64> = std::thread::scope(|scope| {
        let counting = KNOWN.map(|(path, _)| (path, scope.spawn(move || instructions(path))));
        counting
            .into_iter()
            .map(|(path, count)| (path, count.join().unwrap()))
            .collect()
    });
    println!("{measured:.2?}");
    for (path, known) in KNOWN {
        assert!(
            measured[path] <= known * TOLERANCE,
            "{path} takes {:.2} million instructions, more than {known}: {measured:.2?}",
            measured[path]
        );
        assert!(
            measured[path] * TOLERANCE * 1.2 >= known,
            "{path} takes fewer instructions than {known}: write {measured:.2?} into KNOWN"
        );
    }
}

#[test]
fn an_observation_that_finds_nothing_new_starts_no_process() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let status = Command::new("strace")
        .args(["-f", "--seccomp-bpf", "-e", "trace=execve", "-o"])
        .arg(&trace)
        .args([PROGRAM, "observe", "5"])
        .status()
        .unwrap();
    assert!(status.success());
    let trace = std::fs::read_to_string(trace).unwrap();
    let started = trace.lines().filter(|line| line.contains("execve(")).count();
    assert_eq!(started, 1, "the program itself: {trace}");
}

/// The system calls of a run that name files.
fn file_calls(path: &str, times: u32) -> String {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let status = Command::new("strace")
        .args(["-f", "-e", "trace=%file", "-o"])
        .arg(&trace)
        .args([PROGRAM, path, &times.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
    std::fs::read_to_string(trace).unwrap()
}

#[test]
fn an_observation_asks_the_kernel_about_five_files_for_each_application() {
    // Both runs have the same start, which the difference removes.
    let [few, many] = [1, 11].map(|times| {
        // Of the sandbox, once sandbox_with_apps and before it is taken down; stat by a path or by
        // a descriptor is the same to it.
        file_calls("observe", times)
            .lines()
            .filter(|line| {
                let calls = ["statx(", "stat(", "fstatat(", "openat(", "open(", "openat2("];
                calls.iter().any(|call| line.contains(call))
            })
            .count()
    });
    let each = (many - few) as f64 / 10.0;
    // Where each of the 100 applications could have a hook or a manifest; the rest are for the
    // package database.
    assert!((500.0..=535.0).contains(&each), "{each} calls in an observation");
}

#[test]
fn a_heartbeat_that_finds_nothing_new_reads_no_config_file() {
    let [few, many] = [1, 11].map(|times| {
        let calls = file_calls("heartbeat", times);
        let of_configs = calls.lines().filter(|line| line.contains(".ini\""));
        let (read, asked): (Vec<_>, Vec<_>) = of_configs.partition(|line| !line.contains("O_PATH"));
        (read.len(), asked.len())
    });
    assert_eq!(many.0 - few.0, 0, "config files read in ten heartbeats");
    assert_eq!(many.1 - few.1, 10 * 100, "config files checked in ten heartbeats");
}
