//! A run that changes nothing, and the memory of the daemons: the agent compared with Puppet and
//! with CFEngine, from the distribution's packages, on the same machine and for the same 20
//! packages.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::machine::Machine;
use harness::packages::{Family, Package};
use serde_json::{Map, Value, json};
use tokio::time::sleep;

use super::{Skip, need_machines};
use crate::agent::Caller;
use crate::machine_agent::MachineAgent;
use crate::measure::{Row, Target};
use crate::process::{self, Programs};
use crate::stage::{Stage, step};

const APPS: usize = 20;
const ROUNDS: usize = 5;
/// Until a daemon that was started is idle.
const IDLE_AFTER: Duration = Duration::from_secs(10);
/// GNU time, which tells the peak memory of the largest process of a run.
const TIME: &str = "/usr/bin/time";

/// A configuration manager that makes sure that packages are installed.
struct Manager {
    bench: &'static str,
    name: &'static str,
    /// The distribution's package, and what it needs besides.
    packages: &'static [&'static str],
    /// What its administrator does once.
    set_up: &'static str,
    /// File and text of a policy that says that these packages are installed.
    policy_file: &'static str,
    policy: fn(&[String]) -> String,
    run: &'static [&'static str],
    /// Whether a run has succeeded and changed nothing.
    is_no_op: fn(&Output) -> bool,
    /// Units of its daemons.
    daemons: &'static [&'static str],
}

const PUPPET: Manager = Manager {
    bench: "puppet",
    name: "Puppet",
    packages: &["puppet-agent"],
    set_up: "systemctl stop puppet",
    policy_file: "/root/site.pp",
    policy: |names| format!("package {{ ['{}']: ensure => installed }}\n", names.join("', '")),
    run: &["puppet", "apply", "--detailed-exitcodes", "/root/site.pp"],
    // With --detailed-exitcodes, 2 would mean changes, and 4 and 6 failures.
    is_no_op: |output| output.status.success(),
    daemons: &["puppet"],
};

const CFENGINE: Manager = Manager {
    bench: "cfengine",
    name: "CFEngine",
    // Its module for apt is a Python program.
    packages: &["cfengine3", "python3-minimal"],
    // As the policy of a bootstrapped host does.
    set_up: "systemctl stop 'cf*'; ln -s python3 /usr/bin/cfengine-selected-python; \
             mkdir -p /var/lib/cfengine3/modules/packages; \
             install -m 0700 /usr/share/cfengine3/masterfiles/modules/packages/vendored/apt_get.mustache \
             /var/lib/cfengine3/modules/packages/apt_get",
    policy_file: "/var/lib/cfengine3/inputs/promises.cf",
    policy: |names| {
        format!(
            "body common control\n{{\n  \
             inputs => {{ \"/usr/share/cfengine3/masterfiles/lib/packages.cf\" }};\n  \
             bundlesequence => {{ \"main\" }};\n}}\n\
             bundle agent main\n{{\nvars:\n  \"names\" slist => {{ \"{}\" }};\n\
             packages:\n  \"$(names)\" policy => \"present\", package_module => apt_get;\n}}\n",
            names.join("\", \"")
        )
    },
    // --no-lock: otherwise a second run within a minute would do nothing. --inform: name each change.
    run: &[
        "cf-agent",
        "--no-lock",
        "--inform",
        "--file",
        "/var/lib/cfengine3/inputs/promises.cf",
    ],
    is_no_op: |output| output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(),
    daemons: &["cf-execd", "cf-monitord"],
};

pub async fn puppet(programs: &Programs) -> Result<Vec<Row>> {
    compare(programs, &PUPPET).await
}

pub async fn cfengine(programs: &Programs) -> Result<Vec<Row>> {
    compare(programs, &CFENGINE).await
}

async fn compare(programs: &Programs, manager: &Manager) -> Result<Vec<Row>> {
    need_machines()?;
    if !fs::exists(TIME)? {
        return Err(Skip(format!("needs {TIME}, from the package time")).into());
    }
    Machine::prepare_disk(manager.packages).map_err(|error| cannot_install(manager, &error))?;
    let machine = Machine::boot_on(manager.packages, &[])?;
    let stage = Stage::new(programs).await?;
    MachineAgent::install(&stage, &machine)?;
    let names = install_packages(&machine)?;
    machine.sh(manager.set_up)?;
    machine.write(manager.policy_file, (manager.policy)(&names), 0o600)?;
    machine.write(DESIRED_FILE, desired(&names).to_string(), 0o600)?;
    // The first run of each may store things.
    measure(&machine, &APPLY)?;
    measure(&machine, manager.run)?;
    step("both are set up");

    let rounds = run_in_turn(&machine, manager)?;
    step("both have run");
    let theirs = resident_of_daemons(&machine, manager).await?;
    let ours = resident_of_agent(&stage, &machine).await?;
    rows(&machine, manager, &rounds, (ours, theirs))
}

/// In one line: apt's output has many.
fn cannot_install(manager: &Manager, error: &anyhow::Error) -> Skip {
    let text = format!("{error:#}");
    let line = text.lines().find(|line| line.starts_with("E: "));
    let reason = line.or_else(|| text.lines().next()).unwrap_or_default();
    Skip(format!(
        "cannot install {}: {reason}",
        manager.packages.join(", ")
    ))
}

/// Runs of the agent and of the manager.
fn run_in_turn(machine: &Machine, manager: &Manager) -> Result<Vec<(Run, Run)>> {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let ours = measure(machine, &APPLY)?;
        ensure!(
            ours.output.status.success() && ours.output.stdout == b"The host is as desired.\n",
            "hostagent apply: {:?}",
            ours.output
        );
        let theirs = measure(machine, manager.run)?;
        ensure!(
            (manager.is_no_op)(&theirs.output),
            "{} has changed something, or failed: {:?}",
            manager.name,
            theirs.output
        );
        rounds.push((ours, theirs));
    }
    Ok(rounds)
}

