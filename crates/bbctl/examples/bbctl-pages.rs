//! Writes the man pages and shell completions of `bbctl` into a folder, for packages:
//! `cargo run -p bbctl --example bbctl-pages -- target/dist`.

use std::path::PathBuf;

use anyhow::Context;
use clap_complete::Shell;

fn main() -> anyhow::Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.context("usage: bbctl-pages FOLDER")?;
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    // Pages for `help COMMAND` would only repeat the others.
    let mut definition = bbctl::commands::definition().disable_help_subcommand(true);
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut definition, "bbctl", &folder)?;
    }
    clap_mangen::generate_to(definition, &folder)?;
    Ok(())
}
