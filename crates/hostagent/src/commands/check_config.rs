//! `hostagent check-config`

use std::fmt::Write;

use super::{Exit, complain, print};
use crate::settings::{Loaded, SettingsError, show};

/// Prints the settings that hold, with their origins, and what is doubtful about them.
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
            Ok(complain(&error.to_string(), Exit::Usage))
        }
    }
}

/// A block of lines, empty if there is nothing to say.
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
