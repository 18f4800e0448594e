//! `hostagent status`: how the host stands, seen now, beside what the daemon last had to say of failures.

use std::fmt::Write;
use std::sync::Arc;

use protocol::Status;
use tokio::time::Instant;

use super::context::Context;
use super::{Exit, print};
use crate::host_state::{HostState, Standing};
use crate::observe::Freshness;
use crate::settings::Settings;
use crate::status::{self, Particulars};

/// Prints how the host stands: for people, or the status message as the master would get it.
/// [`Exit::NotConverged`] unless it is `ok`.
pub async fn status(settings: Settings, json: bool) -> anyhow::Result<Exit> {
    let status = look(&settings).await?;
    print(&if json {
        serde_json::to_string_pretty(&status)? + "\n"
    } else {
        render(&status)
    })?;
    Ok(if status.status == protocol::State::Ok {
        Exit::Ok
    } else {
        Exit::NotConverged
    })
}

/// The status that a daemon would report now. Needs no daemon and no broker, and changes nothing.
async fn look(settings: &Settings) -> anyhow::Result<Status> {
    let context = Context::open(settings)?;
    let engine = context.looking_engine()?;
    let desired = engine.ledger.desired();
    let observed = engine.observe(&desired, Freshness::Full).await?;
    let outcome = engine.ledger.outcome_for(&desired.apps)?;
    let standing = if engine.plan(&desired, &observed).is_empty() {
        Standing::Ok
    } else if outcome.errors.is_empty() {
        Standing::Converging {
            detail: "not as desired; a running agent is at it, or about to".into(),
        }
    } else {
        Standing::Errors(outcome.errors)
    };
    let state = HostState {
        desired: Arc::clone(&desired),
        observed: Some(observed),
        standing,
        announced: 0,
    };
    let facts = context.facts(settings)();
    Ok(status::build(
        &state,
        &Particulars {
            host_id: &context.host_id,
            boot_id: "",
            facts: &facts,
            started: Instant::now(),
            last_rejected: None,
            reply_to: None,
        },
    ))
}

/// For people.
fn render(status: &Status) -> String {
    let mut text = String::new();
    let state = match status.status {
        protocol::State::Ok => "ok",
        protocol::State::Converging => "converging",
        protocol::State::Errors => "errors",
    };
    // Writing to a string can't fail.
    let _ = writeln!(text, "{}: {state}", status.host_id);
    if let Some(detail) = &status.detail {
        let _ = writeln!(text, "  {detail}");
    }
    for (app, there) in &status.apps {
        let running = if there.running { "running" } else { "not running" };
        let _ = writeln!(
            text,
            "  {app} {} (package {} {}), {running}",
            there.version, there.package, there.package_version
        );
    }
    for (app, spec) in status.desired_apps.iter().flatten() {
        if !status.apps.contains_key(app) {
            let _ = writeln!(text, "  {app} {} is desired and not installed", spec.version);
        }
    }
    for error in &status.errors {
        let app = error.app.as_ref().map_or("host", |app| app.as_str());
        let _ = writeln!(text, "  ! {app}: {} (attempt {})", error.message, error.attempt);
        let _ = match &error.next_retry {
            Some(time) => writeln!(text, "    next retry: {time}"),
            None => writeln!(text, "    held until the desired state changes"),
        };
    }
    text
}
