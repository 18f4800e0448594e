//! The corpora that libFuzzer gathered, through the functions that it ran.

use std::fs;
use std::panic::catch_unwind;
use std::path::PathBuf;

/// What reading any of the files may take, in KiB: they are a few KiB each.
const MEMORY: u64 = 96 * 1024;

fn corpus(target: &str) -> Vec<PathBuf> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus")).join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

fn replay(target: &str, check: fn(&[u8])) {
    let files = corpus(target);
    // Else it is not the corpus of this target, or none at all.
    assert!(files.len() >= 20, "{} files for {target}", files.len());
    let broken: Vec<String> = files
        .iter()
        .filter(|file| {
            let bytes = fs::read(file).unwrap();
            catch_unwind(|| check(&bytes)).is_err()
        })
        .map(|file| file.display().to_string())
        .collect();
    assert!(
        broken.is_empty(),
        "{target}: what is promised does not hold for\n{}",
        broken.join("\n")
    );
    let peak = peak_memory();
    assert!(
        peak < MEMORY,
        "{target}: {peak} KiB of memory for files of a few KiB"
    );
    println!("{target}: {} files, {peak} KiB at most", files.len());
}

/// Of this process, in KiB.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn messages_hold_what_is_promised() {
    replay("decode", fuzzing::decode::check);
}

#[test]
fn settings_hold_what_is_promised() {
    replay("settings", fuzzing::settings::check);
}

#[test]
fn package_databases_hold_what_is_promised() {
    replay("dpkg_status", fuzzing::dpkg_status::check);
}

#[test]
fn manifests_hold_what_is_promised() {
    replay("manifest", fuzzing::manifest::check);
}

#[test]
fn edits_of_config_files_hold_what_is_promised() {
    replay("config_file", fuzzing::config_file::check);
}

#[test]
fn state_files_hold_what_is_promised() {
    replay("journal", fuzzing::journal::check);
}
