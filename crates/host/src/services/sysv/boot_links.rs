//! Which SysV scripts run at boot: links `etc/rc<level>.d/S<nn><service>`.
//!
//! Reads them without a process. Changes them with the distribution's own tool if `/` has one
//! (`update-rc.d`, `chkconfig`: they order the links by dependencies). Otherwise it makes the links
//! itself: in the run levels of the script's LSB header (2 3 4 5 if it has none), `S20` to start
//! and `K80` to stop.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use protocol::Category;
use tokio::sync::Mutex;

use crate::command::{Command, Runner};
use crate::{HostError, Root};

const LEVELS: std::ops::RangeInclusive<u8> = 0..=6;
/// The multi-user levels.
const WORKING_LEVELS: [u8; 4] = [2, 3, 4, 5];

pub(super) struct BootLinks {
    root: Root,
    runner: Option<Arc<Runner>>,
    /// The tools renumber the links of other scripts, and do not lock.
    in_turn: Mutex<()>,
}

/// The tool that changes the links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkTool {
    UpdateRcD,
    Chkconfig,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BootLink {
    Start,
    Kill,
}

impl BootLinks {
    pub(super) fn new(root: &Root, runner: Option<&Arc<Runner>>) -> Self {
        Self {
            root: root.clone(),
            runner: runner.cloned(),
            in_turn: Mutex::default(),
        }
    }

    pub(super) fn is_enabled(&self, service: &str) -> Result<bool, HostError> {
        for level in WORKING_LEVELS {
            if self
                .links(level, service)?
                .iter()
                .any(|(link, _)| *link == BootLink::Start)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) async fn enable(&self, service: &str) -> Result<(), HostError> {
        let _in_turn = self.in_turn.lock().await;
        match self.tool() {
            LinkTool::UpdateRcD => {
                // `enable` changes only existing links; `defaults` adds missing ones and changes no
                // others.
                self.run("update-rc.d", &[service, "defaults"]).await?;
                self.run("update-rc.d", &[service, "enable"]).await
            }
            LinkTool::Chkconfig => {
                self.run("chkconfig", &["--add", service]).await?;
                self.run("chkconfig", &[service, "on"]).await
            }
            LinkTool::None => {
                let script = self.root.join("/etc/init.d").join(service);
                let text = fs::read(&script).map_err(|error| failed("read", &script, &error))?;
                let start_in = start_levels(&String::from_utf8_lossy(&text));
                for level in LEVELS {
                    let link = match start_in.contains(&level) {
                        true => BootLink::Start,
                        false => BootLink::Kill,
                    };
                    self.set_link(level, service, link)?;
                }
                Ok(())
            }
        }
    }

    pub(super) async fn disable(&self, service: &str) -> Result<(), HostError> {
        let _in_turn = self.in_turn.lock().await;
        match self.tool() {
            LinkTool::UpdateRcD => {
                self.run("update-rc.d", &[service, "defaults"]).await?;
                self.run("update-rc.d", &[service, "disable"]).await
            }
            LinkTool::Chkconfig => self.run("chkconfig", &[service, "off"]).await,
            LinkTool::None => LEVELS
                .into_iter()
                .try_for_each(|level| self.set_link(level, service, BootLink::Kill)),
        }
    }

    fn tool(&self) -> LinkTool {
        if !self.root.is_host() {
            return LinkTool::None;
        }
        let exists = |name: &str| {
            let folders = ["/usr/sbin", "/sbin"];
            folders
                .iter()
                .any(|folder| self.root.join(folder).join(name).exists())
        };
        match (exists("update-rc.d"), exists("chkconfig")) {
            (true, _) => LinkTool::UpdateRcD,
            (false, true) => LinkTool::Chkconfig,
            (false, false) => LinkTool::None,
        }
    }

    /// The links of `service` in one run level.
    fn links(&self, level: u8, service: &str) -> Result<Vec<(BootLink, PathBuf)>, HostError> {
        let folder = self.folder(level);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("read", &folder, &error)),
        };
        let mut links = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| failed("read", &folder, &error))?;
            let name = entry.file_name();
            if let Some((link, named)) = name.to_str().and_then(parse_link)
                && named == service
            {
                links.push((link, entry.path()));
            }
        }
        Ok(links)
    }

    fn set_link(&self, level: u8, service: &str, wanted: BootLink) -> Result<(), HostError> {
        let folder = self.folder(level);
        fs::create_dir_all(&folder).map_err(|error| failed("create", &folder, &error))?;
        let links = self.links(level, service)?;
        for (_, path) in links.iter().filter(|(link, _)| *link != wanted) {
            fs::remove_file(path).map_err(|error| failed("remove", path, &error))?;
        }
        if links.iter().any(|(link, _)| *link == wanted) {
            return Ok(());
        }
        let prefix = match wanted {
            BootLink::Start => "S20",
            BootLink::Kill => "K80",
        };
        let path = folder.join(format!("{prefix}{service}"));
        std::os::unix::fs::symlink(format!("../init.d/{service}"), &path)
            .map_err(|error| failed("create", &path, &error))
    }

    async fn run(&self, program: &str, arguments: &[&str]) -> Result<(), HostError> {
        let command = Command::new(program)
            .args(arguments)
            .by_runner(self.runner.as_ref());
        command.run().await?;
        Ok(())
    }

    fn folder(&self, level: u8) -> PathBuf {
        self.root.join(format!("/etc/rc{level}.d"))
    }
}

