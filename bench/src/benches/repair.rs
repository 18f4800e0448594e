//! A service dies behind the agent's back, on a machine with a systemd of its own.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use harness::machine::{self, Machine};
use harness::packages::{Family, Package};
use harness::rabbitmq::RabbitMq;
use serde_json::json;

use crate::agent::Caller;
use crate::measure::{Row, Sample, Target};
use crate::process::Programs;
use crate::stage::Stage;

const HOST: &str = "machine-1";
const TIMES: usize = 7;
const UNIT: &str = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n";

pub async fn run(programs: &Programs) -> Result<Vec<Row>> {
    if let Some(reason) = machine::skip_reason() {
        bail!("{reason}");
    }
    let stage = Stage::new(programs).await?;
    let mut caller = Caller::new(&stage).await?;
    let machine = Machine::boot()?;
    machine.copy_in(&programs.get("hostagent")?, "/usr/bin/hostagent")?;
    let folder = tempfile::tempdir()?;
    let package = Package::new("app-foo", "1.0").provides("pf9app");
    let package = package.file("/usr/lib/systemd/system/app-foo.service", 0o644, UNIT);
    let file = package.build(Family::Deb, folder.path())?;
    machine.copy_in(&file, "/root/app-foo.deb")?;
    let mut agent = agent(&stage, &machine)?;
    let log = || std::fs::read_to_string(stage.path("machine-agent")).unwrap_or_default();
    caller.wait_for(HOST, |_| true).await.with_context(log)?;
    let desired = json!({"app-foo": {"version": "1.0", "url": "file:///root/app-foo.deb", "running": true, "config": {}}});
    caller.converge(HOST, &desired).await.with_context(log)?;

    let mut times = Vec::new();
    for _ in 0..TIMES {
        // Beyond the limit that keeps a flapping service from burning the host.
        tokio::time::sleep(Duration::from_secs(6)).await;
        times.push(kill_and_wait(&machine)?);
    }
    agent.kill()?;
    agent.wait()?;
    let figure = Sample::of(times).context("it was killed")?;
    let row = Row::new(
        "repair",
        "agent: service killed behind its back, until systemd runs it again",
        "s",
        figure,
    );
    Ok(vec![
        row.target(Target::FigureAtMost(1.0))
            .note("systemd in a container of its own, Restart=no"),
    ])
}

/// In the machine's file system and processes, and in this host's network, where the broker is.
fn agent(stage: &Stage, machine: &Machine) -> Result<std::process::Child> {
    let root = machine.path("/");
    let leader = root.components().nth(2).context("/proc/PID/root")?;
    let log = std::fs::File::create(stage.path("machine-agent"))?;
    let mut command = Command::new("nsenter");
    command
        .arg("--target")
        .arg(leader.as_os_str())
        .args([
            "--mount",
            "--uts",
            "--ipc",
            "--pid",
            "--root",
            "--wd",
            "--",
            "/usr/bin/hostagent",
        ])
        .args(["--config", "/dev/null"])
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(std::process::Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    for (key, value) in [
        ("hostagent.host_id", HOST.to_owned()),
        ("hostagent.bake_period", "0".to_owned()),
        ("hostagent.allow_file_urls", "true".to_owned()),
        ("hostagent.heartbeat_period", "86400".to_owned()),
        ("amqp.host", "127.0.0.1".to_owned()),
        ("amqp.port", stage.broker.port().to_string()),
        ("amqp.username", RabbitMq::USER.to_owned()),
        ("amqp.password", RabbitMq::PASSWORD.to_owned()),
        ("ssl.disable", "true".to_owned()),
    ] {
        command.arg("--set").arg(format!("{key}={value}"));
    }
    command.arg("run").spawn().context("nsenter")
}

/// Seconds until another process of the service is there.
fn kill_and_wait(machine: &Machine) -> Result<f64> {
    let process = || -> Result<Option<String>> {
        let text = machine.sh("systemctl show -P MainPID app-foo")?;
        Ok(Some(text.trim().to_owned()).filter(|id| id != "0"))
    };
    let before = process()?.context("the service runs")?;
    machine.sh(&format!("kill -KILL {before}"))?;
    let killed = Instant::now();
    loop {
        if process()?.is_some_and(|now| now != before) {
            return Ok(killed.elapsed().as_secs_f64());
        }
        ensure!(
            killed.elapsed() < Duration::from_secs(20),
            "the service stays dead"
        );
    }
}
