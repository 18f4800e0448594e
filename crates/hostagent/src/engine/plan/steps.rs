//! What a plan is made of.

use std::fmt;

use protocol::{AppName, Category, Phase};
use serde::Serialize;
use serde_json::Value;

/// What is to be done to a host. Empty: it is as desired.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// What can't be reached by any step.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    pub app: AppName,
    #[serde(flatten)]
    pub action: Action,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// Put on record as managed; it is installed already.
    Adopt {
        package: String,
    },
    /// Stop a service of an application that is about to be removed.
    StopForRemoval {
        service: String,
    },
    /// Remove the package, keeping its configuration files.
    Remove {
        package: String,
        version: String,
    },
    Install(Install),
    /// Change the application's config. Values are secret: for a terminal, never for a log. Without
    /// changes: an earlier one was cut short before the services took it up.
    Configure {
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
    /// Forecast for an application that is not installed yet: whatever services it turns out to have.
    RunServices {
        running: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Install {
    pub change: Change,
    /// As desired.
    pub version: String,
    /// Full version that is there now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Absent: from the host's own repositories.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The package's name, where it is known before the file is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Install,
    Upgrade,
    Downgrade,
    /// The same version again, because it is half-installed.
    Reinstall,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConfigChange {
    pub section: String,
    pub key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Value>,
    pub to: Value,
}

/// Why an application can't get where it should be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fault {
    pub app: AppName,
    pub phase: Phase,
    pub category: Category,
    pub message: String,
}

/// Steps that are carried out together before the host is looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Adopt, stop what goes, and one transaction of the package manager.
    Packages,
    /// Config and services, rank by rank.
    Settle,
}

impl Action {
    /// One word, for machines: the same as `action` in a plan's JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Adopt { .. } => "adopt",
            Self::StopForRemoval { .. } => "stop_for_removal",
            Self::Remove { .. } => "remove",
            Self::Install(_) => "install",
            Self::Configure { .. } => "configure",
            Self::Enable { .. } => "enable",
            Self::Disable { .. } => "disable",
            Self::Start { .. } => "start",
            Self::Stop { .. } => "stop",
            Self::RunServices { .. } => "run_services",
        }
    }

    pub fn stage(&self) -> Stage {
        match self {
            Self::Adopt { .. } | Self::StopForRemoval { .. } | Self::Remove { .. } | Self::Install(_) => {
                Stage::Packages
            }
            Self::Configure { .. }
            | Self::Enable { .. }
            | Self::Disable { .. }
            | Self::Start { .. }
            | Self::Stop { .. }
            | Self::RunServices { .. } => Stage::Settle,
        }
    }
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.faults.is_empty()
    }

    /// The steps to carry out now: those of the first stage that has any.
    pub fn next_stage(&self) -> Option<(Stage, Vec<&Step>)> {
        let stage = self.steps.iter().map(|step| step.action.stage()).min()?;
        Some((
            stage,
            self.steps
                .iter()
                .filter(|step| step.action.stage() == stage)
                .collect(),
        ))
    }
}

/// For people and logs: what the step does, without any value of a config.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Adopt { package } => write!(f, "adopt package {package}"),
            Self::StopForRemoval { service } => write!(f, "stop {service} before removal"),
            Self::Remove { package, version } => write!(f, "remove package {package} {version}"),
            Self::Install(install) => install.fmt(f),
            Self::Configure { changes } if changes.is_empty() => {
                write!(f, "finish an interrupted change of the config")
            }
            Self::Configure { changes } => {
                let keys: Vec<String> = changes
                    .iter()
                    .map(|c| format!("{}.{}", c.section, c.key))
                    .collect();
                write!(f, "configure {}", keys.join(", "))
            }
            Self::Enable { service } => write!(f, "enable {service}"),
            Self::Disable { service } => write!(f, "disable {service}"),
            Self::Start { service } => write!(f, "start {service}"),
            Self::Stop { service } => write!(f, "stop {service}"),
            Self::RunServices { running: true } => write!(f, "enable and start its services"),
            Self::RunServices { running: false } => write!(f, "disable and stop its services"),
        }
    }
}

impl fmt::Display for Install {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.change {
            Change::Install => "install",
            Change::Upgrade => "upgrade",
            Change::Downgrade => "downgrade",
            Change::Reinstall => "reinstall",
        };
        f.write_str(verb)?;
        match (&self.from, self.change) {
            (Some(from), Change::Upgrade | Change::Downgrade) => {
                write!(f, " from {from} to {}", self.version)
            }
            (_, Change::Install | Change::Reinstall) | (None, Change::Upgrade | Change::Downgrade) => {
                write!(f, " version {}", self.version)
            }
        }
    }
}
