//! `hostagent status`

use super::Exit;
use crate::settings::Settings;

/// Prints how the host stands: for people, or the status message as the master would get it.
pub async fn status(_settings: Settings, _json: bool) -> anyhow::Result<Exit> {
    anyhow::bail!("not built yet")
}
