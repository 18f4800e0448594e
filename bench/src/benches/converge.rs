//! 20 packages from a server nearby in a sandbox root, compared with the bare package manager on
//! the same files.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use harness::http::HttpServer;
use harness::packages::{Family, Package, Sandbox};
use serde_json::{Value, json};

use super::footprint::incompressible;
use crate::agent::{Agent, Caller, Options};
use crate::measure::{Row, Target};
use crate::process::Programs;
use crate::stage::Stage;

const HOST: &str = "host-1";
pub const APPS: usize = 20;
const ROUNDS: usize = 14;

pub async fn run(programs: &Programs) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for family in Family::ALL.into_iter().filter(|family| family.is_available()) {
        let manager = if family == Family::Deb { "dpkg" } else { "rpm" };
        rows.push(
            measure(programs, family, manager)
                .await
                .with_context(|| manager)?,
        );
    }
    Ok(rows)
}

async fn measure(programs: &Programs, family: Family, manager: &str) -> Result<Row> {
    let stage = Stage::new(programs).await?;
    let mut caller = Caller::new(&stage).await?;
    let server = HttpServer::start().await?;
    let folder = tempfile::tempdir()?;
    let mut files = Vec::new();
    let mut desired = serde_json::Map::new();
    for number in 0..APPS {
        let name = format!("app-{number}");
        let file = package(&name).build(family, folder.path())?;
        let url = server.put_file(&format!("/{name}.{}", family.extension()), std::fs::read(&file)?);
        desired.insert(
            name,
            json!({"version": "1.0", "url": url, "running": false, "config": {}}),
        );
        files.push(file);
    }
    let desired = Value::Object(desired);
    let mut rounds = Vec::new();
    for number in 0..ROUNDS {
        // The disk is not in the same state for the second: each comes first in half of the rounds.
        let (ours, bare) = match number % 2 {
            0 => {
                let ours = install_by_agent(&stage, &mut caller, family, &desired).await?;
                (ours, install_bare(family, &files)?)
            }
            _ => {
                let bare = install_bare(family, &files)?;
                (
                    install_by_agent(&stage, &mut caller, family, &desired).await?,
                    bare,
                )
            }
        };
        rounds.push((ours * 1e3, bare * 1e3));
    }
    let what =
        format!("agent: time to install {APPS} packages in a sandbox with {manager}, from a server nearby");
    let peer = format!("bare {manager} with the files");
    let row = Row::compared("converge", what, "ms", peer, &rounds).context("no rounds")?;
    Ok(row.target(Target::RatioAtMost(1.6)).note(
        "from set_config to the status ok: downloads, digests, dry run, journal, one transaction; packages of 1 MiB in 20 \
         files, uncompressed, without services; bake_period 0",
    ))
}

pub fn package(name: &str) -> Package {
    (0..20).fold(Package::new(name, "1.0").provides("pf9app"), |package, number| {
        package.file(
            &format!("/opt/{name}/file-{number}"),
            0o644,
            incompressible(50 << 10),
        )
    })
}

/// Writes the data of other processes to disk, so that the measured ones do not wait for it: rpm
/// syncs the whole file system, and any `fsync` may wait for earlier data.
pub fn write_back() {
    rustix::fs::sync();
}

/// Seconds to install into a new root.
async fn install_by_agent(
    stage: &Stage,
    caller: &mut Caller,
    family: Family,
    desired: &Value,
) -> Result<f64> {
    let sandbox = Sandbox::temporary(family)?;
    let agent = Agent::start(stage, &sandbox, HOST, Options::default()).await?;
    let log = || agent.log();
    caller.wait_for(HOST, |_| true).await.with_context(log)?;
    write_back();
    let took = caller.converge(HOST, desired).await.with_context(log)?;
    agent.end().await?;
    Ok(took.as_secs_f64())
}

/// Seconds to install into a new root.
fn install_bare(family: Family, files: &[PathBuf]) -> Result<f64> {
    let sandbox = Sandbox::temporary(family)?;
    let mut command = match family {
        Family::Deb => dpkg(sandbox.root()),
        Family::Rpm => rpm(&sandbox),
    };
    command.args(files).env("BACKBONE_ROOT", sandbox.root());
    write_back();
    let started = Instant::now();
    let output = command.output()?;
    let seconds = started.elapsed().as_secs_f64();
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(seconds)
}

/// With the options that the agent uses.
fn dpkg(root: &Path) -> Command {
    let mut dpkg = Command::new("dpkg");
    let root = root.display();
    dpkg.args(["--force-confdef", "--force-confold"])
        .arg(format!("--root={root}"))
        .arg(format!("--log={root}/var/log/dpkg.log"))
        .args(["--force-not-root", "--force-script-chrootless", "--install", "--"]);
    dpkg
}

fn rpm(sandbox: &Sandbox) -> Command {
    let mut rpm = Command::new("rpm");
    rpm.arg("--dbpath")
        .arg(sandbox.join("/var/lib/rpm"))
        .args([
            "--upgrade",
            "--oldpackage",
            "--replacepkgs",
            "--badreloc",
            "--relocate",
        ])
        .arg(format!("/={}", sandbox.root().display()))
        .arg("--");
    rpm
}
