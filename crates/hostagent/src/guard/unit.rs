//! The guard's systemd unit. It is a file, so that the guard also starts at boot after a power cut
//! during the upgrade.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use host::atomic_file;

/// Name of the service.
pub(super) const SERVICE: &str = "hostagent-guard";
const FOLDER: &str = "/etc/systemd/system";
/// Where `enable` creates a link.
const WANTS: &str = "multi-user.target.wants";

/// Writes the unit. `argv`: program and arguments. `while_there`: the unit starts only if this file
/// exists.
pub(super) fn write(argv: &[OsString], while_there: &Path) -> io::Result<()> {
    let text = text(argv, while_there)?;
    atomic_file::replace(&file(), text.as_bytes(), 0o644)
}

/// Removes the unit, so that the next boot does not start it. A running guard continues.
pub(super) fn remove() -> io::Result<()> {
    let link = Path::new(FOLDER).join(WANTS).join(name());
    [link, file()]
        .iter()
        .try_for_each(|path| match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
}

fn file() -> PathBuf {
    Path::new(FOLDER).join(name())
}

fn name() -> String {
    format!("{SERVICE}.service")
}

fn text(argv: &[OsString], while_there: &Path) -> io::Result<String> {
    let words: Vec<String> = argv
        .iter()
        .map(|word| Ok(format!("\"{}\"", escaped(word.to_str())?.replace('$', "$$"))))
        .collect::<io::Result<_>>()?;
    let condition = escaped(while_there.to_str())?;
    let command = words.join(" ");
    Ok(format!(
        "# Written by hostagent for an upgrade of itself, and removed when that is over.\n\
         [Unit]\n\
         Description=Backbone host agent: restores the previous agent if the new one does not report\n\
         ConditionPathExists={condition}\n\
         After=network.target dbus.service\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         ExecStart={command}\n\
         Restart=on-failure\n\
         RestartSec=60\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    ))
}

/// Escaped for a quoted string in a unit file.
fn escaped(word: Option<&str>) -> io::Result<String> {
    let plain = word.filter(|word| !word.contains(char::is_control));
    let plain = plain.ok_or_else(|| {
        let reason =
            "a path of the agent is not UTF-8, or has control characters: a unit file cannot contain it";
        io::Error::new(io::ErrorKind::InvalidInput, reason)
    })?;
    Ok(plain
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('%', "%%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_would_take_for_something_else_is_escaped() {
        let argv = [
            "/var/lib/host agent/guard/hostagent",
            "--config",
            "/etc/100%$\"\\.conf",
        ]
        .map(OsString::from);
        let text = text(&argv, Path::new("/var/lib/host agent/guard.json")).unwrap();
        let expected =
            "ExecStart=\"/var/lib/host agent/guard/hostagent\" \"--config\" \"/etc/100%%$$\\\"\\\\.conf\"\n";
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("\nConditionPathExists=/var/lib/host agent/guard.json\n"));
        let error = super::text(&["/a\nExecStart=/bin/evil".into()], Path::new("/x")).unwrap_err();
        assert!(error.to_string().contains("control characters"), "{error}");
    }
}
