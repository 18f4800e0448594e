//! `hostagent apply FILE`

use std::path::Path;

use super::Exit;
use crate::settings::Settings;

/// Converges to `file` once, without a broker. [`Exit::NotConverged`] if it did not get there.
pub async fn apply(_settings: Settings, _file: &Path) -> anyhow::Result<Exit> {
    anyhow::bail!("not built yet")
}
