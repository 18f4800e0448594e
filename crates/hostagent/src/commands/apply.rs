//! `hostagent apply FILE`: one attempt to reach what FILE asks for, without a broker.

use std::path::Path;

use protocol::{Phase, SetConfig};
use tokio::sync::watch;

use super::context::Context;
use super::{Exit, desired_file, print};
use crate::engine::converge::{self, End, Interrupts};
use crate::engine::failure::Failures;
use crate::engine::forecast::Forecast;
use crate::engine::journal::JournalFile;
use crate::host_state::Board;
use crate::ledger::{Ledger, Outcome, Scope};
use crate::lock::Lock;
use crate::settings::Settings;

/// Stores FILE as the desired state (a daemon that is started later keeps to it), and converges once; nothing
/// is retried. [`Exit::NotConverged`] if it did not get there.
pub async fn apply(settings: Settings, file: &Path, only_if: Option<&str>) -> anyhow::Result<Exit> {
    let apps = desired_file::read(file)?;
    let context = Context::open(&settings)?;
    context.create_state_dir()?;
    let _lock = Lock::take(&context.state_dir)?;
    if let Some(hash) = only_if {
        let forecast = Forecast::of(&*context.looking_engine()?, &apps).await?;
        if !forecast.is(hash) {
            anyhow::bail!(
                "the plan is {} by now, not {hash}: the host has changed since it was made. Nothing was done; look at \
                 `hostagent plan` again",
                forecast.hash()
            );
        }
    }
    let ledger = Ledger::open(&context.state_dir, context.host_id.clone())?;
    let desired = ledger.accept(
        SetConfig {
            id: None,
            generation: None,
            only_if_plan: None,
            retry: false,
            apps,
        },
        &Scope::Host,
    )?;
    let engine = context.engine(ledger);
    let mut journal = JournalFile::open(&context.state_dir)?;
    let (board, _announcements) = Board::new(desired.clone());
    let (_stop, stopped) = watch::channel(false);
    let mut interrupts = Interrupts {
        desired: engine.ledger.subscribe(),
        stop: stopped,
    };
    match converge::converge(
        &engine,
        &desired,
        &Failures::new(),
        &mut journal,
        &mut interrupts,
        &board,
    )
    .await
    {
        End::Finished(failures) => {
            // For a daemon that is started later: what failed is held.
            let errors = failures
                .iter()
                .map(|(app, failure)| failure.report(Some(app.clone()), 1, None));
            engine.ledger.store_outcome(&Outcome {
                apps: desired.apps.clone(),
                errors: errors.collect(),
            })?;
            let stuck = failures
                .iter()
                .filter(|(_, failure)| failure.phase == Phase::Rollback);
            journal.close_but_for(&stuck.map(|(app, _)| app.clone()).collect::<Vec<_>>())?;
            print(&render(&failures))?;
            Ok(if failures.is_empty() {
                Exit::Ok
            } else {
                Exit::NotConverged
            })
        }
        End::Stuck(failure) => Err(anyhow::anyhow!(failure.message)),
        // Nobody can send a newer desired state, or a stop, to a one-shot command.
        End::Superseded | End::Stopped => Ok(Exit::NotConverged),
    }
}

/// What became of the host, for people.
fn render(failures: &Failures) -> String {
    if failures.is_empty() {
        return "The host is as desired.\n".to_owned();
    }
    let lines = failures
        .iter()
        .map(|(app, failure)| format!("! {app}: {}\n", failure.message));
    lines.collect()
}
