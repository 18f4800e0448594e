//! Our own packages, in machines: installed, upgraded, removed, purged.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::agent_package::program;
use harness::machine::{self, Machine};

/// The version of this workspace, which packages made before have.
const CURRENT: &str = env!("CARGO_PKG_VERSION");

/// Packs the programs that cargo has built beside this test. Those of the current version are taken from the folder
/// `$BACKBONE_PACKAGES` instead, where that is set: `make package && BACKBONE_PACKAGES=$PWD/target/packages make e2e`.
pub fn packages(version: &str, out: &Path) -> Result<()> {
    if version == CURRENT
        && let Some(made) = std::env::var_os("BACKBONE_PACKAGES")
    {
        return take(Path::new(&made), out);
    }
    let built = program("hostagent")?;
    let built = built.parent().context("the folder of the build")?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/build-packages");
    let output = Command::new(script)
        .args(["--version", version, "--out"])
        .arg(out)
        .arg("--built")
        .arg(built)
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn take(made: &Path, out: &Path) -> Result<()> {
    let files = std::fs::read_dir(made).with_context(|| format!("BACKBONE_PACKAGES={}", made.display()))?;
    for file in files.flatten() {
        let name = file.file_name();
        let is_package = [".deb", ".rpm"]
            .iter()
            .any(|end| name.to_string_lossy().ends_with(end));
        if is_package && name.to_string_lossy().contains(CURRENT) {
            std::fs::copy(file.path(), out.join(name))?;
        }
    }
    Ok(())
}

fn deb(folder: &Path, name: &str, version: &str) -> Result<PathBuf> {
    let start = format!("{name}_{version}-1_");
    let file = std::fs::read_dir(folder)?
        .flatten()
        .find(|file| file.file_name().to_string_lossy().starts_with(&start));
    Ok(file.with_context(|| format!("no {start}*.deb was built"))?.path())
}

fn install(machine: &Machine, file: &Path) -> Result<String> {
    let name = file
        .file_name()
        .and_then(|name| name.to_str())
        .context("a name")?;
    let path = format!("/srv/{name}");
    machine.copy_in(file, &path)?;
    machine.sh(&format!("dpkg -i {path} 2>&1"))
}

#[test]
fn our_packages_are_installed_upgraded_removed_and_purged() -> Result<()> {
    if machine::skip("our_packages_are_installed_upgraded_removed_and_purged") {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    for version in ["0.1.0", "0.2.0"] {
        packages(version, folder.path())?;
    }
    let machine = Machine::boot()?;
    for name in ["hostagent", "bbctl"] {
        install(&machine, &deb(folder.path(), name, "0.1.0")?)?;
    }

    // A first installation starts nothing: there is no broker yet.
    assert_eq!(
        machine.sh("systemctl is-active hostagent || true")?.trim(),
        "inactive"
    );
    assert_eq!(
        machine.sh("systemctl is-enabled hostagent || true")?.trim(),
        "disabled"
    );
    assert_eq!(
        machine.sh("stat -c '%a %U' /etc/pf9/hostagent.conf /etc/pf9/hostagent.conf.d /var/lib/hostagent")?,
        "600 root\n700 root\n700 root\n"
    );
    machine.sh("hostagent check-config && bbctl --version")?;
    machine.sh(
        "test -s /usr/share/man/man1/hostagent.1.gz && test -s /usr/share/bash-completion/completions/bbctl",
    )?;

    // Upgraded while it runs: settings stay, the new one runs.
    machine.sh("printf '[amqp]\\nhost = 127.0.0.1\\n' > /etc/pf9/hostagent.conf.d/site.conf")?;
    machine.sh("sed -i 's/#heartbeat_period = 60/heartbeat_period = 30/' /etc/pf9/hostagent.conf")?;
    machine.sh("systemctl enable --now hostagent 2>&1")?;
    let before = machine.sh("systemctl show -P MainPID hostagent")?;
    install(&machine, &deb(folder.path(), "hostagent", "0.2.0")?)?;
    machine.sh(&format!(
        "timeout 30 sh -c 'until systemctl is-active -q hostagent && [ $(systemctl show -P MainPID hostagent) != {} ]; do sleep 0.2; done'",
        before.trim()
    ))?;
    assert_eq!(
        machine.sh("grep ^heartbeat /etc/pf9/hostagent.conf")?.trim(),
        "heartbeat_period = 30"
    );

    // Removed: stopped, its memory stays. Purged: that goes too.
    machine.sh("dpkg -r hostagent 2>&1")?;
    assert_eq!(machine.sh("pgrep -x hostagent || echo none")?.trim(), "none");
    machine.sh("test -e /etc/pf9/hostagent.conf && test -d /var/lib/hostagent")?;
    machine.sh("dpkg -P hostagent 2>&1")?;
    machine.sh("! test -e /etc/pf9 && ! test -e /var/lib/hostagent && ! test -e /var/cache/pf9apps")?;

    // The master runs as a user of its own, who may read its settings.
    install(&machine, &deb(folder.path(), "bbmaster", "0.1.0")?)?;
    assert_eq!(
        machine.sh("stat -c '%a %U %G' /etc/pf9/bbmaster.conf /var/lib/bbmaster")?,
        "640 root bbmaster\n700 bbmaster bbmaster\n"
    );
    machine.sh("systemctl start bbmaster && systemctl is-active bbmaster")?;
    machine
        .sh("grep -qP \"^Uid:\\t$(id -u bbmaster)\\t\" /proc/$(systemctl show -P MainPID bbmaster)/status")?;
    machine.sh("dpkg -P bbmaster bbctl 2>&1 && ! test -e /etc/pf9 && ! test -e /var/lib/bbmaster")?;
    Ok(())
}

#[test]
fn our_rpms_hold_what_our_debs_hold() -> Result<()> {
    let folder = tempfile::tempdir()?;
    packages("0.1.0", folder.path())?;
    for name in ["hostagent", "bbmaster", "bbctl"] {
        let rpm = format!(
            "{}/{name}-0.1.0-1.{}.rpm",
            folder.path().display(),
            std::env::consts::ARCH
        );
        let listed = Command::new("rpm").args(["-qlp", &rpm]).output()?;
        ensure!(
            listed.status.success(),
            "{}",
            String::from_utf8_lossy(&listed.stderr)
        );
        let in_rpm = lines(&listed.stdout, |line| line.to_owned());
        let listed = Command::new("dpkg-deb")
            .arg("-c")
            .arg(deb(folder.path(), name, "0.1.0")?)
            .output()?;
        let in_deb = lines(&listed.stdout, |line| {
            line.split_whitespace()
                .last()
                .unwrap_or_default()
                .trim_start_matches('.')
                .trim_end_matches('/')
                .to_owned()
        });
        // The deb names every folder on the way.
        let missing: Vec<_> = in_rpm.iter().filter(|path| !in_deb.contains(path)).collect();
        assert_eq!(missing, Vec::<&String>::new(), "in {name}'s rpm only");
        let files = in_deb.iter().filter(|path| !is_folder(path, &in_deb));
        let missing: Vec<_> = files.filter(|path| !in_rpm.contains(path)).collect();
        assert_eq!(missing, Vec::<&String>::new(), "in {name}'s deb only");
    }
    Ok(())
}

/// On the way to another path.
fn is_folder(path: &str, paths: &[String]) -> bool {
    paths.iter().any(|other| other.starts_with(&format!("{path}/")))
}

fn lines(output: &[u8], path: impl Fn(&str) -> String) -> Vec<String> {
    String::from_utf8_lossy(output).lines().map(path).collect()
}
