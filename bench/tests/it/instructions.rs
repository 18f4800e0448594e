//! What is done for each ping and each observation must not grow unseen: instructions are counted, which
//! other work on the machine does not change, and processes.

use std::collections::BTreeMap;
use std::process::Command;

const PROGRAM: &str = env!("CARGO_BIN_EXE_hotpaths");
/// Of the development build, in millions of instructions. When something is made cheaper, or has a reason
/// to cost more, its new figure goes here: the failing test prints it.
const KNOWN: [(&str, f64); 4] = [("decode", 9.97), ("read", 67.1), ("observe", 6.6), ("plan", 1.16)];
/// Compilers differ by some percent; what is done twice, or once for each application, by far more.
const TOLERANCE: f64 = 1.3;

/// Instructions of one time `path`, in millions.
fn instructions(path: &str) -> f64 {
    // What is cheap often: the start of the program is not the same to the last hundred thousand.
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
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let line = said.lines().find_map(|line| line.split_once("Collected :"));
    let number = line.expect(&said).1.split_whitespace().next().unwrap();
    number.parse::<f64>().unwrap() / 1e6
}

#[test]
fn hot_paths_take_no_more_instructions_than_is_known_of_them() {
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
            "{path} takes {:.2} million instructions, and took {known} once: {measured:.2?}",
            measured[path]
        );
        assert!(
            measured[path] * TOLERANCE * 1.2 >= known,
            "{path} has become cheaper: write down {measured:.2?}, so that it stays so"
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

/// Of the program's run, those that name files.
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
fn an_observation_asks_the_kernel_about_one_file_for_each_application() {
    // Both runs have the same start.
    let [few, many] = [1, 11].map(|times| {
        // Of the sandbox, once furnished and before it is taken down; stat by a path or by a descriptor is the same to it.
        file_calls("observe", times)
            .lines()
            .filter(|line| {
                let calls = ["statx(", "stat(", "fstatat(", "openat(", "open(", "openat2("];
                calls.iter().any(|call| line.contains(call))
            })
            .count()
    });
    let each = (many - few) as f64 / 10.0;
    // One for the manifest of each of 100 applications; the rest is for the folders and the package database.
    assert!((100.0..=135.0).contains(&each), "{each} calls for an observation");
}

#[test]
fn a_heartbeat_that_finds_nothing_new_reads_no_config_file() {
    let [few, many] = [1, 11].map(|times| {
        let calls = file_calls("heartbeat", times);
        let of_configs = calls.lines().filter(|line| line.contains(".ini\""));
        let (read, asked): (Vec<_>, Vec<_>) = of_configs.partition(|line| !line.contains("O_PATH"));
        (read.len(), asked.len())
    });
    assert_eq!(many.0 - few.0, 0, "files read in ten heartbeats");
    assert_eq!(
        many.1 - few.1,
        10 * 100,
        "asked about, whether they are as they were"
    );
}
