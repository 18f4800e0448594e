//! A real host: a systemd-nspawn container with its own systemd as PID 1, D-Bus, dpkg, network
//! interface and MAC address. Several can run at the same time.
//!
//! Needs root and the packages systemd-container, debootstrap and iproute2; see [`skip_reason`].

use std::fs::{self, File};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

mod forward;
mod rootfs;

pub use forward::Forward;

/// On an idle computer a boot takes 3 s.
const BOOT_DEADLINE: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(20);

/// Why machines cannot be used here; `None`: they can.
pub fn skip_reason() -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    if uid.and_then(|ids| ids.split_whitespace().nth(1)) != Some("0") {
        return Some("needs root, for systemd-nspawn".into());
    }
    let programs = [
        ("systemd-nspawn", "systemd-container"),
        ("debootstrap", "debootstrap"),
        ("ip", "iproute2"),
        ("nsenter", "util-linux"),
        ("setpriv", "util-linux"),
    ];
    let missing = programs.iter().find(|(program, _)| !is_installed(program));
    missing.map(|(program, package)| format!("needs {program}, from the package {package}"))
}

/// Whether the test `name` must be skipped because machines cannot be used here. Prints the reason.
/// Use it as `if machine::skip("name") { return; }`.
pub fn skip(name: &str) -> bool {
    let reason = skip_reason();
    if let Some(reason) = &reason {
        crate::skip::skipped(name, reason);
    }
    reason.is_some()
}

fn is_installed(program: &str) -> bool {
    let folders = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];
    folders
        .iter()
        .any(|folder| Path::new(folder).join(program).exists())
}

/// A booted machine. When dropped, it is killed and its disk is deleted.
pub struct Machine {
    name: String,
    /// The lower layers of its disk, the uppermost first.
    disks: Vec<PathBuf>,
    arguments: Vec<String>,
    nspawn: Child,
    /// This computer's pid of the machine's PID 1.
    leader: u32,
    /// This computer's address in the machine's network.
    network: Ipv4Addr,
    /// Contains the console's output and the upper layer of the machine's disk.
    folder: tempfile::TempDir,
}

/// Mounts the machine's disk as an overlay over the common disks, and boots it. In a separate mount
/// namespace, so that nothing stays mounted when the test ends, even if it is killed.
const BOOT: &str = r#"
folder=$1 disks=$2; shift 2
mkdir -p "$folder/upper" "$folder/work" "$folder/root"
mount -t overlay overlay -o "lowerdir=$disks,upperdir=$folder/upper,workdir=$folder/work" "$folder/root"
exec systemd-nspawn --quiet -D "$folder/root" "$@"
"#;
/// The exit code of systemd-nspawn when the machine reboots.
const REBOOT: i32 = 133;

impl Machine {
    /// Boots Debian 12 on a new disk. The first time this takes one minute, because the common disk
    /// is created and cached in the folder `$BACKBONE_CACHE` or `~/.cache/backbone`.
    pub fn boot() -> Result<Self> {
        Self::boot_with(&[])
    }

    /// As [`Self::boot`], with more arguments for systemd-nspawn (`--bind-ro=...`).
    pub fn boot_with(arguments: &[&str]) -> Result<Self> {
        Self::boot_on(&[], arguments)
    }

    /// As [`Self::boot_with`], with these packages of the distribution on the disk. The disk is
    /// cached as well.
    pub fn boot_on(packages: &[&str], arguments: &[&str]) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let disks = rootfs::with_packages(packages).context("cannot create the machine's disk")?;
        // At most 12 characters: with a longer name the interface is not named ve-NAME.
        let name = format!(
            "bb{}x{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let folder = tempfile::tempdir()?;
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let nspawn = spawn(&name, &disks, &arguments, folder.path())?;
        let mut machine = Self {
            name,
            disks,
            arguments,
            nspawn,
            leader: 0,
            network: Ipv4Addr::UNSPECIFIED,
            folder,
        };
        machine.wait_for_boot()?;
        // A network of four addresses, derived from the pid of PID 1, which is unique. A reboot
        // keeps the network.
        let base = u32::from(Ipv4Addr::new(10, 192, 0, 0)) + (machine.leader % (1 << 20)) * 4;
        machine.network = Ipv4Addr::from(base + 1);
        Ok(machine)
    }

