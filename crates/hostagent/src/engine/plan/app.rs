//! What one application needs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use host::packages::compare_versions;
use host::{ContractKind, Family, ServiceState};
use protocol::satisfied::{same_value, version_satisfied};
use protocol::{AppName, Category, Config, Phase};

use super::steps::{
    ConfigChange, Fault, Install, LaterAction, PackageAction, PackageChange, Plan, SettleAction, Step,
};
use crate::engine::observe::ObservedApp;
use crate::engine::snapshot::SavedFile;
use crate::engine::target::{ConfigTarget, PackageTarget, PresentTarget, ServiceTarget, ServicesTarget};

/// Collects what one application needs.
pub(super) struct AppPlanner<'a> {
    pub(super) app: &'a AppName,
    pub(super) target: &'a PresentTarget,
    pub(super) family: Family,
    /// As they are on the host.
    pub(super) files: &'a BTreeMap<PathBuf, SavedFile>,
    pub(super) plan: Plan,
}

impl AppPlanner<'_> {
    pub(super) fn plan(mut self, there: Option<&ObservedApp>) -> Plan {
        match there {
            None => self.install_anew(),
            Some(there) => self.bring_up_to_date(there),
        }
        self.plan
    }

    fn step<Action>(&self, action: Action) -> Step<Action> {
        Step {
            app: self.app.clone(),
            action,
        }
    }

    fn settle(&mut self, action: SettleAction) {
        let step = self.step(action);
        self.plan.settle.push(step);
    }

    fn fault(&mut self, phase: Phase, category: Category, message: String) {
        self.plan.faults.push(Fault {
            app: self.app.clone(),
            phase,
            category,
            message,
        });
    }

    fn install_anew(&mut self) {
        if self.install(PackageChange::Install, None) {
            self.forecast_settling();
        }
    }

    fn bring_up_to_date(&mut self, there: &ObservedApp) {
        if self.refuse_other_package(there) {
            self.settle_services(there);
            return;
        }
        let Some(change) = self.package_change(there) else {
            self.adopt(there);
            self.refuse_downgrade(there);
            self.settle_all(there);
            return;
        };
        self.adopt(there);
        self.install(change, Some(there));
        self.settle_all(there);
        // What is wrong with the version that goes says nothing of the one that comes.
        self.plan.faults.clear();
    }

    fn adopt(&mut self, there: &ObservedApp) {
        if !there.managed
            && matches!(
                self.target.package,
                PackageTarget::Version { is_exact: false, .. }
            )
        {
            let step = self.step(PackageAction::Adopt {
                package: there.package.clone(),
            });
            self.plan.packages.push(step);
        }
    }

    fn package_change(&self, there: &ObservedApp) -> Option<PackageChange> {
        let PackageTarget::Version {
            version, is_exact, ..
        } = &self.target.package
        else {
            return None;
        };
        let fits = match is_exact {
            true => *version == there.version,
            false => version_satisfied(version, &there.version),
        };
        if !fits && is_pattern(version) && self.is_newer(there, version) {
            return None;
        }
        match (fits, there.broken) {
            (true, false) => None,
            (true, true) => Some(PackageChange::Reinstall),
            (false, _) if compare_versions(self.family, version, &there.version).is_lt() => {
                Some(PackageChange::Downgrade)
            }
            (false, _) => Some(PackageChange::Upgrade),
        }
    }

    /// Whether what is installed is newer than anything that `pattern` could bring.
    fn is_newer(&self, there: &ObservedApp, pattern: &str) -> bool {
        let least = pattern.trim_end_matches(['*', '.']);
        compare_versions(self.family, &there.version, least).is_gt()
    }

    /// True where another package is desired than the one that is installed.
    fn refuse_other_package(&mut self, there: &ObservedApp) -> bool {
        let PackageTarget::Version {
            name: Some(name),
            is_exact: false,
            ..
        } = &self.target.package
        else {
            return false;
        };
        let differs = *name != there.package;
        if differs {
            let message = format!(
                "{app} is installed as package {}, and package {name} is desired. The agent does not exchange the package of an \
                 application: take {app} out of the desired state first, or desire {name} as another application",
                there.package,
                app = self.app,
            );
            self.fault(Phase::Check, Category::Invalid, message);
        }
        differs
    }

    /// A pattern never downgrades.
    fn refuse_downgrade(&mut self, there: &ObservedApp) {
        let PackageTarget::Version {
            version,
            is_exact: false,
            ..
        } = &self.target.package
        else {
            return;
        };
        if is_pattern(version) && !version_satisfied(version, &there.version) {
            let message = format!(
                "{} is installed at {}, which is newer than {version}: a version pattern never downgrades. Desire an exact \
                 version to downgrade",
                self.app, there.version
            );
            self.fault(Phase::Check, Category::Invalid, message);
        }
    }

    /// False: nothing is said of its package.
    fn install(&mut self, change: PackageChange, there: Option<&ObservedApp>) -> bool {
        let PackageTarget::Version {
            name,
            version,
            is_exact,
            source,
        } = &self.target.package
        else {
            return false;
        };
        let install = Install {
            change,
            version: version.clone(),
            is_exact: *is_exact,
            from: there.map(|there| there.version.clone()),
            source: source.clone(),
            package: there.map(|there| there.package.clone()).or_else(|| name.clone()),
        };
        let step = self.step(PackageAction::Install(install));
        self.plan.packages.push(step);
        true
    }

    /// What an application that is not there yet will need, as far as its spec tells.
    fn forecast_settling(&mut self) {
        let (ConfigTarget::Keys(config), ServicesTarget::ByRule { running, .. }) =
            (&self.target.config, &self.target.services)
        else {
            return;
        };
        let changes = config_changes(config, &Config::new());
        if !changes.is_empty() {
            let step = self.step(LaterAction::Configure { changes });
            self.plan.later.push(step);
        }
        let step = self.step(LaterAction::RunServices { running: *running });
        self.plan.later.push(step);
    }

    fn settle_all(&mut self, there: &ObservedApp) {
        self.restore_files();
        self.settle_config(there);
        self.settle_services(there);
        self.restart_outdated(there);
    }

    fn restore_files(&mut self) {
        for file in &self.target.files {
            let now = self.files.get(&file.path);
            if now.is_none_or(|now| now.content != file.content) {
                self.settle(SettleAction::RestoreFile(file.clone()));
            }
        }
    }

    fn settle_config(&mut self, there: &ObservedApp) {
        match &self.target.config {
            ConfigTarget::Keys(config) => self.settle_config_keys(config, there),
            ConfigTarget::Whole(config) => self.settle_whole_config(config, there),
        }
    }

    fn settle_config_keys(&mut self, config: &Config, there: &ObservedApp) {
        let current = match there.config.as_ref() {
            Ok(current) => current,
            Err(error) => {
                let message = format!("cannot read the config of {}: {}", self.app, error.message);
                self.fault(Phase::Configure, error.category, message);
                return;
            }
        };
        let changes = config_changes(config, current);
        // What was cut short is written again: its services may not have taken it up.
        let unfinished = there.config_unfinished && there.contract_kind() != ContractKind::None;
        if changes.is_empty() && !unfinished {
            return;
        }
        if there.contract_kind() == ContractKind::None {
            let message = format!(
                "{app} is given config, but nothing can apply it: package {package} ships neither the hook \
                 /opt/pf9/{app}/config nor the manifest /usr/share/hostagent/apps/{app}.toml. Add one to the package, \
                 write /etc/hostagent/apps/{app}.toml on the host, or leave config empty",
                app = self.app,
                package = there.package,
            );
            self.fault(Phase::Configure, Category::Invalid, message);
            return;
        }
        self.settle(SettleAction::Configure {
            config: config.clone(),
            changes,
        });
    }

    /// What cannot be read now may be just what the failed change has done to it; keys that it added go where the hook
    /// replaces the whole.
    fn settle_whole_config(&mut self, config: &Config, there: &ObservedApp) {
        // Files come first: what a manifest says of them is right then.
        let restores = self
            .plan
            .settle
            .iter()
            .any(|step| matches!(step.action, SettleAction::RestoreFile(_)));
        let is_so = (there.config.as_ref().as_ref()).is_ok_and(|current| current == config);
        if restores || config.is_empty() || is_so && !there.config_unfinished {
            return;
        }
        let changes = match there.config.as_ref() {
            Ok(current) => config_changes(config, current),
            Err(_) => config_changes(config, &Config::new()),
        };
        self.settle(SettleAction::Configure {
            config: config.clone(),
            changes,
        });
    }

    fn settle_services(&mut self, there: &ObservedApp) {
        match &self.target.services {
            ServicesTarget::ByRule { running, states } => self.services_by_rule(*running, states, there),
            ServicesTarget::Saved(services) => self.saved_services(services, there),
        }
    }

    fn services_by_rule(&mut self, running: bool, states: &BTreeMap<String, bool>, there: &ObservedApp) {
        if there.services.is_empty() && running {
            let message = format!(
                "{} is to run, but package {} ships no service (no unit, no init script, none named by a hook or \
                 manifest). Set \"running\": false, or name its services in a manifest",
                self.app, there.package,
            );
            self.fault(Phase::Service, Category::NotFound, message);
        }
        for service in states
            .keys()
            .filter(|service| !there.services.contains_key(*service))
        {
            let known: Vec<&str> = there.services.keys().map(String::as_str).collect();
            let known = if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            };
            let message = format!(
                "service_states names {service}, which is not a service of {}; its services are: {known}",
                self.app
            );
            self.fault(Phase::Service, Category::NotFound, message);
        }
        for (service, state) in &there.services {
            let wanted = states.get(service).copied().unwrap_or(running);
            match state {
                Some(state) => {
                    let target = ServiceTarget {
                        running: Some(wanted),
                        enabled: Some(wanted),
                    };
                    self.settle_service(service, *state, target);
                }
                None if there.service_errors.contains_key(service) => {
                    let error = &there.service_errors[service];
                    let message = format!(
                        "cannot tell whether service {service} of {} runs: {}",
                        self.app, error.message
                    );
                    self.fault(Phase::Service, error.category, message);
                }
                None if wanted => {
                    let message = format!(
                        "service {service} of {} does not exist on this host: its hook or manifest names it, but there is \
                         no unit or init script of that name",
                        self.app,
                    );
                    self.fault(Phase::Service, Category::NotFound, message);
                }
                None => {}
            }
        }
    }

    fn saved_services(&mut self, services: &BTreeMap<String, ServiceTarget>, there: &ObservedApp) {
        for (service, target) in services {
            match there.services.get(service).copied().flatten() {
                Some(state) => self.settle_service(service, state, *target),
                None => {
                    let message = format!("service {service} of {} is no longer there", self.app);
                    self.fault(Phase::Service, Category::NotFound, message);
                }
            }
        }
    }

    fn settle_service(&mut self, service: &str, state: ServiceState, target: ServiceTarget) {
        let service = service.to_owned();
        match (state.enabled, target.enabled) {
            (Some(false), Some(true)) => self.settle(SettleAction::Enable {
                service: service.clone(),
            }),
            (Some(true), Some(false)) => self.settle(SettleAction::Disable {
                service: service.clone(),
            }),
            (None, _) | (_, None) | (Some(true), Some(true)) | (Some(false), Some(false)) => {}
        }
        match (state.running, target.running) {
            (false, Some(true)) => self.settle(SettleAction::Start { service }),
            (true, Some(false)) => self.settle(SettleAction::Stop { service }),
            (_, None) | (true, Some(true)) | (false, Some(false)) => {}
        }
    }

    /// Services that still run the previous version, unless they are stopped now.
    fn restart_outdated(&mut self, there: &ObservedApp) {
        let stops = |service: &&String| {
            !self.plan.settle.iter().any(
                |step| matches!(&step.action, SettleAction::Stop { service: stopped } if stopped == *service),
            )
        };
        let services: Vec<String> = there.outdated.iter().filter(stops).cloned().collect();
        if !services.is_empty() {
            let step = self.step(services);
            self.plan.restarts.push(step);
        }
    }
}

/// Whether any of many versions satisfies it.
fn is_pattern(version: &str) -> bool {
    version.ends_with('*')
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
