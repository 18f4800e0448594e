//! Checks that programs share: what only several keys together, or the file system, can tell.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::{Gathered, Origin, Secret};

/// Passwords are short; this only guards against naming the wrong file.
const MAX_PASSWORD_FILE: u64 = 64 * 1024;

/// The password of a section that has `password` and `password_file`: the file wins.
pub fn read_password(
    section: &'static str,
    password: Option<Secret>,
    file: Option<&Path>,
    gathered: &mut Gathered,
) -> Option<Secret> {
    let Some(path) = file else { return password };
    if password.is_some() {
        let text = format!("[{section}] password has no effect: password_file is set, too");
        let origin = gathered.origin(section, "password");
        gathered.warnings.push(format!("{origin}: {text}"));
    }
    if is_readable_by_others(path) {
        let warning = format!("{}: is readable by everybody: chmod o-r {0}", path.display());
        gathered.warnings.push(warning);
    }
    match read_password_file(path) {
        Ok(password) => Some(password),
        Err(reason) => {
            gathered.problem(section, "password_file", &format!("{} {reason}", path.display()));
            None
        }
    }
}

/// Forgets a user name that nobody set, where a client certificate is the login: the broker takes the name from the
/// certificate, and refuses messages that say another one.
pub fn forget_default_user(
    section: &'static str,
    username: &mut String,
    password: &Option<Secret>,
    gathered: &Gathered,
) {
    if password.is_none() && gathered.origin(section, "username") == Origin::Default {
        username.clear();
    }
}

/// A certificate is of no use without its key, nor the key without it.
pub fn check_pair(
    section: &'static str,
    certfile: &Option<PathBuf>,
    keyfile: &Option<PathBuf>,
    gathered: &mut Gathered,
) {
    match (certfile, keyfile) {
        (Some(_), None) => gathered.problem(section, "certfile", "is set without keyfile: set both"),
        (None, Some(_)) => gathered.problem(section, "keyfile", "is set without certfile: set both"),
        (Some(_), Some(_)) | (None, None) => {}
    }
}

fn read_password_file(path: &Path) -> Result<Secret, String> {
    let cannot = |error| format!("cannot be read: {error}");
    // A device or a pipe may have no end.
    let metadata = std::fs::metadata(path).map_err(cannot)?;
    if !metadata.is_file() {
        return Err("is no file".to_owned());
    }
    let size = metadata.len();
    if size > MAX_PASSWORD_FILE {
        return Err(format!("is {size} bytes long: that is no password"));
    }
    let text = std::fs::read_to_string(path).map_err(cannot)?;
    let password = text.trim_end_matches(['\r', '\n']);
    match password {
        "" => Err("is empty".to_owned()),
        password if password.chars().any(char::is_control) => {
            Err("holds more than one line, or control characters".to_owned())
        }
        password => Ok(Secret::new(password)),
    }
}

/// Whether any user of the host can read it.
pub(crate) fn is_readable_by_others(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

impl Gathered {
    /// Where a key's value came from.
    pub fn origin(&self, section: &'static str, key: &'static str) -> Origin {
        self.values
            .get(&(section, key))
            .map_or(Origin::Default, |setting| setting.origin.clone())
    }

    /// Notes that a key's value cannot be used.
    pub fn problem(&mut self, section: &'static str, key: &'static str, text: &str) {
        let origin = self.origin(section, key);
        self.problems.push(format!("{origin}: [{section}] {key}: {text}"));
    }
}
