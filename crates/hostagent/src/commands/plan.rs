//! `hostagent plan FILE`

use std::path::Path;

use super::Exit;
use crate::settings::Settings;

/// Prints what applying `file` would do. [`Exit::NotConverged`] if that is anything at all.
pub async fn plan(_settings: Settings, _file: &Path, _json: bool) -> anyhow::Result<Exit> {
    anyhow::bail!("not built yet")
}
