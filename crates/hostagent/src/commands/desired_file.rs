//! Reads a desired state from a file.

use std::io::Read;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use protocol::{Apps, Limits};

/// A `set_config` message or its `data` alone; `-` is standard input.
pub fn read(file: &Path) -> Result<Apps> {
    let name = if file == Path::new("-") {
        "standard input".to_owned()
    } else {
        file.display().to_string()
    };
    let bytes = if file == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(file)
    }
    .with_context(|| format!("cannot read {name}"))?;
    protocol::inbound::decode_apps(&bytes, Limits::default()).map_err(|error| anyhow!("{name}: {error}"))
}