fn failed(what: &str, path: &std::path::Path, error: &io::Error) -> HostError {
    let category = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Category::DiskSpace,
        _ => Category::Host,
    };
    HostError::new(category, format!("cannot {what} {}: {error}", path.display()))
}

/// `S20app_foo` -> start, `app_foo`.
fn parse_link(name: &str) -> Option<(BootLink, &str)> {
    let link = match name.as_bytes().first()? {
        b'S' => BootLink::Start,
        b'K' => BootLink::Kill,
        _ => return None,
    };
    let digits = name.get(1..3)?;
    let service = name.get(3..)?;
    let is_link = digits.bytes().all(|b| b.is_ascii_digit()) && !service.is_empty();
    is_link.then_some((link, service))
}

/// The multi-user levels in a script's LSB header; all of them if it has none.
fn start_levels(script: &str) -> Vec<u8> {
    let header = script
        .lines()
        .skip_while(|line| !line.starts_with("### BEGIN INIT INFO"))
        .take_while(|line| !line.starts_with("### END INIT INFO"));
    let levels: Vec<u8> = header
        .filter_map(|line| line.trim_start_matches('#').trim().strip_prefix("Default-Start:"))
        .flat_map(str::split_ascii_whitespace)
        .filter_map(|level| level.parse().ok())
        .filter(|level| WORKING_LEVELS.contains(level))
        .collect();
    match levels.is_empty() {
        true => WORKING_LEVELS.to_vec(),
        false => levels,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_links() {
        let table = [
            ("S20app_foo", Some((BootLink::Start, "app_foo"))),
            ("K80app_foo", Some((BootLink::Kill, "app_foo"))),
            ("S01S02", Some((BootLink::Start, "S02"))),
            ("S2xapp", None),
            ("S20", None),
            ("README", None),
            ("S", None),
            ("Sää", None),
            ("", None),
        ];
        for (name, link) in table {
            assert_eq!(parse_link(name), link, "{name}");
        }
    }

    #[test]
    fn levels_come_from_the_lsb_header() {
        let header = |levels: &str| {
            format!(
                "#!/bin/sh\n### BEGIN INIT INFO\n# Provides: x\n# Default-Start: {levels}\n### END INIT INFO\n"
            )
        };
        assert_eq!(start_levels(&header("3 5")), [3, 5]);
        assert_eq!(start_levels(&header("0 1 S 2")), [2]);
        assert_eq!(start_levels(&header("")), WORKING_LEVELS);
        assert_eq!(start_levels("#!/bin/sh\n# Default-Start: 3\n"), WORKING_LEVELS);
    }
}
