//! `hostagent apply FILE`: one attempt to reach what FILE asks for, without a broker.

use std::path::Path;

use protocol::SetConfig;
use tokio::sync::watch;

use super::context::Context;
use super::{Exit, desired_file, print};
use crate::apply::Failures;
use crate::converge::{End, Interrupts};
use crate::host_state::Board;
use crate::ledger::{Ledger, Scope};
use crate::lock::Lock;
use crate::settings::Settings;

/// Stores FILE as the desired state (a daemon that is started later keeps to it), and converges once; nothing
/// is retried. [`Exit::NotConverged`] if it did not get there.
pub async fn apply(settings: Settings, file: &Path) -> anyhow::Result<Exit> {
    let apps = desired_file::read(file)?;
    let context = Context::open(&settings)?;
    context.create_state_dir()?;
    let _lock = Lock::take(&context.state_dir)?;
    let ledger = Ledger::open(&context.state_dir, context.host_id.clone())?;
    let desired = ledger.accept(
        SetConfig {
            id: None,
            generation: None,
            apps,
        },
        &Scope::Host,
    )?;
    let engine = context.engine(ledger);
    let (board, _announcements) = Board::new(desired.clone());
    let (_stop, stopped) = watch::channel(false);
    let mut interrupts = Interrupts {
        desired: engine.ledger.subscribe(),
        stop: stopped,
    };
    match engine
        .converge(&desired, &Failures::new(), &mut interrupts, &board)
        .await
    {
        End::Finished(failures) => {
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
