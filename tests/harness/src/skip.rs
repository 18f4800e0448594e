//! Reports tests that cannot run here. `make test` prints the list at its end.

use std::fs::OpenOptions;
use std::io::Write;

/// The file with the list. If unset, skipped tests are reported only on standard error.
const LIST: &str = "BACKBONE_SKIPS";

/// Reports that the test `name` is skipped, and why.
pub fn skipped(name: &str, reason: &str) {
    let line = format!("SKIP {name}: {reason}");
    eprintln!("{line}");
    if let Some(list) = std::env::var_os(LIST)
        && let Ok(mut file) = OpenOptions::new().append(true).create(true).open(list)
    {
        let _ = writeln!(file, "{line}");
    }
}
