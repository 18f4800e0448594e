//! `bbctl completions`.

use clap::Args;
use clap_complete::Shell;

use super::{Exit, definition};
use crate::output::print;

#[derive(Debug, Args)]
pub struct CompletionsCommand {
    #[arg(value_enum)]
    shell: Shell,
}

impl CompletionsCommand {
    pub(super) fn execute(&self) -> anyhow::Result<Exit> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut definition(), "bbctl", &mut script);
        print(&String::from_utf8_lossy(&script))?;
        Ok(Exit::Ok)
    }
}
