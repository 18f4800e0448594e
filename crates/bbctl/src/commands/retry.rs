//! `bbctl retry`.

use clap::Args;
use protocol::HostId;
use protocol::rest::{HostQuery, HostState, problem};

use super::hosts::HostFilter;
use super::{Context, Exit, host_id};
use crate::client::ClientError;
use crate::output::{Paint, Style, note, print};

#[derive(Debug, Args)]
pub struct RetryCommand {
    /// Hosts. Without HOST: all hosts in state errors that match the filters.
    #[arg(value_name = "HOST", value_parser = host_id)]
    ids: Vec<HostId>,
    #[command(flatten)]
    filter: HostFilter,
}

impl RetryCommand {
    /// Asks each host to retry. Fails if a host could not be reached.
    pub(super) fn execute(&self, context: &Context) -> anyhow::Result<Exit> {
        let ids = match self.ids.is_empty() {
            true => context.client.all_host_ids(self.query())?,
            false => self.ids.clone(),
        };
        if ids.is_empty() {
            note("No host in state errors matches.");
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

/// Whether the error is about one host only, so that other hosts may work.
fn is_of_one_host(error: &ClientError) -> bool {
    let not_there = matches!(error, ClientError::Refused { problem, .. } if problem.status == 404);
    not_there || matches!(error.kind(), Some(problem::AWAY | problem::NOTHING_DESIRED))
}

fn describe(outcome: &Result<u64, ClientError>, paint: Paint) -> String {
    match outcome {
        Ok(generation) => format!("retries generation {generation}"),
        Err(error) => {
            let text = match error.kind() {
                Some(problem::AWAY) => "not connected: it has no queue, so nothing was sent".to_owned(),
                Some(problem::NOTHING_DESIRED) => "it has no desired state".to_owned(),
                _ => error.to_string(),
            };
            paint.paint(Style::Bad, &text)
        }
    }
}
