//! Checks that need several keys or the file system. Used by all programs.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::{Gathered, Origin, Secret};

/// A larger file is not a password file: probably the wrong file was named.
const MAX_PASSWORD_FILE: u64 = 64 * 1024;

/// The password of a section with the keys `password` and `password_file`. The file overrides
/// `password`.
pub fn read_password(
    section: &'static str,
    password: Option<Secret>,
    file: Option<&Path>,
    gathered: &mut Gathered,
) -> Option<Secret> {
    let Some(path) = file else { return password };
    if password.is_some() {
        let text = format!("[{section}] password has no effect, because password_file is also set");
        let origin = gathered.origin(section, "password");
        gathered.warnings.push(format!("{origin}: {text}"));
    }
    if is_readable_by_others(path) {
        let warning = format!(
            "{}: any user can read this file; run: chmod o-r {0}",
            path.display()
        );
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

/// Clears the default user name if a client certificate is the login. The broker takes the user
/// name from the certificate, and refuses messages with another one.
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

/// A certificate needs its key, and a key needs its certificate.
pub fn check_pair(
    section: &'static str,
    certfile: &Option<PathBuf>,
    keyfile: &Option<PathBuf>,
    gathered: &mut Gathered,
) {
    match (certfile, keyfile) {
        (Some(_), None) => gathered.problem(
            section,
            "certfile",
            "keyfile is missing; set both certfile and keyfile",
        ),
        (None, Some(_)) => gathered.problem(
            section,
            "keyfile",
            "certfile is missing; set both certfile and keyfile",
        ),
        (Some(_), Some(_)) | (None, None) => {}
    }
}

fn read_password_file(path: &Path) -> Result<Secret, String> {
    let cannot = |error| format!("cannot be read: {error}");
    // Reading a device or a pipe may never end.
    let metadata = std::fs::metadata(path).map_err(cannot)?;
    if !metadata.is_file() {
        return Err("is not a regular file".to_owned());
    }
    let size = metadata.len();
    if size > MAX_PASSWORD_FILE {
        return Err(format!(
            "is {size} bytes long; a password file has at most {MAX_PASSWORD_FILE}"
        ));
    }
    let text = std::fs::read_to_string(path).map_err(cannot)?;
    let password = text.trim_end_matches(['\r', '\n']);
    match password {
        "" => Err("is empty".to_owned()),
        password if password.chars().any(char::is_control) => {
            Err("contains more than one line, or control characters".to_owned())
        }
        password => Ok(Secret::new(password)),
    }
}

/// Whether any user of the host can read the file.
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

    /// Adds a problem: the value of this key cannot be used.
    pub fn problem(&mut self, section: &'static str, key: &'static str, text: &str) {
        let origin = self.origin(section, key);
        self.problems.push(format!("{origin}: [{section}] {key}: {text}"));
    }
}