    /// Puts the disk for [`Self::boot_on`] together, unless it is kept from before.
    pub fn prepare_disk(packages: &[&str]) -> Result<()> {
        rootfs::with_packages(packages).map(|_| ())
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// This computer's pid of the machine's PID 1. It changes with a reboot.
    pub fn leader(&self) -> u32 {
        self.leader
    }

    /// The output on its console.
    pub fn console(&self) -> String {
        let bytes = fs::read(self.folder.path().join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The machine's `path`, as seen from outside. It changes with a reboot.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.leader)).join(path.trim_start_matches('/'))
    }

    /// Runs a program inside.
    pub fn run(&self, argv: &[&str]) -> Result<Output> {
        self.command(argv)
            .output()
            .with_context(|| format!("cannot run {argv:?}"))
    }

    /// Runs a shell script inside. Returns its output if it succeeds.
    pub fn sh(&self, script: &str) -> Result<String> {
        let output = self.run(&["sh", "-ec", script])?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{script:?} in {}: {}: {stdout}{stderr}",
            self.name,
            output.status
        );
        Ok(stdout)
    }

    /// A command that runs a program inside. The caller spawns it.
    pub fn command(&self, argv: &[&str]) -> Command {
        let mut command = self.enter(&["--all", "--root", "--wd"]);
        command.args(argv).stdin(Stdio::null());
        command
    }

    /// Writes a file inside. An existing file is replaced atomically.
    pub fn write(&self, path: &str, bytes: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        // Not through /proc/PID/root, because an absolute link in the path would lead out of the
        // machine.
        let script = r#"mkdir -p "$(dirname "$1")"; cat >"$1.new"; chmod "$2" "$1.new"; mv "$1.new" "$1""#;
        let mode = format!("{mode:o}");
        let mut command = self.command(&["sh", "-ec", script, "sh", path, &mode]);
        let mut child = command.stdin(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(bytes.as_ref())?;
        }
        let status = child.wait()?;
        ensure!(status.success(), "cannot write {path} in {}: {status}", self.name);
        Ok(())
    }

    /// Copies a file of this computer into the machine, with its mode.
    pub fn copy_in(&self, from: &Path, to: &str) -> Result<()> {
        let bytes = fs::read(from).with_context(|| from.display().to_string())?;
        self.write(to, bytes, fs::metadata(from)?.permissions().mode() & 0o7777)
    }

    /// Installs packages of the distribution with their dependencies. The first time they are
    /// downloaded and cached.
    pub fn install_distribution_packages(&self, names: &[&str]) -> Result<()> {
        let folder = rootfs::packages(names)?;
        for file in fs::read_dir(&folder)?.flatten() {
            let name = file.file_name();
            self.copy_in(
                &file.path(),
                &format!("/srv/distribution/{}", name.to_string_lossy()),
            )?;
        }
        self.sh("DEBIAN_FRONTEND=noninteractive dpkg -i /srv/distribution/*.deb 2>&1")
            .map(|_| ())
    }

    /// Sets the addresses of the machine's network. Returns this computer's address and the
    /// machine's.
    pub fn connect_network(&self) -> Result<(Ipv4Addr, Ipv4Addr)> {
        let (host, guest) = (self.network, Ipv4Addr::from(u32::from(self.network) + 1));
        let outside = self.interface();
        succeed(Command::new("ip").args(["address", "replace", &format!("{host}/30"), "dev", &outside]))?;
        succeed(Command::new("ip").args(["link", "set", &outside, "up"]))?;
        let inside = |arguments: &[&str]| succeed(self.enter(&["--net"]).arg("ip").args(arguments));
        inside(&["address", "replace", &format!("{guest}/30"), "dev", "host0"])?;
        inside(&["link", "set", "lo", "up"])?;
        inside(&["link", "set", "host0", "up"])?;
        Ok((host, guest))
    }

    /// Forwards `port` from this computer's address in the machine's network to this computer's
    /// loopback. The network must be connected.
    pub async fn forward(&self, port: u16) -> Result<Forward> {
        Forward::start(self.network, port).await
    }

    /// Disconnects the network.
    pub fn cut_network(&self) -> Result<()> {
        succeed(Command::new("ip").args(["link", "set", &self.interface(), "down"]))
    }

    /// Connects the network again.
    pub fn restore_network(&self) -> Result<()> {
        succeed(Command::new("ip").args(["link", "set", &self.interface(), "up"]))
    }

    /// Reboots in an orderly way, keeping the disk.
    pub fn reboot(&mut self) -> Result<()> {
        // The reboot may kill this command.
        let _ = self.run(&["systemctl", "--no-block", "reboot"])?;
        let status = self.wait_for_end()?;
        ensure!(
            status.code() == Some(REBOOT),
            "{} ended with {status}:\n{}",
            self.name,
            self.console()
        );
        self.nspawn = spawn(&self.name, &self.disks, &self.arguments, self.folder.path())?;
        self.wait_for_boot()
    }

    /// Ends it as a power cut does.
    pub fn kill(self) {}

    /// Ends it as a power cut does, and boots it again with the same disk. Unlike in a real power
    /// cut, data that was written but not synced is not lost.
    pub fn power_cut(&mut self) -> Result<()> {
        succeed(Command::new("kill").args(["-KILL", &self.leader.to_string()]))?;
        self.wait_for_end()?;
        self.nspawn = spawn(&self.name, &self.disks, &self.arguments, self.folder.path())?;
        self.wait_for_boot()
    }

    fn interface(&self) -> String {
        format!("ve-{}", self.name)
    }

    fn enter(&self, namespaces: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.leader.to_string()])
            .args(namespaces)
            .arg("--")
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            );
        command
    }

    /// Waits until systemd-nspawn ends.
    fn wait_for_end(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + BOOT_DEADLINE;
        loop {
            if let Some(status) = self.nspawn.try_wait()? {
                return Ok(status);
            }
            ensure!(
                Instant::now() < deadline,
                "{} does not end:\n{}",
                self.name,
                self.console()
            );
            std::thread::sleep(POLL);
        }
    }

    fn wait_for_boot(&mut self) -> Result<()> {
        let deadline = Instant::now() + BOOT_DEADLINE;
        loop {
            if let Some(status) = self.nspawn.try_wait()? {
                bail!("systemd-nspawn ended with {status}:\n{}", self.console());
            }
            if self.is_up()? {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{} does not boot:\n{}",
                self.name,
                self.console()
            );
            std::thread::sleep(POLL);
        }
    }

    fn is_up(&mut self) -> Result<bool> {
        let Some(leader) = child_of(self.nspawn.id()) else {
            return Ok(false);
        };
        self.leader = leader;
        if !self.path("/run/dbus/system_bus_socket").exists() {
            return Ok(false);
        }
        let output = self.run(&["systemctl", "is-system-running"])?;
        let state = String::from_utf8_lossy(&output.stdout);
        // Degraded: some units of the distribution fail in containers.
        Ok(["running", "degraded"].contains(&state.trim()))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Killing PID 1 ends all processes inside, and then systemd-nspawn ends.
        if let Some(leader) = child_of(self.nspawn.id()) {
            let _ = Command::new("kill").args(["-KILL", &leader.to_string()]).status();
        } else {
            let _ = self.nspawn.kill();
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        while let Ok(None) = self.nspawn.try_wait() {
            if Instant::now() > deadline {
                let _ = self.nspawn.kill();
                let _ = self.nspawn.wait();
                return;
            }
            std::thread::sleep(POLL);
        }
    }
}

