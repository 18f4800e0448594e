//! Desired and observed applications of a host, in one type, so that they can be compared.

use std::collections::BTreeMap;
use std::fmt;

use protocol::{AppSpec, Status};
use serde_json::Value;

/// The greeting in the config files of the packages.
const FIRST_GREETING: &str = "hello";

/// The desired state of one application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DesiredApp {
    pub app: &'static str,
    pub version: &'static str,
    pub running: bool,
    pub greeting: Option<&'static str>,
}

/// An application that should run with the config from its package.
pub const fn app(app: &'static str, version: &'static str) -> DesiredApp {
    DesiredApp {
        app,
        version,
        running: true,
        greeting: None,
    }
}

impl DesiredApp {
    pub const fn stopped(self) -> Self {
        Self {
            running: false,
            ..self
        }
    }

    pub const fn greeting(self, greeting: &'static str) -> Self {
        Self {
            greeting: Some(greeting),
            ..self
        }
    }

    /// As in a `set_config`.
    pub fn spec(&self, url: String) -> AppSpec {
        let config = self.greeting.map(|greeting| {
            let section = BTreeMap::from([("greeting".to_owned(), Value::from(greeting))]);
            BTreeMap::from([(self.app.to_owned(), section)])
        });
        AppSpec {
            version: self.version.to_owned(),
            url: Some(url),
            package: None,
            sha256: None,
            running: self.running,
            config: config.unwrap_or_default(),
            service_states: None,
            rank: None,
            requires: Vec::new(),
        }
    }

    /// The state that should then be observed.
    pub fn state(&self) -> AppState {
        let greeting = self.greeting.unwrap_or(FIRST_GREETING).to_owned();
        let process = self.running.then(|| Loaded {
            version: self.version.to_owned(),
            greeting: greeting.clone(),
        });
        AppState {
            package: Some(format!("{}-1", self.version)),
            greeting: Some(greeting),
            process,
        }
    }
}

/// An application on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppState {
    /// Full version in the package database.
    pub package: Option<String>,
    /// The greeting in the config file.
    pub greeting: Option<String>,
    /// Present if the process is running.
    pub process: Option<Loaded>,
}

/// What a process has loaded, as it wrote it to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    pub version: String,
    pub greeting: String,
}

/// Application -> state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedApps(pub BTreeMap<String, AppState>);

impl ObservedApps {
    /// What should be observed if these applications are desired.
    pub fn expected(desired: &[DesiredApp]) -> Self {
        Self(
            desired
                .iter()
                .map(|app| (app.app.to_owned(), app.state()))
                .collect(),
        )
    }

    /// As reported in a status. A status does not contain what a process has loaded, so that is
    /// assumed to be right.
    pub fn reported(status: &Status) -> Self {
        let app = |(name, app): (&protocol::AppName, &protocol::AppStatus)| {
            let greeting = app
                .config
                .get(name.as_str())
                .and_then(|keys| keys.get("greeting"));
            let greeting = greeting.and_then(Value::as_str).unwrap_or_default().to_owned();
            let upstream = app
                .package_version
                .rsplit_once('-')
                .map_or("", |(upstream, _)| upstream);
            let state = AppState {
                package: Some(app.package_version.clone()),
                greeting: Some(greeting.clone()),
                process: app.running.then(|| Loaded {
                    version: upstream.to_owned(),
                    greeting,
                }),
            };
            (name.to_string(), state)
        };
        Self(status.apps.iter().map(app).collect())
    }
}

impl fmt::Display for AppState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let absent = "no package".to_owned();
        write!(f, "{}", self.package.as_ref().unwrap_or(&absent))?;
        match &self.process {
            None => f.write_str(" stopped")?,
            Some(loaded) => {
                f.write_str(" running")?;
                let in_file = (self.greeting.as_deref(), self.package.as_deref());
                let upstream = in_file.1.and_then(|package| package.rsplit_once('-'));
                if upstream.map(|(upstream, _)| upstream) != Some(&*loaded.version) {
                    write!(f, " {}", loaded.version)?;
                }
                if in_file.0 != Some(&*loaded.greeting) {
                    write!(f, " with greeting {}", loaded.greeting)?;
                }
            }
        }
        match self.greeting.as_deref() {
            None | Some(FIRST_GREETING) => Ok(()),
            Some(greeting) => write!(f, " ({greeting})"),
        }
    }
}

impl fmt::Display for ObservedApps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no applications");
        }
        for (index, (name, state)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{name} {state}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_read_well() {
        let mut odd = app("shop", "1.0").greeting("bonjour").state();
        if let Some(loaded) = &mut odd.process {
            loaded.greeting = "hello".into();
        }
        let table = [
            (app("shop", "1.0").state(), "1.0-1 running"),
            (app("shop", "1.0").stopped().state(), "1.0-1 stopped"),
            (
                app("shop", "1.0").greeting("bonjour").state(),
                "1.0-1 running (bonjour)",
            ),
            (odd, "1.0-1 running with greeting hello (bonjour)"),
        ];
        for (state, expected) in table {
            assert_eq!(state.to_string(), expected);
        }
        assert_eq!(ObservedApps::default().to_string(), "no applications");
    }

    #[test]
    fn a_process_of_the_old_version_is_not_as_desired() {
        let mut found = ObservedApps::expected(&[app("shop", "2.0")]);
        assert_eq!(found, ObservedApps::expected(&[app("shop", "2.0")]));
        if let Some(loaded) = found.0.get_mut("shop").and_then(|shop| shop.process.as_mut()) {
            loaded.version = "1.0".into();
        }
        assert_ne!(found, ObservedApps::expected(&[app("shop", "2.0")]));
        assert_eq!(found.to_string(), "shop 2.0-1 running 1.0");
    }
}
