//! Tests that can't be run here say so, and are counted: `make test` ends with the list.

use std::fs::OpenOptions;
use std::io::Write;

/// Where the list is kept; unset: on standard error only.
const LIST: &str = "BACKBONE_SKIPS";

/// Says that the test `name` is skipped, and why.
pub fn skipped(name: &str, reason: &str) {
    let line = format!("SKIP {name}: {reason}");
    eprintln!("{line}");
    if let Some(list) = std::env::var_os(LIST)
        && let Ok(mut file) = OpenOptions::new().append(true).create(true).open(list)
    {
        let _ = writeln!(file, "{line}");
    }
}
