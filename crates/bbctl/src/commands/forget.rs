//! `bbctl forget`.

use clap::Args;
use protocol::HostId;

use super::confirm::confirm;
use super::{Context, Exit, host_id};
use crate::output::print;

#[derive(Debug, Args)]
pub struct ForgetCommand {
    #[arg(value_name = "HOST", value_parser = host_id)]
    id: HostId,
    /// Do not ask for confirmation.
    #[arg(short, long)]
    yes: bool,
}

impl ForgetCommand {
    pub(super) fn execute(&self, context: &Context) -> anyhow::Result<Exit> {
        let id = &self.id;
        let what = format!(
            "This deletes host {id} and its desired state from the master. The host itself does not change."
        );
        confirm(&what, self.yes, context.terminal)?;
        context.client.forget(id)?;
        print(&format!("{id}: forgotten\n"))?;
        Ok(Exit::Ok)
    }
}
