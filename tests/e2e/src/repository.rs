//! A repository of packages inside a machine, which apt there may use.

use anyhow::{Context, Result};
use harness::machine::Machine;
use harness::packages::{Family, Package};

const FOLDER: &str = "/srv/repository";

/// Builds `packages` into a repository, the only one of the machine.
pub fn add(machine: &Machine, packages: &[Package]) -> Result<()> {
    let built = tempfile::tempdir()?;
    let mut index = String::new();
    for package in packages {
        let file = package.build(Family::Deb, built.path())?;
        let name = file
            .file_name()
            .and_then(|name| name.to_str())
            .context("a name")?;
        let path = format!("{FOLDER}/{name}");
        machine.copy_in(&file, &path)?;
        index += &machine.sh(&format!(
            "dpkg-deb -f {path}; echo Filename: ./{name}; stat -c 'Size: %s' {path}; \
             echo SHA256: $(sha256sum < {path} | cut -d' ' -f1); echo"
        ))?;
    }
    machine.write(&format!("{FOLDER}/Packages"), index, 0o644)?;
    let source = format!("deb [trusted=yes] file:{FOLDER} ./\n");
    machine.write("/etc/apt/sources.list", source, 0o644)?;
    machine.sh("apt-get update 2>&1").map(|_| ())
}
