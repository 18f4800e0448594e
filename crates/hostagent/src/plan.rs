//! Decides what to do: a pure function of what is desired and what is observed.
//!
//! A plan's steps stand in the order in which they would be carried out. The reconciler carries out only
//! the first [`Stage`] of a plan, then observes and plans again, so later stages are a forecast.

use std::fmt;

use protocol::satisfied::{same_value, version_satisfied};
use protocol::spec::cmp_rank;
use protocol::{AppName, AppSpec, Apps, Category, Config, Phase};
use serde::Serialize;
use serde_json::Value;

use crate::host::download::url_for_family;
use crate::host::packages::compare_versions;
use crate::host::{ContractKind, Family};
use crate::observe::{Observed, ObservedApp, SELF_APP};

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
    /// Config and services, application by application, in rank order.
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

/// The plan from `observed` to `desired` on a host of `family`.
pub fn plan(desired: &Apps, observed: &Observed, family: Family) -> Plan {
    let mut plan = Plan::default();
    plan_removals(desired, observed, &mut plan);
    let mut ranked: Vec<(&AppName, &AppSpec)> = desired.iter().collect();
    ranked.sort_by(|(a_name, a), (b_name, b)| cmp_rank(a.rank, b.rank).then_with(|| a_name.cmp(b_name)));
    let mut settling = Vec::new();
    for (app, spec) in ranked {
        let mut planner = AppPlanner {
            app,
            spec,
            family,
            packages: Vec::new(),
            settle: Vec::new(),
            faults: Vec::new(),
        };
        match observed.apps.get(app) {
            None => planner.install_anew(),
            Some(there) => planner.bring_up_to_date(there),
        }
        plan.steps.append(&mut planner.packages);
        settling.append(&mut planner.settle);
        plan.faults.append(&mut planner.faults);
    }
    plan.steps.append(&mut settling);
    plan
}

/// Managed applications that are not desired go, in reverse rank.
fn plan_removals(desired: &Apps, observed: &Observed, plan: &mut Plan) {
    let surplus = |(app, there): &(&AppName, &ObservedApp)| {
        there.managed && !desired.contains_key(*app) && app.as_str() != SELF_APP && there.package != SELF_APP
    };
    let mut going: Vec<_> = observed.apps.iter().filter(surplus).collect();
    going.sort_by(|(a_name, a), (b_name, b)| cmp_rank(b.rank, a.rank).then_with(|| b_name.cmp(a_name)));
    for (app, there) in &going {
        for service in there.running_services() {
            plan.steps.push(Step {
                app: (*app).clone(),
                action: Action::StopForRemoval { service },
            });
        }
    }
    for (app, there) in &going {
        let action = Action::Remove {
            package: there.package.clone(),
            version: there.version.clone(),
        };
        plan.steps.push(Step {
            app: (*app).clone(),
            action,
        });
    }
}

struct AppPlanner<'a> {
    app: &'a AppName,
    spec: &'a AppSpec,
    family: Family,
    packages: Vec<Step>,
    settle: Vec<Step>,
    faults: Vec<Fault>,
}

