//! What a plan is made of.

use std::fmt;

use protocol::{AppName, Category, Config, Phase};
use serde::Serialize;
use serde_json::Value;

use crate::engine::snapshot::SavedFile;
use crate::engine::target::PackageSource;

/// What is to be done to a host, in order. Empty: nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// One transaction of the package manager, and what belongs to it.
    pub packages: Vec<Step<PackageAction>>,
    /// Config and services, rank by rank.
    pub settle: Vec<Step<SettleAction>>,
    /// Services that still run a previous version, by application.
    pub restarts: Vec<Step<Vec<String>>>,
    /// What applications will need that are not there yet, as far as their specs tell. Only shown.
    pub later: Vec<Step<LaterAction>>,
    /// What no step can reach.
    pub faults: Vec<Fault>,
}

/// Something to do for one application.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step<Action> {
    pub app: AppName,
    pub action: Action,
}

#[derive(Debug, Clone, PartialEq)]
pub enum PackageAction {
    /// Put on record as managed; it is installed already.
    Adopt {
        package: String,
    },
    /// Stop a service of an application that is about to be removed.
    StopForRemoval {
        service: String,
    },
    /// Remove the package; its configuration files stay.
    Remove {
        package: String,
        version: String,
    },
    Install(Install),
}

#[derive(Debug, Clone, PartialEq)]
pub enum SettleAction {
    RestoreFile(SavedFile),
    /// Without changes: an earlier one was cut short before the services took it up.
    Configure {
        config: Config,
        changes: Vec<ConfigChange>,
    },
    Enable {
        service: String,
    },
    Disable {
        service: String,
    },
    Start {
        service: String,
    },
    Stop {
        service: String,
    },
}

/// Forecasts of steps for an application that is not installed yet.
#[derive(Debug, Clone, PartialEq)]
pub enum LaterAction {
    Configure {
        changes: Vec<ConfigChange>,
    },
    /// Whatever services it turns out to have.
    RunServices {
        running: bool,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Install {
    pub change: PackageChange,
    /// As desired; the full version where `is_exact`.
    pub version: String,
    pub is_exact: bool,
    /// Full version that is there now.
    pub from: Option<String>,
    pub source: PackageSource,
    /// The package's name, where it is known before the file is read.
    pub package: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PackageChange {
    Install,
    Upgrade,
    Downgrade,
    /// The same version again, because it is half-installed.
    Reinstall,
}

/// Values are secret: for a terminal, never for a log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConfigChange {
    pub section: String,
    pub key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Value>,
    pub to: Value,
}

/// Why an application cannot get where it should be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fault {
    pub app: AppName,
    pub phase: Phase,
    pub category: Category,
    pub message: String,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.has_no_steps() && self.faults.is_empty()
    }

    pub fn has_no_steps(&self) -> bool {
        self.packages.is_empty() && self.settle.is_empty() && self.restarts.is_empty()
    }

    /// Leaves the steps of those applications that are to be kept.
    pub fn retain(&mut self, keep: impl Fn(&AppName) -> bool) {
        self.packages.retain(|step| keep(&step.app));
        self.settle.retain(|step| keep(&step.app));
        self.restarts.retain(|step| keep(&step.app));
        self.later.retain(|step| keep(&step.app));
        self.faults.retain(|fault| keep(&fault.app));
    }

    /// Whether anything is to be done for `app`.
    pub fn has_steps_for(&self, app: &AppName) -> bool {
        self.packages.iter().any(|step| step.app == *app)
            || self.settle.iter().any(|step| step.app == *app)
            || self.restarts.iter().any(|step| step.app == *app)
    }

    pub fn faults_of(&self, app: &AppName) -> impl Iterator<Item = &Fault> {
        self.faults.iter().filter(move |fault| fault.app == *app)
    }

    /// What the steps for `app` do, for people.
    pub fn describe(&self, app: &AppName) -> String {
        let packages = self.packages.iter().filter(|step| step.app == *app);
        let settle = self.settle.iter().filter(|step| step.app == *app);
        let restarts = self.restarts.iter().filter(|step| step.app == *app);
        packages
            .map(|step| step.action.to_string())
            .chain(settle.map(|step| step.action.to_string()))
            .chain(restarts.map(|step| format!("restart {}", step.action.join(", "))))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// For people and logs: what the step does, without any value of a config.
impl fmt::Display for PackageAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Adopt { package } => write!(f, "adopt package {package}"),
            Self::StopForRemoval { service } => write!(f, "stop {service} before removal"),
            Self::Remove { package, version } => write!(f, "remove package {package} {version}"),
            Self::Install(install) => install.fmt(f),
        }
    }
}

impl fmt::Display for SettleAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RestoreFile(file) => write!(f, "restore {}", file.path.display()),
            Self::Configure { changes, .. } if changes.is_empty() => {
                f.write_str("finish an interrupted change of the config")
            }
            Self::Configure { changes, .. } => write_configure(f, changes),
            Self::Enable { service } => write!(f, "enable {service}"),
            Self::Disable { service } => write!(f, "disable {service}"),
            Self::Start { service } => write!(f, "start {service}"),
            Self::Stop { service } => write!(f, "stop {service}"),
        }
    }
}

impl fmt::Display for LaterAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configure { changes } => write_configure(f, changes),
            Self::RunServices { running: true } => f.write_str("enable and start its services"),
            Self::RunServices { running: false } => f.write_str("disable and stop its services"),
        }
    }
}

fn write_configure(f: &mut fmt::Formatter<'_>, changes: &[ConfigChange]) -> fmt::Result {
    let keys: Vec<String> = changes
        .iter()
        .map(|change| format!("{}.{}", change.section, change.key))
        .collect();
    write!(f, "configure {}", keys.join(", "))
}

impl fmt::Display for Install {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.change {
            PackageChange::Install => "install",
            PackageChange::Upgrade => "upgrade",
            PackageChange::Downgrade => "downgrade",
            PackageChange::Reinstall => "reinstall",
        };
        f.write_str(verb)?;
        match (&self.from, self.change) {
            (Some(from), PackageChange::Upgrade | PackageChange::Downgrade) => {
                write!(f, " from {from} to {}", self.version)
            }
            (_, PackageChange::Install | PackageChange::Reinstall)
            | (None, PackageChange::Upgrade | PackageChange::Downgrade) => {
                write!(f, " version {}", self.version)
            }
        }
    }
}
