//! `bbctl forget`.

use clap::Args;
use protocol::HostId;

use super::confirm::confirm;
use super::{Context, Exit, host_id};
use crate::output::print;

#[derive(Debug, Args)]
pub struct Forget {
    #[arg(value_name = "HOST", value_parser = host_id)]
    id: HostId,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

impl Forget {
    pub(super) fn execute(&self, context: &Context) -> anyhow::Result<Exit> {
        let id = &self.id;
        let what =
            format!("{id} and what is desired of it will be forgotten; the host itself stays as it is.");
        confirm(&what, self.yes, context.terminal)?;
        context.client.forget(id)?;
        print(&format!("{id} is forgotten\n"))?;
        Ok(Exit::Ok)
    }
}
