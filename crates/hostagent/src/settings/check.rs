//! What only several keys together, or the file system, can tell.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{Gathered, Origin, Secret, Settings};

/// Passwords are short; this only guards against naming the wrong file.
const MAX_PASSWORD_FILE: u64 = 64 * 1024;

pub(super) fn read_password_and_check(mut settings: Settings, gathered: &mut Gathered) -> Settings {
    if let Some(path) = settings.amqp.password_file.clone() {
        if settings.amqp.password.is_some() {
            let text = "[amqp] password has no effect: password_file is set, too";
            gathered
                .warnings
                .push(format!("{}: {text}", gathered.origin("amqp", "password")));
        }
        match read_password(&path) {
            Ok(password) => settings.amqp.password = Some(password),
            Err(reason) => gathered.problem("amqp", "password_file", &format!("{} {reason}", path.display())),
        }
        if is_readable_by_others(&path) {
            let warning = format!("{}: is readable by everybody: chmod o-r {0}", path.display());
            gathered.warnings.push(warning);
        }
    }
    check_pair("ssl", &settings.ssl.certfile, &settings.ssl.keyfile, gathered);
    check_pair(
        "download",
        &settings.download.certfile,
        &settings.download.keyfile,
        gathered,
    );
    if settings.download.max_size > settings.download.max_cache_size {
        let origin = gathered.origin("download", "max_cache_size");
        let text =
            "[download] max_cache_size is below max_size: a package that large is downloaded anew each time";
        gathered.warnings.push(format!("{origin}: {text}"));
    }
    settings
}

fn check_pair(
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

fn read_password(path: &Path) -> Result<Secret, String> {
    let size = std::fs::metadata(path)
        .map_err(|error| format!("cannot be read: {error}"))?
        .len();
    if size > MAX_PASSWORD_FILE {
        return Err(format!("is {size} bytes long: that is no password"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?;
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
pub(super) fn is_readable_by_others(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

impl Gathered {
    fn origin(&self, section: &'static str, key: &'static str) -> Origin {
        self.values
            .get(&(section, key))
            .map_or(Origin::Default, |setting| setting.origin.clone())
    }

    fn problem(&mut self, section: &'static str, key: &'static str, text: &str) {
        let origin = self.origin(section, key);
        self.problems.push(format!("{origin}: [{section}] {key}: {text}"));
    }
}