/// `resident`: memory of the agent and of the manager's daemons, in MiB.
fn rows(
    machine: &Machine,
    manager: &Manager,
    rounds: &[(Run, Run)],
    resident: (f64, f64),
) -> Result<Vec<Row>> {
    let version = machine.sh(&format!(
        "dpkg-query -W -f '${{Version}}' {}",
        manager.packages[0]
    ))?;
    let (name, bench) = (manager.name, manager.bench);
    let pairs = |figure: fn(&Run) -> f64| -> Vec<(f64, f64)> {
        let pair = |(ours, theirs): &(Run, Run)| (figure(ours), figure(theirs));
        rounds.iter().map(pair).collect()
    };
    let what =
        format!("agent: time of a run that changes nothing, {APPS} installed packages (hostagent apply)");
    let peer = format!("{name} {version}: {}", manager.run[0]);
    let time = Row::compared(bench, what, "ms", peer, &pairs(|run| run.milliseconds));
    let what = "agent: peak memory of a run that changes nothing";
    let peak = Row::compared(bench, what, "MiB", name, &pairs(|run| run.peak_mib));
    let peer = format!("{name}: {}", manager.daemons.join(", "));
    let daemon = Row::compared(bench, "agent: resident memory, idle", "MiB", peer, &[resident]);
    let of_runs = format!(
        "{ROUNDS} runs of each in turn in the same container, start of the program included; memory of the largest process"
    );
    let of_daemons = format!(
        "{} s after the start; {name} is not connected to a server, which would take more",
        IDLE_AFTER.as_secs()
    );
    let rows = [(time, &of_runs), (peak, &of_runs), (daemon, &of_daemons)];
    rows.into_iter()
        .map(|(row, note)| {
            Ok(row
                .context("no rounds")?
                .target(Target::RatioAtMost(1.0))
                .note(note))
        })
        .collect()
}

/// In MiB.
async fn resident_of_daemons(machine: &Machine, manager: &Manager) -> Result<f64> {
    let units = manager.daemons.join(" ");
    machine.sh(&format!("systemctl start {units}"))?;
    sleep(IDLE_AFTER).await;
    let mut kib = 0.0;
    for unit in manager.daemons {
        let script =
            format!("sed -n 's/^VmRSS://p' /proc/$(systemctl show --property MainPID --value {unit})/status");
        let line = machine.sh(&script)?;
        let number = line.split_whitespace().next().unwrap_or_default();
        kib += number
            .parse::<f64>()
            .with_context(|| format!("{unit} does not run: {line:?}"))?;
    }
    machine.sh(&format!("systemctl stop {units}"))?;
    Ok(kib / 1024.0)
}

/// In MiB, connected to a broker.
async fn resident_of_agent(stage: &Stage, machine: &Machine) -> Result<f64> {
    const HOST: &str = "machine-1";
    let mut caller = Caller::new(stage).await?;
    let agent = MachineAgent::start(stage, machine, HOST, 86_400)?;
    caller
        .wait_for(HOST, |_| true)
        .await
        .with_context(|| agent.log())?;
    sleep(IDLE_AFTER).await;
    let memory = process::memory(agent.id()?)?;
    agent.end().await?;
    Ok(memory.resident)
}

const DESIRED_FILE: &str = "/root/desired.json";
const APPLY: [&str; 9] = [
    MachineAgent::PROGRAM,
    "--config",
    "/dev/null",
    "--set",
    "hostagent.bake_period=0",
    "--set",
    "amqp.password=unused",
    "apply",
    DESIRED_FILE,
];

fn desired(names: &[String]) -> Value {
    let spec = json!({"version": "1.0", "running": false, "config": {}});
    let apps: Map<String, Value> = names.iter().map(|name| (name.clone(), spec.clone())).collect();
    apps.into()
}

/// Installs 20 small packages, which are all that the run is about; returns their names.
fn install_packages(machine: &Machine) -> Result<Vec<String>> {
    let folder = tempfile::tempdir()?;
    let mut names = Vec::new();
    for number in 0..APPS {
        let name = format!("app-{number}");
        let package = Package::new(&name, "1.0").provides("pf9app");
        let file = package.build(Family::Deb, folder.path())?;
        machine.copy_in(&file, &format!("/srv/{name}.deb"))?;
        names.push(name);
    }
    machine.sh("dpkg --install /srv/*.deb")?;
    Ok(names)
}

struct Run {
    milliseconds: f64,
    peak_mib: f64,
    output: Output,
}

/// Runs a program in the machine.
fn measure(machine: &Machine, program: &[&str]) -> Result<Run> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("peak");
    let inside = machine.command(program);
    let arguments: Vec<OsString> = inside.get_args().map(OsString::from).collect();
    let mut command = Command::new(TIME);
    command.args(["--quiet", "--format=%M", "--output"]).arg(&file);
    command.arg(inside.get_program()).args(arguments).env_clear();
    for (name, value) in inside.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let started = Instant::now();
    let output = command.output().context(TIME)?;
    let milliseconds = started.elapsed().as_secs_f64() * 1e3;
    ensure!(output.status.signal().is_none(), "{program:?}: {output:?}");
    let text = fs::read_to_string(&file)?;
    let kib: f64 = text
        .trim()
        .parse()
        .with_context(|| format!("{TIME} has written {text:?}"))?;
    Ok(Run {
        milliseconds,
        peak_mib: kib / 1024.0,
        output,
    })
}
