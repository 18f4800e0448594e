//! Why a call to systemd failed.

use protocol::Category;

use crate::HostError;

/// D-Bus errors of a systemd that is too old for a property or a method.
const UNSUPPORTED: [&str; 5] = [
    "org.freedesktop.DBus.Error.InvalidArgs",
    "org.freedesktop.DBus.Error.NotSupported",
    "org.freedesktop.DBus.Error.PropertyReadOnly",
    "org.freedesktop.DBus.Error.UnknownMethod",
    "org.freedesktop.DBus.Error.UnknownProperty",
];

#[derive(Debug, thiserror::Error)]
pub(crate) enum SystemdError {
    /// systemd refused: name and text of its D-Bus error.
    #[error("systemd refuses: {text} ({name})")]
    Refused { name: String, text: String },
    /// No connection, or no answer in time.
    #[error("cannot reach systemd over D-Bus: {0}")]
    Unreachable(String),
}

impl SystemdError {
    /// Whether this systemd is too old for what was asked.
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::Refused { name, .. } if UNSUPPORTED.contains(&name.as_str()))
    }

    pub fn is_already_subscribed(&self) -> bool {
        matches!(self, Self::Refused { name, .. } if name == "org.freedesktop.systemd1.AlreadySubscribed")
    }

    /// For the operator. `what`: what failed, as in "start web.service".
    pub fn explain(self, what: &str) -> HostError {
        match self {
            Self::Refused { name, text } => {
                let (category, hint) = match name.rsplit('.').next().unwrap_or_default() {
                    "NoSuchUnit" | "FileNotFound" | "NoSuchFile" => (Category::NotFound, ""),
                    "UnitMasked" => (
                        Category::Script,
                        ". To use the unit, run `systemctl unmask` on it",
                    ),
                    "AccessDenied" | "AuthFailed" | "InteractiveAuthorizationRequired" => {
                        (Category::Host, ". The agent must run as root")
                    }
                    _ => (Category::Script, ""),
                };
                let text = text.trim_end_matches('.');
                HostError::new(category, format!("cannot {what}: systemd refuses: {text}{hint}"))
            }
            Self::Unreachable(why) => HostError::new(
                Category::Host,
                format!(
                    "cannot {what}: cannot reach systemd over D-Bus: {why}. The agent retries; check \
                     `systemctl status dbus`, and install the package dbus if it is missing"
                ),
            ),
        }
    }
}

impl From<zbus::Error> for SystemdError {
    fn from(error: zbus::Error) -> Self {
        match error {
            zbus::Error::MethodError(name, text, _) => Self::Refused {
                name: name.to_string(),
                text: text.unwrap_or_default(),
            },
            // Also a bus without systemd on it, and a systemd that has gone away.
            other => Self::Unreachable(other.to_string()),
        }
    }
}
