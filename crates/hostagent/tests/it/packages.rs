//! Real dpkg and real rpm in sandbox roots.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::packages::{Family, Moment, Package, Sandbox, example_app};
use host::packages::{self, Options};
use host::{
    Applied, ApplyError, HostError, InstalledPackages, PackageVersion, Packages, Root, Simulation, Source,
    Transaction,
};
use protocol::Category;

mod apt;
mod both;
mod deb;
mod dnf;
mod rpm;

/// A sandbox root, its package manager, and a folder of packages built for it.
struct World {
    sandbox: Sandbox,
    packages: Arc<dyn Packages>,
    built: tempfile::TempDir,
}

impl World {
    fn new(family: Family) -> Self {
        Self::with_deadline(family, Duration::from_secs(60))
    }

    /// `deadline`: for one run of the package manager.
    fn with_deadline(family: Family, deadline: Duration) -> Self {
        Self::in_sandbox(Sandbox::temporary(family).unwrap(), deadline)
    }

    fn in_sandbox(sandbox: Sandbox, deadline: Duration) -> Self {
        let family = sandbox.family();
        let options = Options {
            family: Some(hosts(family)),
            deadline,
            ..Options::default()
        };
        let packages = packages::detect(&Root::new(sandbox.root()), options).unwrap();
        Self {
            sandbox,
            packages,
            built: tempfile::tempdir().unwrap(),
        }
    }

    fn build(&self, package: &Package) -> PathBuf {
        package.build(self.sandbox.family(), self.built.path()).unwrap()
    }

    async fn transaction(&self, install: &[&Package], remove: &[&str]) -> Transaction {
        let mut sources = Vec::new();
        for package in install {
            sources.push(Source::File(
                self.packages.inspect(&self.build(package)).await.unwrap(),
            ));
        }
        Transaction {
            install: sources,
            remove: remove.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    /// As [`Packages::apply`], without warnings.
    async fn apply(&self, install: &[&Package], remove: &[&str]) -> Result<(), HostError> {
        let applied = self.try_apply(install, remove).await?;
        assert_eq!(applied.warnings, [""; 0]);
        Ok(())
    }

    async fn try_apply(&self, install: &[&Package], remove: &[&str]) -> Result<Applied, ApplyError> {
        let transaction = self.transaction(install, remove).await;
        self.packages.apply(&transaction).await
    }

    async fn simulate(&self, install: &[&Package], remove: &[&str]) -> Result<Simulation, HostError> {
        let transaction = self.transaction(install, remove).await;
        self.packages.simulate(&transaction).await
    }

    async fn installed(&self) -> Arc<InstalledPackages> {
        self.packages.installed().await.unwrap()
    }

    /// `name version` of all packages, but for the sandbox's own.
    async fn versions(&self) -> Vec<String> {
        let installed = self.installed().await;
        let ours = installed.iter().filter(|(name, _)| *name != "sandbox-shell");
        ours.map(|(name, package)| format!("{name} {}", package.version))
            .collect()
    }

    fn read(&self, path: &str) -> String {
        self.sandbox.read(path).unwrap()
    }

    fn exists(&self, path: &str) -> bool {
        self.sandbox.join(path).exists()
    }
}

fn hosts(family: Family) -> host::Family {
    match family {
        Family::Deb => host::Family::Deb,
        Family::Rpm => host::Family::Rpm,
    }
}

/// A package that does nothing but own one file with its version.
fn plain(name: &str, version: &str) -> Package {
    Package::new(name, version).file(&format!("/opt/{name}/version"), 0o644, version)
}

/// Packs `members` of a Debian control archive, with nothing else.
fn build_by_hand(folder: &std::path::Path, name: &str, members: &[(&str, &str)]) -> PathBuf {
    let tree = tempfile::tempdir().unwrap();
    let control = tree.path().join("DEBIAN");
    std::fs::create_dir(&control).unwrap();
    for (member, content) in members {
        let path = control.join(member);
        std::fs::write(&path, content).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(path, mode).unwrap();
    }
    let file = folder.join(format!("{name}.deb"));
    let output = std::process::Command::new("dpkg-deb")
        .args(["--root-owner-group", "--build"])
        .args([tree.path(), &file])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    file
}

/// Waits until `condition` holds.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "in vain awaited: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether a process lives (a zombie does not).
fn is_alive(id: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", id.trim())).unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

/// Locks a file as another package manager would: with fcntl(2), whose locks belong to a process,
/// and this one is neither dpkg nor rpm. Held until dropped.
pub(crate) fn hold_lock(path: &std::path::Path) -> std::fs::File {
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .unwrap();
    rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    file
}
