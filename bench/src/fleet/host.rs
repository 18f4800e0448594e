//! One simulated host: the protocol of an agent, without anything below it.
//!
//! No I/O and no timers, so that 100,000 hosts fit into one process, and tests do not wait.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::status::{AgentInfo, Health, ServiceStatus};
use protocol::{
    AppName, AppSpec, AppStatus, Apps, Category, ErrorReport, HostId, Inbound, Phase, SetConfig, State,
    Status, apps_satisfied,
};
use serde_json::Value;
use tokio::time::Instant;

use super::script::Script;

/// A host that follows a script.
pub struct Host {
    pub id: HostId,
    random: fastrand::Rng,
    boot_id: String,
    seq: u64,
    started: Instant,
    /// The installed applications.
    apps: Apps,
    desired: Option<Apps>,
    generation: Option<u64>,
    progress: Progress,
}

enum Progress {
    Ok,
    /// Until `done`; then it has converged or failed.
    Converging {
        done: Instant,
    },
    Failed,
}

/// What a host does after a message or an alarm.
#[derive(Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Send a status, in answer to the message with this `id`.
    Report {
        reply_to: Option<String>,
    },
    /// The same, and wake the host after this time.
    ReportAndWake {
        reply_to: Option<String>,
        after: Duration,
    },
    Nothing,
}

impl Host {
    /// Host number `number` of a fleet. Only its `boot_id` differs between two calls.
    pub fn new(number: usize, prefix: &str, script: &Script) -> Result<Self, protocol::name::NameError> {
        let apps = (0..script.applications)
            .map(|app| Ok((AppName::new(format!("app_{app}"))?, installed_from_start())))
            .collect::<Result<Apps, protocol::name::NameError>>()?;
        let mut host = Self {
            id: HostId::new(format!("{prefix}{number:06}"))?,
            random: fastrand::Rng::with_seed(number as u64),
            boot_id: String::new(),
            seq: 0,
            started: Instant::now(),
            apps,
            desired: None,
            generation: None,
            progress: Progress::Ok,
        };
        host.restart();
        Ok(host)
    }

    /// Restarts its agent: a new `boot_id`, `seq` from 1, and a running change finishes at once.
    pub fn restart(&mut self) {
        self.boot_id = format!("{:016x}", fastrand::u64(..));
        self.seq = 0;
        self.started = Instant::now();
        if let Progress::Converging { done } = &mut self.progress {
            *done = Instant::now();
        }
    }

    pub fn random(&mut self) -> &mut fastrand::Rng {
        &mut self.random
    }

    pub fn handle(&mut self, message: Inbound, script: &Script) -> Reaction {
        match message {
            Inbound::Ping { id } => Reaction::Report { reply_to: id },
            // Simulated hosts do not plan.
            Inbound::Plan { .. } | Inbound::Unknown { .. } => Reaction::Nothing,
            Inbound::SetConfig(set) => self.accept(set, script),
        }
    }

    fn accept(&mut self, set: SetConfig, script: &Script) -> Reaction {
        let reply_to = set.id;
        if set.generation.is_some() && self.generation > set.generation {
            return Reaction::Report { reply_to };
        }
        self.generation = set.generation;
        let satisfied = apps_satisfied(&set.apps, &self.installed());
        self.desired = Some(set.apps);
        if satisfied {
            self.progress = Progress::Ok;
            return Reaction::Report { reply_to };
        }
        let after = script.draw_install_time(&mut self.random);
        self.progress = Progress::Converging {
            done: Instant::now() + after,
        };
        Reaction::ReportAndWake { reply_to, after }
    }

    /// Finishes a change that is due.
    pub fn wake(&mut self, script: &Script) -> Reaction {
        let Progress::Converging { done } = &self.progress else {
            return Reaction::Nothing;
        };
        // A newer desired state has replaced the change, and has an alarm of its own.
        if Instant::now() < *done {
            return Reaction::Nothing;
        }
        if script.draw_failure(&mut self.random) {
            self.progress = Progress::Failed;
        } else {
            self.apps = self.desired.clone().unwrap_or_default();
            self.progress = Progress::Ok;
        }
        Reaction::Report { reply_to: None }
    }

    pub fn state(&self) -> State {
        match self.progress {
            Progress::Ok => State::Ok,
            Progress::Converging { .. } => State::Converging,
            Progress::Failed => State::Errors,
        }
    }

