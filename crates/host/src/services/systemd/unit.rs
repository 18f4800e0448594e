//! What the properties of a unit mean. Pure.

use crate::{HostError, ServiceState};

use super::super::check_name;

/// Suffixes that make a name a unit's name: a manifest may name a timer.
const SUFFIXES: [&str; 11] = [
    ".service",
    ".socket",
    ".timer",
    ".path",
    ".target",
    ".mount",
    ".automount",
    ".swap",
    ".slice",
    ".scope",
    ".device",
];

/// `app_foo` -> `app_foo.service`.
pub(super) fn unit_name(service: &str) -> Result<String, HostError> {
    check_name(service)?;
    match SUFFIXES.iter().any(|suffix| service.ends_with(suffix)) {
        true => Ok(service.to_owned()),
        false => Ok(format!("{service}.service")),
    }
}

/// Properties of one unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UnitProperties {
    /// The primary name; it differs from the name that was asked for if that is an alias.
    pub(super) id: String,
    pub(super) load_state: String,
    pub(super) active_state: String,
    pub(super) sub_state: String,
    pub(super) unit_file_state: String,
    /// When the newest main process was started, on the monotonic clock; `None`: never, or systemd
    /// does not know which process it is.
    pub(super) main_started: Option<u64>,
}

impl UnitProperties {
    /// There is no such unit. (A running unit whose file was removed counts as missing: systemd
    /// could not start it again.)
    pub(super) fn is_missing(&self) -> bool {
        self.load_state == "not-found"
    }

    /// A SysV script that systemd's generator wrapped; its links in `etc/rc?.d` decide whether it
    /// is enabled.
    pub(super) fn is_generated(&self) -> bool {
        self.unit_file_state == "generated"
    }

    pub(super) fn state(&self) -> ServiceState {
        ServiceState {
            instance: self.main_started,
            masked: self.load_state == "masked",
            running: is_running(&self.active_state, &self.sub_state),
            enabled: is_enabled(&self.unit_file_state),
        }
    }
}

/// Whether a unit counts as running.
///
/// `activating` does not: it is also the state of a unit in a crash loop (`auto-restart`) and of
/// one that never gets ready. The exception is `start-post`, when the main process is up and ready.
/// `deactivating` does not either.
pub(super) fn is_running(active_state: &str, sub_state: &str) -> bool {
    match active_state {
        "active" | "reloading" | "refreshing" => true,
        "activating" => sub_state == "start-post",
        _ => false,
    }
}

/// Whether a unit starts at boot; `None`: it can be neither enabled nor disabled by itself.
///
/// `static` has no `[Install]`; `indirect` has one that names other units only; `transient` and
/// units without a file have none. A unit that is enabled only under `/run` does not start at boot.
fn is_enabled(unit_file_state: &str) -> Option<bool> {
    match unit_file_state {
        "enabled" | "alias" => Some(true),
        "static" | "indirect" | "transient" | "generated" | "" => None,
        // disabled, enabled-runtime, linked, linked-runtime, masked, masked-runtime, bad
        _ => Some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_units() {
        assert_eq!(unit_name("app_foo").unwrap(), "app_foo.service");
        assert_eq!(unit_name("app.foo").unwrap(), "app.foo.service");
        assert_eq!(unit_name("app_foo.timer").unwrap(), "app_foo.timer");
        assert_eq!(unit_name("data.automount").unwrap(), "data.automount");
        assert_eq!(unit_name("app.slice").unwrap(), "app.slice");
        assert_eq!(unit_name("ssh.service").unwrap(), "ssh.service");
        assert!(unit_name("../ssh").is_err());
    }

    #[test]
    fn running_means_up_and_ready() {
        let table = [
            ("active", "running", true),
            ("active", "exited", true),
            ("reloading", "reload", true),
            ("activating", "auto-restart", false),
            ("activating", "start-pre", false),
            ("activating", "start", false),
            ("activating", "start-post", true),
            ("deactivating", "stop-sigterm", false),
            ("inactive", "dead", false),
            ("failed", "failed", false),
            ("maintenance", "", false),
        ];
        for (active, sub, running) in table {
            assert_eq!(is_running(active, sub), running, "{active} {sub}");
        }
    }

    #[test]
    fn enabled_means_starts_at_boot() {
        let table = [
            ("enabled", Some(true)),
            ("alias", Some(true)),
            ("disabled", Some(false)),
            ("enabled-runtime", Some(false)),
            ("linked", Some(false)),
            ("masked", Some(false)),
            ("static", None),
            ("indirect", None),
            ("", None),
        ];
        for (state, enabled) in table {
            assert_eq!(is_enabled(state), enabled, "{state}");
        }
    }
}
