//! The agent as a package, as a distribution would make it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};
use harness::packages::{Moment, Package};

const PROGRAM: &str = "/usr/bin/hostagent";
const UNIT: &str = include_str!("../../../dist/hostagent.service");

/// What debhelper would write.
const AFTER_INSTALL: &str = "systemctl daemon-reload\n\
     if [ \"$ACTION\" = upgrade ]; then systemctl restart hostagent || true; else systemctl enable hostagent; fi";
const BEFORE_REMOVE: &str = "if [ \"$ACTION\" = remove ]; then systemctl disable --now hostagent; fi";

/// The agent that was built beside this test, in a package that says it is `version`.
pub fn agent_package(version: &str) -> Result<Package> {
    Ok(agent_package_with(version, std::fs::read(stripped()?)?))
}

/// A package of the agent with `program` in its place.
pub fn agent_package_with(version: &str, program: impl Into<Vec<u8>>) -> Package {
    Package::new("hostagent", version)
        .file(PROGRAM, 0o755, program)
        .file("/usr/lib/systemd/system/hostagent.service", 0o644, UNIT)
        .script(Moment::AfterInstall, AFTER_INSTALL)
        .script(Moment::BeforeRemove, BEFORE_REMOVE)
}

/// A package whose script at `moment` waits: it makes `/var/tmp/VERSION.waits`, and goes on when `/run/VERSION.may-go-on`
/// is there. Not a second time: after a power cut it is run again, and passes.
pub fn that_waits(package: Package, version: &str, moment: Moment) -> Package {
    let wait = format!(
        "waits=/var/tmp/{version}.waits\nif [ ! -e $waits ]; then\n  touch $waits\n  \
         until [ -e /run/{version}.may-go-on ]; do sleep 0.1; done\nfi\n"
    );
    let then = if moment == Moment::AfterInstall {
        AFTER_INSTALL
    } else {
        ""
    };
    package.script(moment, &format!("{wait}{then}"))
}

/// The debug build without its symbols: a third of the size, and the machines' disks are copied.
fn stripped() -> Result<&'static Path> {
    static STRIPPED: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    if let Some((_, path)) = STRIPPED.get() {
        return Ok(path);
    }
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("hostagent");
    let output = Command::new("strip")
        .arg("-o")
        .args([&path, &program("hostagent")?])
        .output()
        .context("strip, from the package binutils")?;
    ensure!(
        output.status.success(),
        "strip: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(&STRIPPED.get_or_init(|| (folder, path)).1)
}

/// A program of this workspace, which cargo has built beside this test.
pub fn program(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let path = test
        .ancestors()
        .nth(2)
        .context("the folder of the build")?
        .join(name);
    if !path.exists() {
        bail!(
            "{} is not built: `make e2e` does, or `cargo build`",
            path.display()
        );
    }
    Ok(path)
}
