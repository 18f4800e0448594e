//! External changes on a machine with systemd of its own: the time until the master is told, and
//! until the agent has repaired them.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::machine::Machine;
use harness::packages::{Family, Package};
use protocol::{State, Status};
use serde_json::json;
use tokio::time::sleep;

use super::need_machines;
use crate::agent::Caller;
use crate::machine_agent::MachineAgent;
use crate::measure::{Row, Sample, Target};
use crate::process::Programs;
use crate::stage::Stage;

const HOST: &str = "machine-1";
const TIMES: usize = 5;
/// Between two changes: longer than the agent waits between restarts of a service that keeps
/// ending.
const PAUSE: Duration = Duration::from_secs(6);
const UNIT: &str = "[Service]\nExecStart=/bin/sh -c 'echo $$$$ > /var/lib/app-foo.pid; exec sleep infinity'\n\
                    [Install]\nWantedBy=multi-user.target\n";
const MANIFEST: &str =
    "services = [\"app-foo\"]\n[config.server]\nfile = \"/etc/app-foo.ini\"\nformat = \"ini\"\n";
const DESIRED: &str = "[server]\nport = 8080\n";

/// A change from outside, and how its repair is recognised.
struct ExternalChange {
    what: &'static str,
    script: &'static str,
    until: &'static str,
    path: &'static str,
    shows: fn(&str) -> bool,
    /// The command to repair it by hand, if the agent is compared with that.
    by_hand: Option<&'static str>,
}

/// As an operator would install it who wants nothing else changed.
const INSTALL: &str = "DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-remove -o Dpkg::Use-Pty=0 \
                       -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold /root/app-foo.deb";

const CHANGES: [ExternalChange; 3] = [
    ExternalChange {
        what: "service killed externally",
        script: "process=$(cat /var/lib/app-foo.pid); rm /var/lib/app-foo.pid; kill -KILL $process",
        until: "the service runs again",
        path: "/var/lib/app-foo.pid",
        shows: |text| text.ends_with('\n'),
        by_hand: None,
    },
    ExternalChange {
        what: "config file changed externally",
        script: "sed -i s/8080/9090/ /etc/app-foo.ini",
        until: "the file is as desired",
        path: "/etc/app-foo.ini",
        shows: |text| text == DESIRED,
        by_hand: None,
    },
    ExternalChange {
        what: "package removed externally",
        script: "dpkg --remove app-foo",
        until: "the package is installed again",
        path: "/var/lib/dpkg/status",
        shows: |text| text.contains("Package: app-foo\nStatus: install ok installed\n"),
        by_hand: Some(INSTALL),
    },
];

pub async fn run(programs: &Programs) -> Result<Vec<Row>> {
    need_machines()?;
    let stage = Stage::new(programs).await?;
    let mut caller = Caller::new(&stage).await?;
    let machine = Machine::boot()?;
    MachineAgent::install(&stage, &machine)?;
    let folder = tempfile::tempdir()?;
    let package = Package::new("app-foo", "1.0").provides("pf9app");
    let package = package
        .file("/usr/lib/systemd/system/app-foo.service", 0o644, UNIT)
        .file("/usr/share/hostagent/apps/app-foo.toml", 0o644, MANIFEST)
        .conffile("/etc/app-foo.ini", "[server]\nport = 1\n");
    let file = package.build(Family::Deb, folder.path())?;
    machine.copy_in(&file, "/root/app-foo.deb")?;
    let agent = MachineAgent::start(&stage, &machine, HOST, 86_400)?;
    let log = || agent.log();
    caller.wait_for(HOST, |_| true).await.with_context(log)?;
    let desired = json!({"app-foo": {"version": "1.0", "url": "file:///root/app-foo.deb", "running": true,
        "config": {"server": {"port": 8080}}}});
    caller.converge(HOST, &desired).await.with_context(log)?;

    let mut times = Vec::new();
    for change in &CHANGES {
        for _ in 0..TIMES {
            sleep(PAUSE).await;
            let seconds = change.time(&machine, &mut caller).await;
            times.push(seconds.context(change.what).with_context(log)?);
        }
    }
    agent.end().await?;
    let mut rows = Vec::new();
    for (change, times) in CHANGES.iter().zip(times.chunks(TIMES)) {
        rows.extend(change.rows(&machine, times).await?);
    }
    Ok(rows)
}

impl ExternalChange {
    /// Makes the change. Returns the seconds until the master is told, and until it is repaired.
    async fn time(&self, machine: &Machine, caller: &mut Caller) -> Result<(f64, f64)> {
        while caller.next_message(Duration::from_millis(1)).await.is_ok() {}
        machine.sh(self.script)?;
        let done = Instant::now();
        let told = async {
            caller
                .wait_for(HOST, |status: &Status| status.status != State::Ok)
                .await?;
            anyhow::Ok(done.elapsed().as_secs_f64())
        };
        let repaired = async {
            self.wait_for_repair(machine, done).await?;
            anyhow::Ok(done.elapsed().as_secs_f64())
        };
        let times = tokio::try_join!(told, repaired)?;
        caller.wait_for(HOST, |status| status.status == State::Ok).await?;
        Ok(times)
    }

    async fn wait_for_repair(&self, machine: &Machine, since: Instant) -> Result<()> {
        let path = machine.path(self.path);
        while !fs::read_to_string(&path).is_ok_and(|text| (self.shows)(&text)) {
            ensure!(
                since.elapsed() < Duration::from_secs(20),
                "not repaired within 20 s"
            );
            sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// `times`: results of [`Self::time`].
    async fn rows(&self, machine: &Machine, times: &[(f64, f64)]) -> Result<[Row; 2]> {
        let what = |until: &str| format!("agent: {}: time until {until}", self.what);
        let told = Sample::of(times.iter().map(|(told, _)| *told).collect());
        let told = Row::new(
            "repair",
            what("the master is told"),
            "s",
            told.context("no changes")?,
        );
        let repaired = times.iter().map(|(_, repaired)| *repaired);
        let until_repaired = what(self.until);
        let repaired = match self.by_hand {
            None => {
                Sample::of(repaired.collect()).map(|sample| Row::new("repair", until_repaired, "s", sample))
            }
            Some(script) => {
                let mut rounds = Vec::new();
                for repaired in repaired {
                    rounds.push((repaired, self.repair_by_hand(machine, script).await?));
                }
                Row::compared("repair", until_repaired, "s", "apt-get install by hand", &rounds)
            }
        };
        let limit = match self.by_hand {
            None => Target::FigureAtMost(1.0),
            Some(_) => Target::RatioAtMost(2.0),
        };
        let rows = [
            told.target(Target::FigureAtMost(1.0)),
            repaired.context("no changes")?.target(limit),
        ];
        Ok(rows.map(|row| {
            row.note("in a container with systemd, dpkg and apt of its own; Restart=no; a file URL")
        }))
    }

    /// Seconds, without an agent.
    async fn repair_by_hand(&self, machine: &Machine, script: &str) -> Result<f64> {
        machine.sh(self.script)?;
        let started = Instant::now();
        let mut shell = machine
            .command(&["sh", "-c", script])
            .stdout(Stdio::null())
            .spawn()?;
        self.wait_for_repair(machine, started).await?;
        let took = started.elapsed().as_secs_f64();
        ensure!(shell.wait()?.success(), "{script}");
        Ok(took)
    }
}