    /// Its current status, encoded: about 1.5 kB with two applications.
    pub fn status(&mut self, reply_to: Option<String>, timestamp: &str) -> Vec<u8> {
        self.seq += 1;
        let state = self.state();
        let failed = (state == State::Errors).then(|| ErrorReport {
            app: self.apps.keys().next().cloned(),
            phase: Phase::Install,
            category: Category::Script,
            message: "simulated failure of the package's script".to_owned(),
            attempt: 1,
            next_retry: None,
            rolled_back: true,
        });
        let id = self.id.as_str();
        let fact = |name: &str, value: &str| (name.to_owned(), Value::from(value));
        Status {
            host_id: self.id.clone(),
            status: state,
            detail: None,
            info: BTreeMap::from([
                fact("hostname", &format!("{}.example.net", id.to_lowercase())),
                fact("os_family", "Linux"),
                fact("arch", "x86_64"),
                fact("os_info", "debian 12 bookworm"),
                fact("kernel", "6.1.0-28-amd64"),
                ("cpus".to_owned(), Value::from(8)),
                ("memory_kib".to_owned(), Value::from(16_303_208)),
            ]),
            apps: self.installed(),
            desired_apps: (state != State::Ok).then(|| self.desired.clone()).flatten(),
            errors: failed.into_iter().collect(),
            last_rejected: None,
            host_agent: AgentInfo {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                uptime_s: self.started.elapsed().as_secs(),
                rss_kib: 6100,
            },
            generation: self.generation,
            reply_to,
            seq: self.seq,
            boot_id: self.boot_id.clone(),
            timestamp: timestamp.to_owned(),
        }
        .encode()
    }

    fn installed(&self) -> BTreeMap<AppName, AppStatus> {
        self.apps
            .iter()
            .map(|(name, spec)| (name.clone(), as_installed(name, spec)))
            .collect()
    }
}

fn as_installed(name: &AppName, spec: &AppSpec) -> AppStatus {
    let package = spec.package.clone().unwrap_or_else(|| name.to_string());
    let service = ServiceStatus {
        running: spec.running,
        enabled: spec.running,
    };
    AppStatus {
        version: spec.version.clone(),
        package_version: spec.version.clone(),
        services: BTreeMap::from([(package.clone(), service)]),
        package,
        url: spec.url.clone(),
        running: spec.running,
        config: spec.config.clone(),
        health: Health::Ok,
        config_age_s: Some(3),
    }
}

fn installed_from_start() -> AppSpec {
    let values = [
        ("debug", Value::from(false)),
        ("port", Value::from(8158)),
        ("workers", Value::from(4)),
    ];
    let section = values.map(|(key, value)| (key.to_owned(), value)).into();
    AppSpec {
        version: "1.0.2-3".to_owned(),
        url: None,
        package: None,
        sha256: None,
        running: true,
        config: BTreeMap::from([("DEFAULT".to_owned(), section)]),
        service_states: None,
        rank: None,
        requires: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{Limits, decode};

    fn deliver(host: &mut Host, script: &Script, message: &str) -> Reaction {
        host.handle(decode(message.as_bytes(), Limits::default()).unwrap(), script)
    }

    fn status_of(host: &mut Host) -> Status {
        Status::decode(&host.status(None, ""), Limits::default()).unwrap()
    }

    const SET: &str =
        r#"{"opcode": "set_config", "id": "x", "generation": 5, "data": {"foo": {"version": "2"}}}"#;

    #[tokio::test(start_paused = true)]
    async fn a_change_is_reported_as_converging_and_then_as_ok() {
        let second = Duration::from_secs(1);
        let script = Script {
            install_time: second..=second,
            ..Script::default()
        };
        let mut host = Host::new(7, "H", &script).unwrap();
        assert_eq!(host.id.as_str(), "H000007");
        assert_eq!(status_of(&mut host).apps.len(), 2);
        let reply_to = Some("x".to_owned());
        let after = second;
        assert_eq!(
            deliver(&mut host, &script, SET),
            Reaction::ReportAndWake { reply_to, after }
        );
        let status = status_of(&mut host);
        assert_eq!((status.status, status.generation), (State::Converging, Some(5)));
        assert_eq!(host.wake(&script), Reaction::Nothing);
        tokio::time::advance(second).await;
        assert_eq!(host.wake(&script), Reaction::Report { reply_to: None });
        let status = status_of(&mut host);
        assert_eq!((status.status, status.seq, status.apps.len()), (State::Ok, 3, 1));
        // The same message again changes nothing.
        let reply_to = Some("x".to_owned());
        assert_eq!(deliver(&mut host, &script, SET), Reaction::Report { reply_to });
        assert_eq!(host.state(), State::Ok);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_reported_and_older_generations_rejected() {
        let script = Script {
            failure_rate: 1.0,
            ..Script::default()
        };
        let mut host = Host::new(1, "H", &script).unwrap();
        deliver(&mut host, &script, SET);
        host.wake(&script);
        let status = status_of(&mut host);
        assert_eq!((status.status, status.errors.len()), (State::Errors, 1));
        assert_eq!(status.apps.len(), 2, "rolled back");
        deliver(&mut host, &script, &SET.replace('5', "4").replace("foo", "bar"));
        assert!(
            status_of(&mut host)
                .desired_apps
                .unwrap()
                .keys()
                .all(|app| app.as_str() == "foo")
        );
    }

    #[tokio::test]
    async fn a_restart_counts_from_one_with_another_boot_id() {
        let mut host = Host::new(1, "H", &Script::default()).unwrap();
        let before = status_of(&mut host);
        host.restart();
        let after = status_of(&mut host);
        assert_ne!(before.boot_id, after.boot_id);
        assert_eq!((before.seq, after.seq), (1, 1));
    }
}
