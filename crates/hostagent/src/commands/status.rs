//! `hostagent status`: the state of the host, observed now, and the stored failures.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

use protocol::{Category, Status};
use tokio::time::Instant;

use super::context::Context;
use super::{Exit, print};
use crate::engine::book::ProgressBook;
use crate::engine::failure::Failure;
use crate::engine::observe::Freshness;
use crate::engine::plan::Plan;
use crate::engine::progress::Progress;
use crate::engine::report::error_reports;
use crate::host_state::{HostState, Standing};
use crate::lock;
use crate::settings::Settings;
use crate::status::{self, StatusDetails};

/// Prints the state of the host: for people, or the status message as the master would get it.
/// [`Exit::NotConverged`] unless it is `ok`, and if the stored desired state is damaged.
pub async fn status(settings: Settings, json: bool) -> anyhow::Result<Exit> {
    let view = view_host(&settings).await?;
    print(&if json {
        serde_json::to_string_pretty(&view.status)? + "\n"
    } else {
        render(&view)
    })?;
    Ok(match (&view.stored_desired, view.status.status) {
        (StoredDesired::Stated | StoredDesired::Never, protocol::State::Ok) => Exit::Ok,
        (StoredDesired::Stated | StoredDesired::Never | StoredDesired::Damaged(_), _) => Exit::NotConverged,
    })
}

/// Whether there is a desired state. Without one a status says `ok`: there is nothing to do.
enum StoredDesired {
    Stated,
    /// No desired state was ever set.
    Never,
    /// There was one, and its file is damaged.
    Damaged(PathBuf),
}

struct HostView {
    status: Status,
    stored_desired: StoredDesired,
    agent_runs: bool,
}

/// The status that a daemon would report now. Needs no daemon and no broker, and changes nothing.
async fn view_host(settings: &Settings) -> anyhow::Result<HostView> {
    let context = Context::open(settings)?;
    let engine = context.looking_engine()?;
    let desired = engine.ledger.desired();
    let stored_desired = match (desired.stated, engine.ledger.damaged_desired()?) {
        (true, _) => StoredDesired::Stated,
        (false, Some(file)) => StoredDesired::Damaged(file),
        (false, None) => StoredDesired::Never,
    };
    let observed = engine.observe(&desired.apps, Freshness::Full).await?;
    let stored = ProgressBook::peek(&context.state_dir, &desired.apps)?;
    let agent_runs = lock::holder(&context.state_dir)?.is_some();
    let plan = match desired.stated {
        true => engine.plan(&desired.apps, &observed),
        false => Plan::default(),
    };
    let faults = plan.faults.iter().map(|fault| {
        let failure = Failure {
            phase: fault.phase,
            category: fault.category,
            message: fault.message.clone(),
        };
        (fault.app.clone(), failure)
    });
    // Only the daemon knows when it retries.
    let errors = error_reports(&stored.apps, &faults.collect(), |_| String::new());
    let is_in_progress = stored.apps.values().any(Progress::is_in_progress);
    let converging = |detail: &str| Standing::Converging {
        detail: detail.into(),
    };
    // A change that is still being watched may yet be rolled back.
    let standing = match (plan.is_empty(), errors.is_empty()) {
        (true, _) if is_in_progress => converging("a change is in progress: see `hostagent journal`"),
        (true, _) => Standing::Ok,
        (false, false) => Standing::Errors(errors),
        (false, true) if agent_runs => {
            converging("not as desired; the running agent is converging, or about to")
        }
        (false, true) => converging("not as desired, and no agent runs that could change it"),
    };
    let state = HostState {
        desired: Arc::clone(&desired),
        observed: Some(Arc::new(observed)),
        standing,
        announced: 0,
    };
    let facts = context.facts(settings)();
    let status = status::build(
        &state,
        &StatusDetails {
            host_id: &context.host_id,
            boot_id: "",
            facts: &facts,
            started: Instant::now(),
            last_rejected: None,
            reply_to: None,
        },
    );
    Ok(HostView {
        status,
        stored_desired,
        agent_runs,
    })
}

/// When an application that failed is tried again.
fn what_ends_it(category: Category) -> &'static str {
    match category.is_transient() {
        true => "the agent tries again by itself",
        false => "held until something that made it fail changes, or `hostagent retry`",
    }
}

/// For people.
fn render(view: &HostView) -> String {
    let status = &view.status;
    let mut text = String::new();
    let state = match (&view.stored_desired, status.status) {
        (StoredDesired::Never | StoredDesired::Damaged(_), protocol::State::Ok) => {
            "no desired state is known"
        }
        (StoredDesired::Stated, protocol::State::Ok) => "ok",
        (_, protocol::State::Converging) => "converging",
        (_, protocol::State::Errors) => "errors",
    };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{}: {state}", status.host_id);
    match &view.stored_desired {
        StoredDesired::Stated => {}
        StoredDesired::Never => {
            text.push_str("  nothing was ever desired of this host, so nothing is changed\n");
        }
        StoredDesired::Damaged(file) => {
            let _ = writeln!(
                text,
                "  it was damaged: {}. Nothing is changed until the master sends the next set_config",
                file.display()
            );
        }
    }
    if !view.agent_runs && status.status != protocol::State::Ok {
        text.push_str("  no agent runs on this host: start it, or use `hostagent apply`\n");
    }
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
            None => writeln!(text, "    {}", what_ends_it(error.category)),
        };
    }
    text
}
