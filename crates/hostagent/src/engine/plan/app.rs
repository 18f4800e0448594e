//! What one application needs.

use protocol::satisfied::{same_value, version_satisfied};
use protocol::{AppName, AppSpec, Category, Config, Phase};

use super::steps::{Action, Change, ConfigChange, Fault, Install, Step};
use crate::engine::observe::ObservedApp;
use host::download::url_for_family;
use host::packages::compare_versions;
use host::{ContractKind, Family};

/// Collects what one application needs.
pub(super) struct AppPlanner<'a> {
    pub(super) app: &'a AppName,
    pub(super) spec: &'a AppSpec,
    pub(super) family: Family,
    pub(super) packages: Vec<Step>,
    pub(super) settle: Vec<Step>,
    pub(super) faults: Vec<Fault>,
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

    pub(super) fn install_anew(&mut self) {
        self.install(Change::Install, None);
        self.forecast_settling();
    }

    pub(super) fn bring_up_to_date(&mut self, there: &ObservedApp) {
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
        let current = match there.config.as_ref() {
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

    fn settle_service(&mut self, service: &str, state: Option<host::ServiceState>) {
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
