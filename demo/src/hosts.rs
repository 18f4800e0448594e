//! The hosts of the demo, each with a sandbox root. They are inspected and changed from outside,
//! without the agent.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use harness::packages::{Family, Sandbox};
use protocol::HostId;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::state::{AppState, Loaded, ObservedApps};

/// The names of the three hosts.
pub const NAMES: [&str; 3] = ["paris", "tokyo", "lima"];

/// Every application of the demo. Each host is checked for all of them.
const APPS: [&str; 2] = ["cache", "shop"];

pub struct DemoHost {
    pub name: &'static str,
    pub id: HostId,
    sandbox: Sandbox,
}

/// Two hosts of one family and one of the other, if this machine has the tools of both.
pub fn families() -> Result<[Family; 3]> {
    match (Family::Deb.is_available(), Family::Rpm.is_available()) {
        (true, true) => Ok([Family::Deb, Family::Deb, Family::Rpm]),
        (true, false) => Ok([Family::Deb; 3]),
        (false, true) => Ok([Family::Rpm; 3]),
        (false, false) => {
            bail!("no supported package manager found: the demo needs dpkg (with dpkg-deb) or rpm")
        }
    }
}

impl DemoHost {
    pub fn create(name: &'static str, family: Family, folder: &Path) -> Result<Self> {
        let sandbox = Sandbox::create(&folder.join(name), family)
            .with_context(|| format!("cannot create the sandbox of {name}"))?;
        Ok(Self {
            name,
            id: HostId::new(name)?,
            sandbox,
        })
    }

    pub fn family(&self) -> Family {
        self.sandbox.family()
    }

    pub fn root(&self) -> &Path {
        self.sandbox.root()
    }

    /// The applications on the host, from the package database, the config file and the process.
    pub fn observe(&self) -> Result<ObservedApps> {
        let packages = self.installed_packages()?;
        let mut apps = BTreeMap::new();
        for app in APPS {
            let package = packages.get(app).cloned();
            let process = match self.process_of(app) {
                Some(_) => Some(self.loaded(app)?),
                None => None,
            };
            // The config file of a removed package may stay (dpkg keeps it).
            if package.is_some() || process.is_some() {
                let state = AppState {
                    greeting: self
                        .sandbox
                        .read(&config_path(app))
                        .ok()
                        .and_then(|text| greeting_in(app, &text)),
                    package,
                    process,
                };
                apps.insert(app.to_owned(), state);
            }
        }
        Ok(ObservedApps(apps))
    }

    /// The process in the pidfile, if it belongs to the application.
    pub fn process_of(&self, app: &str) -> Option<Pid> {
        let number: i32 = self
            .sandbox
            .read(&format!("/run/{app}.pid"))
            .ok()?
            .trim()
            .parse()
            .ok()?;
        let command = std::fs::read(format!("/proc/{number}/cmdline")).ok()?;
        let program = self.sandbox.join(&format!("/opt/pf9/{app}/bin/{app}"));
        let program = program.as_os_str().as_encoded_bytes();
        let is_it = command
            .split(|byte| *byte == 0)
            .any(|argument| argument == program);
        is_it.then(|| Pid::from_raw(number)).flatten()
    }

    /// External change: the service is killed.
    pub fn kill(&self, app: &str) -> Result<()> {
        let process = self
            .process_of(app)
            .with_context(|| format!("{app} is not running on {}", self.name))?;
        Ok(kill_process(process, Signal::KILL)?)
    }

    /// External change: the config file is edited.
    pub fn edit_config(&self, app: &str, greeting: &str) -> Result<()> {
        let text = format!("{{\"{app}\":{{\"greeting\":\"{greeting}\"}}}}\n");
        let path = self.sandbox.join(&config_path(app));
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// External change: the package is removed.
    pub fn remove_package(&self, package: &str) -> Result<()> {
        let root = self.root().display();
        let mut command = match self.family() {
            Family::Deb => {
                let mut dpkg = tool("dpkg");
                dpkg.args([format!("--root={root}"), format!("--log={root}/var/log/dpkg.log")])
                    .args(["--force-not-root", "--force-script-chrootless", "--remove"]);
                dpkg
            }
            Family::Rpm => {
                let mut rpm = tool("rpm");
                rpm.arg(format!("--dbpath={root}/var/lib/rpm")).arg("--erase");
                rpm
            }
        };
        output_of(command.arg("--").arg(package).env("BACKBONE_ROOT", self.root())).map(drop)
    }

    fn installed_packages(&self) -> Result<BTreeMap<String, String>> {
        let root = self.root().display();
        let mut query = match self.family() {
            Family::Deb => {
                let mut query = tool("dpkg-query");
                query.arg(format!("--admindir={root}/var/lib/dpkg")).args([
                    "-W",
                    "-f",
                    "${Package} ${Version} ${db:Status-Status}\n",
                ]);
                query
            }
            Family::Rpm => {
                let mut query = tool("rpm");
                query.arg(format!("--dbpath={root}/var/lib/rpm")).args([
                    "-qa",
                    "--qf",
                    "%{NAME} %{VERSION}-%{RELEASE} installed\n",
                ]);
                query
            }
        };
        let text = output_of(&mut query)?;
        let package = |line: &str| match line.split(' ').collect::<Vec<_>>()[..] {
            [name, version, "installed"] => Some((name.to_owned(), version.to_owned())),
            _ => None,
        };
        Ok(text.lines().filter_map(package).collect())
    }

    /// What the application's process wrote when it last loaded its config.
    fn loaded(&self, app: &str) -> Result<Loaded> {
        let text = self.sandbox.read(&format!("/run/{app}.loaded"))?;
        let (version, config) = text.split_once('\n').unwrap_or((&text, ""));
        Ok(Loaded {
            version: version.to_owned(),
            greeting: greeting_in(app, config).unwrap_or_default(),
        })
    }
}

fn config_path(app: &str) -> String {
    format!("/etc/pf9/{app}/config.json")
}

fn greeting_in(app: &str, config: &str) -> Option<String> {
    let config: Value = serde_json::from_str(config).ok()?;
    Some(config.get(app)?.get("greeting")?.as_str()?.to_owned())
}

/// With the folders of administration programs in PATH: dpkg requires them, and a user's PATH may
/// lack them.
fn tool(program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .stdin(Stdio::null());
    command
}

fn output_of(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}: {}", output.status, message.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
