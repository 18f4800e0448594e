//! `hostagent id`

use std::path::Path;

use super::{Exit, print};
use crate::identity::{self, Identity};
use crate::settings::Settings;

/// The kernel's own view of network interfaces: not a file of the host, so not under its root.
const SYS: &str = "/sys";

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
pub fn identify(settings: &Settings) -> Result<Identity, identity::IdentityError> {
    let configured = settings.hostagent.host_id.as_ref().map(|id| id.as_str());
    let system = rustix::system::uname();
    let own = identity::identify(configured, Path::new(SYS), &system.nodename().to_string_lossy())?;
    Ok(identity::prefer_kept(&settings.state_dir(), own))
}
