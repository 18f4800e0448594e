//! The agent on a machine with a systemd of its own.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use harness::machine::Machine;
use harness::rabbitmq::RabbitMq;
use rustix::process::{Pid, Signal, kill_process};

use crate::process::Process;
use crate::stage::{PATIENCE, Stage};

/// `hostagent run` in the machine's file system and processes, and in this host's network, where the broker is.
/// Dropped, it is left to the machine's end.
pub struct MachineAgent {
    /// Waits for the agent's end.
    nsenter: Process,
}

impl MachineAgent {
    /// Its path in the machine.
    pub const PROGRAM: &str = "/usr/bin/hostagent";

    /// Of the program that [`Self::install`] has put there. `heartbeat` in seconds.
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

    /// The program under measurement, for [`Self::start`].
    pub fn install(stage: &Stage, machine: &Machine) -> Result<()> {
        machine.copy_in(&stage.programs.get("hostagent")?, Self::PROGRAM)
    }

    pub fn log(&self) -> String {
        self.nsenter.log()
    }

    /// This host's pid of the agent itself. Call it when the agent has said something.
    pub fn id(&self) -> Result<u32> {
        let nsenter = self.nsenter.id();
        let children = fs::read_to_string(format!("/proc/{nsenter}/task/{nsenter}/children"))?;
        let id: u32 = children.trim().parse().context("the agent has ended")?;
        let name = fs::read_to_string(format!("/proc/{id}/comm"))?;
        ensure!(name.trim() == "hostagent", "{id} is {name}");
        Ok(id)
    }

    /// Asks it to end, and waits until it has.
    pub async fn end(self) -> Result<()> {
        let id = self.id()?;
        let process = i32::try_from(id).ok().and_then(Pid::from_raw);
        kill_process(process.context("a process has a number")?, Signal::TERM)?;
        let asked = Instant::now();
        while self.id().is_ok() {
            ensure!(
                asked.elapsed() < PATIENCE,
                "does not end on SIGTERM: {}",
                self.log()
            );
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        Ok(())
    }
}
