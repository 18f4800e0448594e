//! `bbctl retry`.

use clap::Args;
use protocol::HostId;
use protocol::rest::{HostQuery, HostState, problem};

use super::hosts::Filter;
use super::{Context, Exit, host_id};
use crate::client::ClientError;
use crate::output::{Paint, Style, note, print};

#[derive(Debug, Args)]
pub struct Retry {
    /// Which hosts. Not given: each that is in errors and fits the filters.
    #[arg(value_name = "HOST", value_parser = host_id)]
    ids: Vec<HostId>,
    #[command(flatten)]
    filter: Filter,
}

impl Retry {
    /// Goes through all of them; fails where one could not be told.
    pub(super) fn execute(&self, context: &Context) -> anyhow::Result<Exit> {
        let ids = match self.ids.is_empty() {
            true => context.client.all_host_ids(self.query())?,
            false => self.ids.clone(),
        };
        if ids.is_empty() {
            note("No host in errors matches.");
            return Ok(Exit::Ok);
        }
        let mut exit = Exit::Ok;
        for id in &ids {
            let outcome = context.client.retry(id).map(|told| told.generation);
            print(&format!("{id}: {}\n", describe(&outcome, context.terminal.paint)))?;
            match outcome {
                Ok(_) => {}
                Err(error) if is_of_one_host(&error) => exit = Exit::Failed,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(exit)
    }

    fn query(&self) -> HostQuery {
        let query = self.filter.query();
        HostQuery {
            status: query.status.or(Some(HostState::Errors)),
            ..query
        }
    }
}

/// Whether the next host may go better.
fn is_of_one_host(error: &ClientError) -> bool {
    let not_there = matches!(error, ClientError::Refused { problem, .. } if problem.status == 404);
    not_there || matches!(error.kind(), Some(problem::AWAY | problem::NOTHING_DESIRED))
}

fn describe(outcome: &Result<u64, ClientError>, paint: Paint) -> String {
    match outcome {
        Ok(generation) => format!("tries generation {generation} again"),
        Err(error) => {
            let text = match error.kind() {
                Some(problem::AWAY) => "away: it has no queue, and was not told".to_owned(),
                Some(problem::NOTHING_DESIRED) => "nothing is desired of it".to_owned(),
                _ => error.to_string(),
            };
            paint.paint(Style::Bad, &text)
        }
    }
}