fn spawn(name: &str, disks: &[PathBuf], arguments: &[String], folder: &Path) -> Result<Child> {
    let console = File::options()
        .create(true)
        .append(true)
        .open(folder.join("console"))?;
    let disks: Vec<_> = disks.iter().map(|disk| disk.to_string_lossy()).collect();
    // It ends when this test ends, even if the test is killed.
    Command::new("setpriv")
        .args([
            "--pdeathsig",
            "TERM",
            "unshare",
            "--mount",
            "sh",
            "-ec",
            BOOT,
            "sh",
        ])
        .arg(folder)
        .arg(disks.join(":"))
        .args([
            "--register=no",
            "--keep-unit",
            "--link-journal=no",
            "--network-veth",
            "--boot",
        ])
        .arg(format!("--machine={name}"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(console.try_clone()?)
        .stderr(console)
        .spawn()
        .context("cannot start systemd-nspawn")
}

/// The PID 1 of the machine that systemd-nspawn `pid` runs.
fn child_of(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    let child: u32 = children.split_whitespace().next()?.parse().ok()?;
    // Before it executes systemd, it is a fork of systemd-nspawn.
    let program = fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
    (program.trim() == "systemd").then_some(child)
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{command:?}: {}: {stderr}",
        output.status
    );
    Ok(())
}