impl AppPlanner<'_> {
    fn step(&self, action: Action) -> Step {
        Step {
            app: self.app.clone(),
            action,
        }
    }

    fn fault(&mut self, phase: Phase, category: Category, message: String) {
        self.faults.push(Fault {
            app: self.app.clone(),
            phase,
            category,
            message,
        });
    }

    fn install_anew(&mut self) {
        self.install(Change::Install, None);
        self.forecast_settling();
    }

    fn bring_up_to_date(&mut self, there: &ObservedApp) {
        if !there.managed {
            self.packages.push(self.step(Action::Adopt {
                package: there.package.clone(),
            }));
        }
        let version_fits = version_satisfied(&self.spec.version, &there.version);
        if version_fits && !there.broken {
            self.settle(there);
            return;
        }
        let change = if version_fits {
            Change::Reinstall
        } else if compare_versions(self.family, &self.spec.version, &there.version).is_lt() {
            Change::Downgrade
        } else {
            Change::Upgrade
        };
        self.install(change, Some(there));
        self.settle(there);
        // What is wrong with the version that goes says nothing of the one that comes.
        self.faults.clear();
    }

    fn install(&mut self, change: Change, there: Option<&ObservedApp>) {
        let url = self
            .spec
            .url
            .as_deref()
            .map(|url| url_for_family(url, self.family));
        let package = there
            .map(|there| there.package.clone())
            .or_else(|| self.spec.package.clone());
        let install = Install {
            change,
            version: self.spec.version.clone(),
            from: there.map(|there| there.version.clone()),
            url,
            sha256: self.spec.sha256.clone(),
            package,
        };
        self.packages.push(self.step(Action::Install(install)));
    }

    /// What an application that is not there yet will need, as far as its spec tells.
    fn forecast_settling(&mut self) {
        let changes = config_changes(&self.spec.config, &Config::new());
        if !changes.is_empty() {
            self.settle.push(self.step(Action::Configure { changes }));
        }
        self.settle.push(self.step(Action::RunServices {
            running: self.spec.running,
        }));
    }

    fn settle(&mut self, there: &ObservedApp) {
        self.settle_config(there);
        self.settle_services(there);
    }

    fn settle_config(&mut self, there: &ObservedApp) {
        let current = match &there.config {
            Ok(current) => current,
            Err(error) => {
                let message = format!("the config of {} could not be read: {}", self.app, error.message);
                self.fault(Phase::Configure, error.category, message);
                return;
            }
        };
        let changes = config_changes(&self.spec.config, current);
        // What was cut short is written again: its services may not have taken it up.
        let unfinished = there.config_unfinished && there.contract != ContractKind::None;
        if changes.is_empty() && !unfinished {
            return;
        }
        if there.contract == ContractKind::None {
            let message = format!(
                "{app} is given config, but has no way to take it: package {package} ships neither the hook \
                 /opt/pf9/{app}/config nor the manifest /usr/share/hostagent/apps/{app}.toml. Add one to the package, \
                 write /etc/hostagent/apps/{app}.toml on the host, or leave config empty",
                app = self.app,
                package = there.package,
            );
            self.fault(Phase::Configure, Category::Invalid, message);
            return;
        }
        self.settle.push(self.step(Action::Configure { changes }));
    }

    fn settle_services(&mut self, there: &ObservedApp) {
        if there.services.is_empty() && self.spec.running {
            let message = format!(
                "{} is to run, but package {} ships no service (no unit, no init script, none named by a hook or \
                 manifest). Say \"running\": false, or name its services in a manifest",
                self.app, there.package,
            );
            self.fault(Phase::Service, Category::NotFound, message);
        }
        for service in self.spec.service_states.iter().flatten().map(|(name, _)| name) {
            if !there.services.contains_key(service) {
                let known: Vec<&str> = there.services.keys().map(String::as_str).collect();
                let message = format!(
                    "service_states names {service}, which is not a service of {}; its services are: {}",
                    self.app,
                    if known.is_empty() {
                        "none".to_owned()
                    } else {
                        known.join(", ")
                    },
                );
                self.fault(Phase::Service, Category::NotFound, message);
            }
        }
        for (service, state) in &there.services {
            self.settle_service(service, *state);
        }
    }

    fn settle_service(&mut self, service: &str, state: Option<crate::host::ServiceState>) {
        let wanted = self.spec.wants_service(service);
        let service = service.to_owned();
        let Some(state) = state else {
            if wanted {
                let message = format!(
                    "service {service} of {} does not exist on this host: its contract names it, but no unit or init \
                     script of that name is there",
                    self.app,
                );
                self.fault(Phase::Service, Category::NotFound, message);
            }
            return;
        };
        match (state.enabled, wanted) {
            (Some(false), true) => self.settle.push(self.step(Action::Enable {
                service: service.clone(),
            })),
            (Some(true), false) => self.settle.push(self.step(Action::Disable {
                service: service.clone(),
            })),
            (None, _) | (Some(true), true) | (Some(false), false) => {}
        }
        match (state.running, wanted) {
            (false, true) => self.settle.push(self.step(Action::Start { service })),
            (true, false) => self.settle.push(self.step(Action::Stop { service })),
            (true, true) | (false, false) => {}
        }
    }
}

/// The keys of `desired` that `current` does not have with that value.
fn config_changes(desired: &Config, current: &Config) -> Vec<ConfigChange> {
    let mut changes = Vec::new();
    for (section, keys) in desired {
        for (key, to) in keys {
            let from = current.get(section).and_then(|keys| keys.get(key));
            if !from.is_some_and(|from| same_value(to, from)) {
                changes.push(ConfigChange {
                    section: section.clone(),
                    key: key.clone(),
                    from: from.cloned(),
                    to: to.clone(),
                });
            }
        }
    }
    changes
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

#[cfg(test)]
mod tests;
