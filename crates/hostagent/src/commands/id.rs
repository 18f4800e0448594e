//! `hostagent id`

use protocol::HostId;

use super::{Exit, print};
use crate::settings::Settings;

/// The host's id, and where it comes from.
pub struct Identity {
    pub host_id: HostId,
    pub source: &'static str,
}

/// Prints the host's id, and where it comes from if `verbose`.
pub fn id(settings: &Settings, verbose: bool) -> anyhow::Result<Exit> {
    let Identity { host_id, source } = identify(settings)?;
    print(&match verbose {
        true => format!("{host_id}\nfrom: {source}\n"),
        false => format!("{host_id}\n"),
    })?;
    Ok(Exit::Ok)
}

/// The id of this host, by these settings.
pub fn identify(settings: &Settings) -> anyhow::Result<Identity> {
    match settings.hostagent.host_id.clone() {
        Some(host_id) => Ok(Identity {
            host_id,
            source: "settings ([hostagent] host_id)",
        }),
        None => anyhow::bail!("no [hostagent] host_id is set"),
    }
}
