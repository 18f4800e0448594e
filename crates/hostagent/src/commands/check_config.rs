//! `hostagent check-config`

use std::fmt::Write;

use super::{Exit, print, print_error};
use crate::settings::{Loaded, SettingsError, show};

/// Prints the effective settings with their origins, and warnings.
pub fn check_config(loaded: &Result<Loaded, SettingsError>) -> anyhow::Result<Exit> {
    match loaded {
        Ok(loaded) => {
            print(&format!(
                "{}{}",
                show::effective(loaded),
                show_warnings(&loaded.warnings)
            ))?;
            Ok(Exit::Ok)
        }
        Err(error) => {
            print(show_warnings(&error.warnings).trim_start())?;
            Ok(print_error(&error.to_string(), Exit::Usage))
        }
    }
}

/// A block of lines, empty without warnings.
pub(super) fn show_warnings(warnings: &[String]) -> String {
    let mut text = String::new();
    for (index, warning) in warnings.iter().enumerate() {
        if index == 0 {
            text.push('\n');
        }
        let _ = writeln!(text, "warning: {warning}");
    }
    text
}
