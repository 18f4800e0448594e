//! How a host's applications are to be, and how they are found: one type, so that they can be compared.

use std::collections::BTreeMap;
use std::fmt;

use protocol::{AppSpec, Status};
use serde_json::Value;

/// What the packages' config files say at first.
const FIRST_GREETING: &str = "hello";

/// What the master wants of one application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub app: &'static str,
    pub version: &'static str,
    pub running: bool,
    pub greeting: Option<&'static str>,
}

/// Running, with the config that its package brings.
pub const fn wanted(app: &'static str, version: &'static str) -> Wanted {
    Wanted {
        app,
        version,
        running: true,
        greeting: None,
    }
}

impl Wanted {
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

    /// As it stands in a `set_config`.
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

    /// What is then to be found.
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
    /// In the config file.
    pub greeting: Option<String>,
    /// Present if its process is there.
    pub process: Option<Loaded>,
}

/// What a process runs with: as it said itself when it took it up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    pub version: String,
    pub greeting: String,
}

/// Application -> state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Apps(pub BTreeMap<String, AppState>);

impl Apps {
    pub fn wanted(wanted: &[Wanted]) -> Self {
        Self(
            wanted
                .iter()
                .map(|app| (app.app.to_owned(), app.state()))
                .collect(),
        )
    }

    /// As a status tells it. A status does not say what a process has loaded: taken for what it should have.
    pub fn told(status: &Status) -> Self {
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

impl fmt::Display for Apps {
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
        let mut odd = wanted("shop", "1.0").greeting("bonjour").state();
        if let Some(loaded) = &mut odd.process {
            loaded.greeting = "hello".into();
        }
        let table = [
            (wanted("shop", "1.0").state(), "1.0-1 running"),
            (wanted("shop", "1.0").stopped().state(), "1.0-1 stopped"),
            (
                wanted("shop", "1.0").greeting("bonjour").state(),
                "1.0-1 running (bonjour)",
            ),
            (odd, "1.0-1 running with greeting hello (bonjour)"),
        ];
        for (state, expected) in table {
            assert_eq!(state.to_string(), expected);
        }
        assert_eq!(Apps::default().to_string(), "no applications");
    }

    #[test]
    fn a_process_of_the_old_version_is_not_as_wanted() {
        let mut found = Apps::wanted(&[wanted("shop", "2.0")]);
        assert_eq!(found, Apps::wanted(&[wanted("shop", "2.0")]));
        if let Some(loaded) = found.0.get_mut("shop").and_then(|shop| shop.process.as_mut()) {
            loaded.version = "1.0".into();
        }
        assert_ne!(found, Apps::wanted(&[wanted("shop", "2.0")]));
        assert_eq!(found.to_string(), "shop 2.0-1 running 1.0");
    }
}
