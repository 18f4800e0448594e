//! dnf on a whole host: this test program itself runs inside a machine, as the agent would.

use harness::machine::{self, Machine};

use super::*;

const REPOSITORY: &str = "/srv/repository";
/// What the repository offers later.
const LATER: &str = "/srv/later";
const FILES: &str = "/srv/files";
/// Metadata that was fetched once is good for two days.
const DNF: &str = "[main]\nreleasever=1\nmetadata_expire=48h\n";

#[test]
fn dnf_on_a_host_of_its_own() {
    if machine::skip("dnf_on_a_host_of_its_own") {
        return;
    }
    let machine = Machine::boot_on(&["rpm", "dnf", "createrepo-c"], &[]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let copy_in = |package: Package, to: &str| {
        let file = package.build(Family::Rpm, folder.path()).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        machine.copy_in(&file, &format!("{to}/{name}")).unwrap();
    };
    copy_in(plain("lib", "1.1"), REPOSITORY);
    copy_in(plain("lib", "1.2"), LATER);
    let fails_when_it_leaves =
        |version| plain("web", version).script(Moment::AfterRemove, "echo cannot clean up >&2; exit 1");
    for package in [
        plain("shell", "1").provides("/bin/sh"),
        plain("app", "1").depends("lib"),
        plain("solo", "1"),
        plain("foe", "1").conflicts("solo"),
        fails_when_it_leaves("1"),
        fails_when_it_leaves("2"),
        plain("failing", "1").script(Moment::AfterInstall, "echo no database >&2; exit 3"),
    ] {
        copy_in(package, FILES);
    }
    // Debian's rpm keeps its database in root's home, since it is not meant to be a host's own.
    machine
        .write("/etc/rpm/macros", "%_dbpath /var/lib/rpm\n", 0o644)
        .unwrap();
    machine.write("/etc/dnf/dnf.conf", DNF, 0o644).unwrap();
    let repository = format!("[local]\nname=local\nbaseurl=file://{REPOSITORY}\ngpgcheck=0\n");
    machine
        .write("/etc/yum.repos.d/local.repo", repository, 0o644)
        .unwrap();
    machine
        .sh(&format!(
            "mv /var/lib/dpkg /var/lib/dpkg.debian; mkdir -p /var/lib/rpm; rpm --initdb; rpm -i {FILES}/shell_1-1.rpm; \
             createrepo_c --quiet {REPOSITORY} 2>&1"
        ))
        .unwrap();
    machine
        .copy_in(&std::env::current_exe().unwrap(), "/srv/it")
        .unwrap();
    let inside = [
        "/srv/it",
        "packages::dnf::inside_a_machine",
        "--exact",
        "--ignored",
        "--nocapture",
    ];
    let output = machine.run(&inside).unwrap();
    let (said, failed) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}\n{failed}"
    );
}

