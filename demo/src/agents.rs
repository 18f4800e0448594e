//! The agents: tasks of this process on the in-process bus, or `hostagent` processes on RabbitMQ.
//! Both use the same settings.

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bus::Queue;
use bus::local::LocalBroker;
use host::{self, facts};
use hostagent::agent::{Agent, Parts};
use hostagent::host_state::{HostState, Standing};
use hostagent::settings::{Settings, Sources};
use protocol::Limits;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::cli::Broker;
use crate::hosts::DemoHost;
use crate::screen::Screen;

/// Short, so that the demo need not wait for drift to be noticed.
const HEARTBEAT_S: u32 = 2;
/// Longer than any step of the package manager here. A stopping agent lets such a step finish.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// An agent that runs.
pub struct RunningAgent {
    kind: AgentKind,
    /// Prints what the agent does.
    showing: JoinHandle<()>,
}

enum AgentKind {
    Tasks(Agent),
    Process(Child),
}

/// All settings except those of the broker.
fn overrides(host: &DemoHost) -> Vec<String> {
    vec![
        format!("hostagent.host_id={}", host.id),
        format!("hostagent.root={}", host.root().display()),
        format!("hostagent.package_family={}", host.family().extension()),
        format!("hostagent.heartbeat_period={HEARTBEAT_S}"),
        "hostagent.bake_period=1".to_owned(),
    ]
}

impl RunningAgent {
    pub fn start_here(host: &DemoHost, broker: &LocalBroker, screen: &Arc<Screen>) -> Result<Self> {
        let sources = Sources {
            overrides: overrides(host),
            ..Sources::default()
        };
        let settings = Settings::load(&sources)?.settings;
        let state_dir = settings.state_dir();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&state_dir)
            .with_context(|| format!("cannot create {}", state_dir.display()))?;
        let facts_of = (settings.root(), host.name);
        let opened = host::open(settings.host_options())?;
        let family = opened.packages.family();
        let agent = Agent::start(Parts {
            host_id: host.id.clone(),
            host: opened,
            state_dir,
            link: broker.connect(Queue::of_agent(&host.id, None)),
            limits: Limits::default(),
            trusted_users: Vec::new(),
            heartbeat_period: settings.hostagent.heartbeat_period,
            bake_period: settings.hostagent.bake_period,
            max_crashes: settings.hostagent.max_converge_attempts,
            collect_facts: Box::new(move || {
                let (root, name) = &facts_of;
                let mut facts = facts::Collector::new(root, family, "sysv").collect();
                facts.insert("hostname".to_owned(), Value::from(*name));
                facts
            }),
        })?;
        let showing = tokio::spawn(show_state(agent.state.clone(), host.name, screen.clone()));
        Ok(Self {
            kind: AgentKind::Tasks(agent),
            showing,
        })
    }

    pub fn start_process(
        host: &DemoHost,
        program: &Path,
        broker: &Broker,
        screen: &Arc<Screen>,
    ) -> Result<Self> {
        let mut overrides = overrides(host);
        overrides.extend([
            format!("amqp.host={}", broker.host),
            format!("amqp.port={}", broker.port),
            format!("amqp.username={}", broker.username),
            format!("amqp.virtual_host={}", broker.virtual_host),
            "ssl.disable=true".to_owned(),
        ]);
        // An empty file, so that the machine's own settings are not read.
        let no_settings = host.root().join("etc/pf9/hostagent.conf");
        std::fs::write(&no_settings, "")?;
        let mut command = Command::new(program);
        command
            .arg("--config")
            .arg(no_settings)
            .args(overrides.iter().flat_map(|setting| ["--set", setting.as_str()]))
            .arg("run")
            .env_clear()
            .envs(
                ["HOME", "PATH", "TMPDIR"]
                    .iter()
                    .filter_map(|name| std::env::var_os(name).map(|value| (*name, value))),
            )
            // Not on the command line, which every user can read.
            .env("HOSTAGENT_AMQP_PASSWORD", broker.password())
            .current_dir(host.root())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C must reach only the demo, which then stops the agents in order.
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let log = child.stderr.take().context("the agent's log is not piped")?;
        let showing = tokio::spawn(show_log(log, host.name, screen.clone()));
        Ok(Self {
            kind: AgentKind::Process(child),
            showing,
        })
    }

    /// Stops the agent after its current step.
    pub async fn stop(self) {
        match self.kind {
            AgentKind::Tasks(agent) => {
                // If it does not stop in time, it ends with this process.
                let _ = timeout(STOP_LIMIT, agent.stop()).await;
            }
            AgentKind::Process(mut child) => {
                let process = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
                if let Some(process) = process {
                    let _ = kill_process(process, Signal::TERM);
                }
                if timeout(STOP_LIMIT, child.wait()).await.is_err() {
                    let _ = child.kill().await;
                }
            }
        }
        self.showing.abort();
    }
}

/// Prints the agent's current step when it changes.
async fn show_state(mut state: watch::Receiver<HostState>, name: &'static str, screen: Arc<Screen>) {
    let mut last = String::new();
    while state.changed().await.is_ok() {
        let detail = match &state.borrow_and_update().standing {
            Standing::Converging { detail } | Standing::Watching { detail } => detail.clone(),
            Standing::Ok | Standing::Errors(_) => String::new(),
        };
        if !detail.is_empty() && detail != last {
            screen.doing(name, &detail);
        }
        last = detail;
    }
}

/// Prints the agent's log. Each line is a JSON object, except for a panic message.
async fn show_log(log: ChildStderr, name: &'static str, screen: Arc<Screen>) {
    let mut lines = BufReader::new(log).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let shown = match serde_json::from_str::<Value>(&line) {
            Ok(entry) => readable(&entry),
            Err(_) => line,
        };
        screen.doing(name, &shown);
    }
}

fn readable(entry: &Value) -> String {
    let text = |key: &str| entry.get(key).and_then(Value::as_str);
    let mut shown = String::new();
    if let Some(level @ ("WARN" | "ERROR")) = text("level") {
        shown += &format!("{level}: ");
    }
    if let Some(app) = text("app") {
        shown += &format!("{app}: ");
    }
    shown += text("message").unwrap_or("(no message)");
    for key in ["reason", "error"] {
        if let Some(why) = text(key) {
            shown += &format!(": {why}");
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn log_lines_become_readable() {
        let table = [
            (
                json!({"level": "INFO", "message": "converging", "steps": 2}),
                "converging",
            ),
            (
                json!({"level": "INFO", "message": "start shop", "app": "shop"}),
                "shop: start shop",
            ),
            (
                json!({"level": "WARN", "message": "no broker", "reason": "refused"}),
                "WARN: no broker: refused",
            ),
            (json!({}), "(no message)"),
        ];
        for (entry, expected) in table {
            assert_eq!(readable(&entry), expected);
        }
    }
}
