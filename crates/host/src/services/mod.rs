//! The init system: systemd over D-Bus if the host was booted with it, otherwise SysV scripts.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use protocol::Category;

use crate::command::Runner;
use crate::{HostError, Root};

mod facility;
mod changes;
pub mod systemd;
pub mod sysv;

pub use facility::{ServiceState, Services};

pub use crate::systemd::is_systemd;
pub use changes::ServiceChanges;
pub use systemd::Systemd;
pub use sysv::SysV;

/// The init system of the host under `root`: systemd if `/` was booted with it, SysV scripts for
/// any other host and for every sandbox. `runner`: runs the distribution's tools for SysV scripts
/// that systemd has wrapped.
pub fn detect(root: &Root, runner: Option<&Arc<Runner>>) -> Arc<dyn Services> {
    match is_systemd(root) {
        true => Arc::new(Systemd::new(root).runner(runner)),
        false => Arc::new(SysV::new(root)),
    }
}

/// Refuses names that no service can have: hooks and manifests name services, too.
fn check_name(service: &str) -> Result<(), HostError> {
    let starts_well = service
        .chars()
        .next()
        .is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    let allowed = |c: char| c.is_ascii_alphanumeric() || "+._-:@\\".contains(c);
    match starts_well && service.len() <= 240 && service.chars().all(allowed) {
        true => Ok(()),
        false => Err(HostError::new(
            Category::Invalid,
            format!(
                "{service:?} is not a service name. Allowed are up to 240 letters, digits and + . _ - : @ \\, and \
                 the first must be a letter, a digit or _"
            ),
        )),
    }
}

/// Names of the SysV scripts among `files` (paths as the host's own programs name them).
fn scripts_in<P: AsRef<Path>>(files: &[P]) -> BTreeSet<String> {
    let folders = ["/etc/init.d", "/etc/rc.d/init.d"].map(Path::new);
    let name = |file: &Path| {
        let name = file.file_name()?.to_str()?;
        let is_script = folders.contains(&file.parent()?) && check_name(name).is_ok();
        // Old packages have these in the same folder.
        (is_script && !name.ends_with(".sh") && name != "functions").then(|| name.to_owned())
    };
    files.iter().filter_map(|file| name(file.as_ref())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_paths_or_options_are_refused() {
        for good in [
            "app_foo",
            "ssh",
            "getty@tty1",
            "a",
            "dbus-org.x",
            "x\\x2dy",
            "_priv",
        ] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        let long = "a".repeat(241);
        for bad in ["", "-h", "../x", "a/b", ".hidden", "a b", "a\0b", "ä", &long] {
            assert_eq!(check_name(bad).unwrap_err().category, Category::Invalid, "{bad}");
        }
    }

    #[test]
    fn scripts_are_recognised_by_their_folder() {
        let files = [
            "/etc/init.d/app_foo",
            "/etc/rc.d/init.d/app_bar",
            "/etc/init.d/sub/no",
            "/etc/init.d",
            "/opt/init.d/no",
            "/etc/init.d/functions",
        ];
        assert_eq!(
            scripts_in(&files),
            BTreeSet::from(["app_bar".to_owned(), "app_foo".to_owned()])
        );
    }
}
