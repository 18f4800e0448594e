//! A plan as it is shown to people and machines: `hostagent plan`, and the answer to a `plan` message.

use protocol::AppName;
use serde::Serialize;

use super::steps::{
    ConfigChange, Install, LaterAction, PackageAction, PackageChange, Plan, SettleAction, Step,
};
use crate::engine::target::PackageSource;

/// One step. Its JSON is that of `hostagent plan --json`, and the plan's hash is over it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShownStep {
    pub app: AppName,
    #[serde(flatten)]
    pub action: ShownAction,
    #[serde(skip)]
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum ShownAction {
    Adopt { package: String },
    StopForRemoval { service: String },
    Remove { package: String, version: String },
    Install(ShownInstall),
    RestoreFile { path: String },
    Configure { changes: Vec<ConfigChange> },
    Enable { service: String },
    Disable { service: String },
    Start { service: String },
    Stop { service: String },
    Restart { services: Vec<String> },
    RunServices { running: bool },
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShownInstall {
    pub change: PackageChange,
    pub version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Absent: from the host's own repositories.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
}

impl ShownAction {
    /// One word, for machines: the same as `action` in the JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Adopt { .. } => "adopt",
            Self::StopForRemoval { .. } => "stop_for_removal",
            Self::Remove { .. } => "remove",
            Self::Install(_) => "install",
            Self::RestoreFile { .. } => "restore_file",
            Self::Configure { .. } => "configure",
            Self::Enable { .. } => "enable",
            Self::Disable { .. } => "disable",
            Self::Start { .. } => "start",
            Self::Stop { .. } => "stop",
            Self::Restart { .. } => "restart",
            Self::RunServices { .. } => "run_services",
        }
    }
}

/// The steps of `plan` in the order in which they would be taken.
pub fn shown(plan: &Plan) -> Vec<ShownStep> {
    let packages = plan
        .packages
        .iter()
        .map(|step| show(step, of_package(&step.action)));
    let settle = plan.settle.iter().map(|step| show(step, of_settle(&step.action)));
    let later = plan.later.iter().map(|step| show(step, of_later(&step.action)));
    let restarts = plan.restarts.iter().map(|step| ShownStep {
        app: step.app.clone(),
        text: format!("restart {}", step.action.join(", ")),
        action: ShownAction::Restart {
            services: step.action.clone(),
        },
    });
    packages.chain(settle).chain(later).chain(restarts).collect()
}

fn show<Action: ToString>(step: &Step<Action>, action: ShownAction) -> ShownStep {
    ShownStep {
        app: step.app.clone(),
        action,
        text: step.action.to_string(),
    }
}

fn of_package(action: &PackageAction) -> ShownAction {
    match action.clone() {
        PackageAction::Adopt { package } => ShownAction::Adopt { package },
        PackageAction::StopForRemoval { service } => ShownAction::StopForRemoval { service },
        PackageAction::Remove { package, version } => ShownAction::Remove { package, version },
        PackageAction::Install(install) => ShownAction::Install(of_install(install)),
    }
}

fn of_install(install: Install) -> ShownInstall {
    let (url, sha256) = match install.source {
        PackageSource::Url { url, sha256 } => (Some(url), sha256),
        PackageSource::Repository | PackageSource::Kept { .. } | PackageSource::Unavailable { .. } => {
            (None, None)
        }
    };
    ShownInstall {
        change: install.change,
        version: install.version,
        from: install.from,
        url,
        sha256,
        package: install.package,
    }
}

fn of_settle(action: &SettleAction) -> ShownAction {
    match action.clone() {
        SettleAction::RestoreFile(file) => ShownAction::RestoreFile {
            path: file.path.display().to_string(),
        },
        SettleAction::Configure { changes, .. } => ShownAction::Configure { changes },
        SettleAction::Enable { service } => ShownAction::Enable { service },
        SettleAction::Disable { service } => ShownAction::Disable { service },
        SettleAction::Start { service } => ShownAction::Start { service },
        SettleAction::Stop { service } => ShownAction::Stop { service },
    }
}

fn of_later(action: &LaterAction) -> ShownAction {
    match action.clone() {
        LaterAction::Configure { changes } => ShownAction::Configure { changes },
        LaterAction::RunServices { running } => ShownAction::RunServices { running },
    }
}
