//! A host whose packages are rpms: Debian's systemd, with Debian's rpm and dnf, on a database of their own.
//!
//! What that does not show: the packages of a real rpm distribution with their scripts and macros, SELinux, and yum.

use anyhow::{Context, Result};
use harness::machine::Machine;
use harness::packages::{Family, Package};

use crate::host::Host;

const FOLDER: &str = "/srv/repository";

/// Debian's rpm keeps its database in root's home, since it is not meant to be a host's own.
const MACROS: &str = "%_dbpath /var/lib/rpm\n";
/// Without releasever dnf warns, at each call.
const DNF: &str = "[main]\nreleasever=1\nkeepcache=0\n";

/// Boots it. dpkg's database is put away: the agent has to find out by itself what kind of host this is.
pub fn boot() -> Result<Host> {
    let host = Host::on(
        Machine::boot_on(&["rpm", "dnf", "createrepo-c"], &[])?,
        Family::Rpm,
    )?;
    let machine = &host.machine;
    machine.write("/etc/rpm/macros", MACROS, 0o644)?;
    machine.write("/etc/dnf/dnf.conf", DNF, 0o644)?;
    machine.sh("mv /var/lib/dpkg /var/lib/dpkg.debian; mkdir -p /var/lib/rpm; rpm --initdb")?;
    // What scripts are run by; the real one is no package of this database.
    host.install(&Package::new("shell", "1.0").provides("/bin/sh"))?;
    Ok(host)
}

/// Builds `packages` into a repository, the only one of the host.
pub fn add_repository(host: &Host, packages: &[Package]) -> Result<()> {
    let built = tempfile::tempdir()?;
    for package in packages {
        let file = package.build(Family::Rpm, built.path())?;
        let name = file
            .file_name()
            .and_then(|name| name.to_str())
            .context("a name")?;
        host.machine.copy_in(&file, &format!("{FOLDER}/{name}"))?;
    }
    let repository = format!("[local]\nname=local\nbaseurl=file://{FOLDER}\ngpgcheck=0\n");
    host.machine
        .write("/etc/yum.repos.d/local.repo", repository, 0o644)?;
    host.machine
        .sh(&format!("createrepo_c --quiet {FOLDER} 2>&1"))
        .map(|_| ())
}
