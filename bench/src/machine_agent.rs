//! The agent on a machine (a container with systemd of its own).

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use harness::machine::Machine;
use harness::rabbitmq::RabbitMq;
use rustix::process::{Pid, Signal, kill_process};

use crate::process::Process;
use crate::stage::{Stage, TIMEOUT};

/// `hostagent run` in the namespaces of the machine, except for the network: the broker is in this
/// host's network. If it is dropped, the agent runs until the machine ends.
pub struct MachineAgent {
    /// Ends when the agent ends.
    nsenter: Process,
}

impl MachineAgent {
    /// Its path in the machine.
    pub const PROGRAM: &str = "/usr/bin/hostagent";

    /// Starts the program that [`Self::install`] has copied. `heartbeat` is in seconds.
    pub fn start(stage: &Stage, machine: &Machine, host_id: &str, heartbeat: u32) -> Result<Self> {
        let leader = machine.leader().to_string();
        let mut arguments: Vec<String> = ["--target", &leader, "--mount", "--uts", "--ipc", "--pid"]
            .into_iter()
            .chain(["--root", "--wd", "--", Self::PROGRAM, "--config", "/dev/null"])
            .map(str::to_owned)
            .collect();
        for (key, value) in [
            ("hostagent.host_id", host_id),
            ("hostagent.bake_period", "0"),
            ("hostagent.allow_file_urls", "true"),
            ("hostagent.heartbeat_period", &heartbeat.to_string()),
            ("amqp.host", "127.0.0.1"),
            ("amqp.port", &stage.broker.port().to_string()),
            ("amqp.username", RabbitMq::USER),
            ("amqp.password", RabbitMq::PASSWORD),
            ("ssl.disable", "true"),
        ] {
            arguments.extend(["--set".to_owned(), format!("{key}={value}")]);
        }
        arguments.push("run".to_owned());
        let log = stage.path("machine-agent");
        let nsenter = Process::start(Path::new("/usr/bin/nsenter"), &arguments, &log)?;
        Ok(Self { nsenter })
    }

    /// Copies the program under measurement into the machine.
    pub fn install(stage: &Stage, machine: &Machine) -> Result<()> {
        machine.copy_in(&stage.programs.get("hostagent")?, Self::PROGRAM)
    }

    pub fn log(&self) -> String {
        self.nsenter.log()
    }

    /// The agent's process id on this host. Call it after the agent's first message.
    pub fn id(&self) -> Result<u32> {
        let nsenter = self.nsenter.id();
        let children = fs::read_to_string(format!("/proc/{nsenter}/task/{nsenter}/children"))?;
        let id: u32 = children.trim().parse().context("the agent does not run")?;
        let name = fs::read_to_string(format!("/proc/{id}/comm"))?;
        ensure!(
            name.trim() == "hostagent",
            "process {id} is {name}, not hostagent"
        );
        Ok(id)
    }

    /// Sends SIGTERM and waits for its end.
    pub async fn end(self) -> Result<()> {
        let id = self.id()?;
        let process = i32::try_from(id).ok().and_then(Pid::from_raw);
        kill_process(process.context("the process id is not valid")?, Signal::TERM)?;
        let asked = Instant::now();
        while self.id().is_ok() {
            ensure!(
                asked.elapsed() < TIMEOUT,
                "still runs after SIGTERM; its log: {}",
                self.log()
            );
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        Ok(())
    }
}
