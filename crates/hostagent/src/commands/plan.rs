//! `hostagent plan FILE`: what would change, and nothing is changed.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;

use super::context::Context;
use super::{Exit, desired_file, print};
use crate::engine::forecast::Forecast;
use crate::engine::plan::Action;
use crate::settings::Settings;

/// Prints what applying `file` would do. [`Exit::NotConverged`] if that is anything at all.
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
    Ok(if forecast.plan.is_empty() {
        Exit::Ok
    } else {
        Exit::NotConverged
    })
}

/// The plan with its hash, and with each step's way back.
fn to_json(forecast: &Forecast) -> serde_json::Result<Value> {
    let mut plan = serde_json::to_value(&forecast.plan)?;
    plan["hash"] = forecast.hash().into();
    for (step, undo) in forecast.undo.iter().enumerate() {
        plan["steps"][step]["undo"] = serde_json::to_value(undo)?;
    }
    Ok(plan)
}

/// For people: a line per step, a line per key of a config.
fn render(forecast: &Forecast) -> String {
    let plan = &forecast.plan;
    let mut text = String::new();
    for (step, undo) in plan.steps.iter().zip(&forecast.undo) {
        // Writing to a string can't fail.
        let _ = match &step.action {
            Action::Configure { changes } => {
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
            action => writeln!(text, "{} {}: {action}", sign(action), step.app),
        };
        let _ = match undo.possible {
            true => writeln!(text, "    undo: {}", undo.how),
            false => writeln!(text, "    NO WAY BACK: {}", undo.how),
        };
    }
    for fault in &plan.faults {
        let _ = writeln!(text, "! {}: {}", fault.app, fault.message);
    }
    let _ = match (plan.steps.len(), plan.faults.len()) {
        (0, 0) => writeln!(text, "Nothing to do: the host is as desired."),
        (steps, 0) => writeln!(text, "{steps} steps; plan {}.", forecast.hash()),
        (steps, faults) => writeln!(
            text,
            "{steps} steps; {faults} things that no step can bring about; plan {}.",
            forecast.hash()
        ),
    };
    text
}

fn sign(action: &Action) -> char {
    match action {
        Action::Install(install) if install.from.is_none() => '+',
        Action::Remove { .. } => '-',
        Action::Install(_)
        | Action::Adopt { .. }
        | Action::StopForRemoval { .. }
        | Action::Configure { .. }
        | Action::Enable { .. }
        | Action::Disable { .. }
        | Action::Start { .. }
        | Action::Stop { .. }
        | Action::RunServices { .. } => '~',
    }
}
