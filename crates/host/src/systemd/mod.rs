//! The one systemd client, over D-Bus
//! (<https://www.freedesktop.org/software/systemd/man/org.freedesktop.systemd1.html>): no
//! `systemctl` processes. The services of applications ([`crate::services`]) and the transient
//! units of [`crate::command`] use it.

use crate::Root;

mod client;
mod error;
mod object_path;

pub(crate) use client::{MANAGER, MANAGER_PATH, SERVICE, SystemdClient, UNIT, body_of};
pub(crate) use error::SystemdError;
pub(crate) use object_path::object_path;

/// Whether the host under `root` was booted with systemd (the test of sd_booted(3)). A sandbox
/// never was: it must not reach the systemd of the host around it.
pub fn is_systemd(root: &Root) -> bool {
    root.is_host() && root.join("/run/systemd/system").is_dir()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_never_talks_to_the_hosts_systemd() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("run/systemd/system")).unwrap();
        assert!(!is_systemd(&Root::new(folder.path())));
    }
}
