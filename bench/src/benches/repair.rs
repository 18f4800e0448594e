//! A service dies behind the agent's back, on a machine with a systemd of its own.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use harness::machine::{self, Machine};
use harness::packages::{Family, Package};
use serde_json::json;

use crate::agent::Caller;
use crate::machine_agent::MachineAgent;
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
    MachineAgent::install(&stage, &machine)?;
    let folder = tempfile::tempdir()?;
    let package = Package::new("app-foo", "1.0").provides("pf9app");
    let package = package.file("/usr/lib/systemd/system/app-foo.service", 0o644, UNIT);
    let file = package.build(Family::Deb, folder.path())?;
    machine.copy_in(&file, "/root/app-foo.deb")?;
    let agent = MachineAgent::start(&stage, &machine, HOST, 86_400)?;
    let log = || agent.log();
    caller.wait_for(HOST, |_| true).await.with_context(log)?;
    let desired = json!({"app-foo": {"version": "1.0", "url": "file:///root/app-foo.deb", "running": true, "config": {}}});
    caller.converge(HOST, &desired).await.with_context(log)?;

    let mut times = Vec::new();
    for _ in 0..TIMES {
        // Beyond the limit that keeps a flapping service from burning the host.
        tokio::time::sleep(Duration::from_secs(6)).await;
        times.push(kill_and_wait(&machine)?);
    }
    agent.end().await?;
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
