//! `hostagent apply FILE`: converges once to the desired state in FILE, without a broker.

use std::path::Path;

use protocol::{ErrorReport, SetConfig};

use super::context::Context;
use super::{Exit, desired_file, print};
use crate::engine::bake::Bakes;
use crate::engine::book::ProgressBook;
use crate::engine::converge::{Convergence, End};
use crate::engine::flaps::Flaps;
use crate::engine::forecast::Forecast;
use crate::engine::report::error_reports;
use crate::engine::signals::Signals;
use crate::host_state::Board;
use crate::ledger::{Ledger, Scope};
use crate::lock::Lock;
use crate::settings::Settings;

/// Stores FILE as the desired state (a daemon that is started later converges to it as well), and
/// converges once; nothing is retried. [`Exit::NotConverged`] if that failed.
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
    let mut book = ProgressBook::open(&context.state_dir, &engine.ledger)?;
    book.release_all();
    let (mut bakes, mut flaps) = (Bakes::default(), Flaps::default());
    let (board, _announcements) = Board::new(desired.clone());
    let mut signals = Signals::none(engine.ledger.subscribe());
    let attempt = Convergence::new(&engine, &desired, &mut book, &mut bakes, &mut flaps, &board, None);
    match attempt.run(&mut signals).await {
        End::Finished(finished) => {
            let errors = error_reports(book.apps(), &finished.faults, |_| String::new());
            print(&render(&errors))?;
            Ok(match errors.is_empty() {
                true => Exit::Ok,
                false => Exit::NotConverged,
            })
        }
        End::Blocked(failure) => Err(anyhow::anyhow!(failure.message)),
        // A one-shot command receives no newer desired state and no stop.
        End::Superseded | End::Stopped => Ok(Exit::NotConverged),
    }
}

/// The result, for people.
fn render(errors: &[ErrorReport]) -> String {
    if errors.is_empty() {
        return "The host is as desired.\n".to_owned();
    }
    let lines = errors.iter().map(|error| {
        let app = error.app.as_ref().map_or("host", |app| app.as_str());
        format!("! {app}: {}\n", error.message)
    });
    lines.collect()
}
