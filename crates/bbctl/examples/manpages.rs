//! Writes the man pages of `bbctl` into a folder, for packages: `cargo run -p bbctl --example manpages -- target/dist`.
//! Completions: `bbctl completions SHELL`.

use std::path::PathBuf;

use anyhow::Context;

fn main() -> anyhow::Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.context("usage: manpages FOLDER")?;
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    // Pages for `help COMMAND` would say nothing new.
    let definition = bbctl::commands::definition().disable_help_subcommand(true);
    clap_mangen::generate_to(definition, &folder)?;
    Ok(())
}
