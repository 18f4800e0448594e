//! `hostagent run`

use super::Exit;
use crate::settings::Settings;

/// Runs the agent until SIGTERM or SIGINT.
pub async fn run(_settings: Settings) -> anyhow::Result<Exit> {
    anyhow::bail!("not built yet")
}
