//! `hostagent plan FILE`: prints what would change, and changes nothing.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;

use super::context::Context;
use super::{Exit, desired_file, print};
use crate::engine::forecast::Forecast;
use crate::engine::plan::ShownAction;
use crate::settings::Settings;

/// Prints what applying `file` would do. [`Exit::NotConverged`] if there is anything to do.
pub async fn plan(settings: Settings, file: &Path, json: bool) -> anyhow::Result<Exit> {
    let apps = desired_file::read(file)?;
    let engine = Context::open(&settings)?.looking_engine()?;
    let forecast = Forecast::of(&engine, &apps).await?;
    let text = if json {
        serde_json::to_string_pretty(&to_json(&forecast)?)? + "\n"
    } else {
        render(&forecast)
    };
    print(&text)?;
    Ok(if forecast.is_empty() {
        Exit::Ok
    } else {
        Exit::NotConverged
    })
}

/// The plan with its hash, and with how each step is undone.
fn to_json(forecast: &Forecast) -> serde_json::Result<Value> {
    let mut plan = serde_json::json!({"steps": forecast.steps, "hash": forecast.hash()});
    if !forecast.faults.is_empty() {
        plan["faults"] = serde_json::to_value(&forecast.faults)?;
    }
    for (step, undo) in forecast.undo.iter().enumerate() {
        plan["steps"][step]["undo"] = serde_json::to_value(undo)?;
    }
    Ok(plan)
}

/// For people: a line per step, a line per key of a config.
fn render(forecast: &Forecast) -> String {
    let mut text = String::new();
    for (step, undo) in forecast.steps.iter().zip(&forecast.undo) {
        // Writing to a string cannot fail.
        let _ = match &step.action {
            ShownAction::Configure { changes } => {
                let _ = writeln!(text, "~ {}: configure", step.app);
                for change in changes {
                    let from = change
                        .from
                        .as_ref()
                        .map_or("(not set)".to_owned(), Value::to_string);
                    let _ = writeln!(
                        text,
                        "    {}.{}: {from} -> {}",
                        change.section, change.key, change.to
                    );
                }
                Ok(())
            }
            action => writeln!(text, "{} {}: {}", sign(action), step.app, step.text),
        };
        let _ = match undo.possible {
            true => writeln!(text, "    undo: {}", undo.how),
            false => writeln!(text, "    CANNOT BE UNDONE: {}", undo.how),
        };
    }
    for fault in &forecast.faults {
        let _ = writeln!(text, "! {}: {}", fault.app, fault.message);
    }
    let _ = match (forecast.steps.len(), forecast.faults.len()) {
        (0, 0) => writeln!(text, "Nothing to do: the host is as desired."),
        (steps, 0) => writeln!(text, "{steps} steps; plan {}.", forecast.hash()),
        (steps, faults) => writeln!(
            text,
            "{steps} steps; {faults} problems that no step can solve; plan {}.",
            forecast.hash()
        ),
    };
    text
}

fn sign(action: &ShownAction) -> char {
    match action {
        ShownAction::Install(install) if install.from.is_none() => '+',
        ShownAction::Remove { .. } => '-',
        ShownAction::Install(_)
        | ShownAction::Adopt { .. }
        | ShownAction::StopForRemoval { .. }
        | ShownAction::RestoreFile { .. }
        | ShownAction::Configure { .. }
        | ShownAction::Enable { .. }
        | ShownAction::Disable { .. }
        | ShownAction::Start { .. }
        | ShownAction::Stop { .. }
        | ShownAction::Restart { .. }
        | ShownAction::RunServices { .. } => '~',
    }
}
