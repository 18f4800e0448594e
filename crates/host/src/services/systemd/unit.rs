//! What systemd's words mean: pure.

use crate::{HostError, ServiceState};

use super::super::check_name;

const UNIT_PATH: &str = "/org/freedesktop/systemd1/unit/";
/// Suffixes that make a name a unit's name already: an operator's manifest may name a timer.
const SUFFIXES: [&str; 6] = [".service", ".socket", ".timer", ".path", ".target", ".mount"];

/// `app_foo` -> `app_foo.service`.
pub(super) fn unit_name(service: &str) -> Result<String, HostError> {
    check_name(service)?;
    match SUFFIXES.iter().any(|suffix| service.ends_with(suffix)) {
        true => Ok(service.to_owned()),
        false => Ok(format!("{service}.service")),
    }
}

/// The object path of a unit, whether it is loaded or not (`bus_label_escape` in systemd's source).
pub(crate) fn object_path(unit: &str) -> String {
    let mut path = UNIT_PATH.to_owned();
    for (index, byte) in unit.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => path.push(byte.into()),
            b'0'..=b'9' if index > 0 => path.push(byte.into()),
            other => path.push_str(&format!("_{other:02x}")),
        }
    }
    path
}

/// What systemd says of one unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    /// Its primary name; other than what was asked where that was an alias.
    pub(super) id: String,
    pub(super) load_state: String,
    pub(super) active_state: String,
    pub(super) sub_state: String,
    pub(super) unit_file_state: String,
    /// When its newest main process was started, on the monotonic clock; `None`: none ever was, or systemd can't
    /// tell which it is.
    pub(super) main_started: Option<u64>,
}

impl Unit {
    /// There is nothing of that name. (A unit whose file was removed while it runs is gone, too: systemd
    /// could not start it again.)
    pub(super) fn is_missing(&self) -> bool {
        self.load_state == "not-found"
    }

    /// A SysV script that systemd's generator wrapped; its links in `etc/rc?.d` decide.
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
/// `activating` does not, since that is also the state of a unit that waits for its next try
/// (`auto-restart`) or that never gets ready: who takes it for running takes a crash loop for health.
/// The exception is `start-post`, when the main process is up and ready. `deactivating` does not either.
pub(super) fn is_running(active_state: &str, sub_state: &str) -> bool {
    match active_state {
        "active" | "reloading" | "refreshing" => true,
        "activating" => sub_state == "start-post",
        _ => false,
    }
}

/// Whether a unit starts at boot; `None`: it can be neither enabled nor disabled by itself.
///
/// `static` has no `[Install]`; `indirect` has one that names other units only; `transient` and units
/// without a file have none. What is enabled under `/run` only does not start at boot.
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
        assert_eq!(unit_name("ssh.service").unwrap(), "ssh.service");
        assert!(unit_name("../ssh").is_err());
    }

    #[test]
    fn paths_of_units() {
        let table = [
            ("ssh.service", "ssh_2eservice"),
            ("9p_x-1.service", "_39p_5fx_2d1_2eservice"),
            ("getty@tty1.service", "getty_40tty1_2eservice"),
        ];
        for (unit, path) in table {
            assert_eq!(object_path(unit), format!("{UNIT_PATH}{path}"));
        }
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