fn sh(script: &str) -> String {
    let output = std::process::Command::new("sh")
        .args(["-ec", script])
        .output()
        .unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

struct Host {
    packages: Arc<dyn Packages>,
}

impl Host {
    fn open(refresh_interval: Duration) -> Self {
        let options = Options {
            refresh_interval,
            deadline: Duration::from_secs(60),
            ..Options::default()
        };
        let packages = packages::detect(&Root::new("/"), options).unwrap();
        assert_eq!(packages.family(), host::Family::Rpm);
        Self { packages }
    }

    async fn transaction(&self, install: &[&str], remove: &[&str]) -> Transaction {
        let mut sources = Vec::new();
        for name in install {
            let path = PathBuf::from(format!("{FILES}/{name}.rpm"));
            sources.push(Source::File(self.packages.inspect(&path).await.unwrap()));
        }
        Transaction {
            install: sources,
            remove: remove.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    async fn apply(&self, install: &[&str], remove: &[&str]) -> Result<Applied, ApplyError> {
        let transaction = self.transaction(install, remove).await;
        self.packages.apply(&transaction).await
    }

    async fn simulate(&self, install: &[&str], remove: &[&str]) -> Result<Simulation, HostError> {
        let transaction = self.transaction(install, remove).await;
        self.packages.simulate(&transaction).await
    }

    async fn version(&self, name: &str) -> Option<String> {
        let installed = self.packages.installed().await.unwrap();
        installed.get(name).map(|package| package.version.to_owned())
    }
}

#[tokio::test]
#[ignore = "changes the host it runs on: dnf_on_a_host_of_its_own runs it inside a machine"]
async fn inside_a_machine() {
    let host = Host::open(Duration::from_secs(3600));
    assert!(host.packages.refuses_untouched());

    // FIELD REPORT R08: metadata that is two days good, and a version published since.
    let find = async |host: &Host, version: &str| host.packages.find_in_repositories("lib", version).await;
    assert_eq!(find(&host, "1.1").await.unwrap(), "1.1-1");
    sh(&format!(
        "mv {LATER}/*.rpm {REPOSITORY}; createrepo_c --quiet {REPOSITORY} 2>&1"
    ));
    let before = host.packages.lists_stamp();
    assert_eq!(find(&host, "1.2").await.unwrap(), "1.2-1");
    assert_ne!(host.packages.lists_stamp(), before);
    assert_eq!(find(&host, "1.1*").await.unwrap(), "1.1-1");
    let refused = find(&host, "9").await.unwrap_err();
    assert_eq!(refused.category, Category::NotFound);

    // A dependency comes along, and is in the plan.
    let simulation = host.simulate(&["app_1-1"], &[]).await.unwrap();
    let lib = PackageVersion {
        name: "lib".into(),
        version: "1.2-1".into(),
    };
    assert_eq!((simulation.installs, simulation.removes), (vec![lib], vec![]));
    assert_eq!(host.version("app").await, None);
    host.apply(&["app_1-1"], &[]).await.unwrap();
    assert_eq!(host.version("lib").await.as_deref(), Some("1.2-1"));

    // FIELD REPORT R36: dnf does it, and its configuration counts, also for a file that rpm alone
    // could install.
    let runs_of_dnf = || sh("dnf history list").lines().count();
    let before = runs_of_dnf();
    host.apply(&["solo_1-1"], &[]).await.unwrap();
    assert_eq!(runs_of_dnf(), before + 1);
    std::fs::write("/etc/dnf/dnf.conf", format!("{DNF}excludepkgs=web\n")).unwrap();
    let refused = host.apply(&["web_1-1"], &[]).await.unwrap_err();
    assert!(matches!(refused, ApplyError::Refused(_)), "{refused:?}");
    std::fs::write("/etc/dnf/dnf.conf", DNF).unwrap();

    // Never more than was asked.
    for refused in [
        host.simulate(&[], &["lib"]).await.unwrap_err(),
        host.apply(&[], &["lib"]).await.unwrap_err().into(),
    ] {
        assert_eq!(refused.category, Category::Dependency, "{refused}");
        assert!(
            refused.message.contains("is needed by (installed) app-1-1"),
            "{refused}"
        );
    }
    let refused = host.apply(&["foe_1-1"], &[]).await.unwrap_err();
    assert!(matches!(&refused, ApplyError::Refused(_)), "{refused:?}");
    assert_eq!(refused.category(), Category::Dependency, "{refused}");
    host.apply(&["foe_1-1"], &["solo"]).await.unwrap();
    // What came as a dependency stays.
    host.apply(&[], &["app"]).await.unwrap();
    assert_eq!(host.version("lib").await.as_deref(), Some("1.2-1"));

    // FIELD REPORT R01: a script of the version that leaves.
    host.apply(&["web_1-1"], &[]).await.unwrap();
    for (install, remove) in [(&["web_2-1"][..], &[][..]), (&[], &["web"])] {
        let applied = host.apply(install, remove).await.unwrap();
        assert!(applied.warnings[0].contains("cannot clean up"), "{applied:?}");
    }
    assert_eq!(host.version("web").await, None);
    let failed = host.apply(&["failing_1-1"], &[]).await.unwrap_err();
    assert!(
        matches!(&failed, ApplyError::Failed(error) if error.category == Category::Script),
        "{failed:?}"
    );
}
