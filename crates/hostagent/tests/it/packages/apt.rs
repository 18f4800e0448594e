//! apt on a whole host: this test program itself runs inside a machine, as the agent would.

use harness::machine::{self, Machine};

use super::*;

const REPOSITORY: &str = "/srv/repository";
/// What the repository offers later.
const LATER: &str = "/srv/later";
const FILES: &str = "/srv/files";

#[test]
fn apt_on_a_host_of_its_own() {
    if machine::skip("apt_on_a_host_of_its_own") {
        return;
    }
    let machine = Machine::boot().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let copy_in = |package: Package, to: &str| {
        let file = package.build(Family::Deb, folder.path()).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        machine.copy_in(&file, &format!("{to}/{name}")).unwrap();
    };
    for package in [
        plain("lib", "1.0"),
        plain("lib", "1.1"),
        plain("more", "1").release("1+b1"),
        plain("foreign", "1").arch("amd64"),
    ] {
        copy_in(package, REPOSITORY);
    }
    copy_in(plain("lib", "1.2"), LATER);
    let with_conffile = |version| {
        plain("app", version)
            .depends("lib")
            .conffile("/etc/app.conf", format!("{version}\n"))
    };
    for package in [
        plain("lib", "1.1"),
        with_conffile("1"),
        with_conffile("2"),
        plain("solo", "1"),
        plain("solo", "2"),
        plain("foe", "1").conflicts("solo"),
        plain("foreign", "1").arch("i386"),
        plain("failing", "1").script(Moment::AfterInstall, "echo no database >&2; exit 3"),
        plain("hanging", "1").script(
            Moment::AfterInstall,
            "[ -e /tmp/gate ] && exit 0; echo $$ > /tmp/script; sleep 600 & wait",
        ),
    ] {
        copy_in(package, FILES);
    }
    // Lists of a `file:` repository are its own files; those of this one are fetched.
    let source = format!("deb [trusted=yes] copy:{REPOSITORY} ./\n");
    machine.write("/etc/apt/sources.list", source, 0o644).unwrap();
    machine
        .copy_in(&std::env::current_exe().unwrap(), "/srv/it")
        .unwrap();
    inside(&machine);
}

fn inside(machine: &Machine) {
    let inside = [
        "/srv/it",
        "packages::apt::inside_a_machine",
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

fn runs_of_apt() -> usize {
    let log = std::fs::read_to_string("/var/log/apt/history.log").unwrap_or_default();
    log.matches("Start-Date").count()
}

fn sh(script: &str) -> String {
    let output = std::process::Command::new("sh")
        .args(["-ec", script])
        .output()
        .unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Writes the repository's index of packages.
fn index_repository() {
    sh(&format!(
        "cd {REPOSITORY}; for file in *.deb; do dpkg-deb -f $file; echo Filename: $file; stat -c 'Size: %s' $file; \
         echo SHA256: $(sha256sum < $file | cut -d' ' -f1); echo; done > Packages"
    ));
}

struct Host {
    packages: Arc<dyn Packages>,
}

impl Host {
    async fn file(&self, name: &str) -> Source {
        let path = PathBuf::from(format!("{FILES}/{name}.deb"));
        Source::File(self.packages.inspect(&path).await.unwrap())
    }

    async fn apply(&self, install: &[&str], remove: &[&str]) -> Result<(), HostError> {
        let transaction = self.transaction(install, remove).await;
        let applied = self.packages.apply(&transaction).await?;
        assert_eq!(applied.warnings, [""; 0]);
        Ok(())
    }

    async fn transaction(&self, install: &[&str], remove: &[&str]) -> Transaction {
        let mut sources = Vec::new();
        for file in install {
            sources.push(self.file(file).await);
        }
        Transaction {
            install: sources,
            remove: remove.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    /// Refused before anything was touched: why.
    async fn refusal(&self, install: &[&str], remove: &[&str]) -> String {
        let transaction = self.transaction(install, remove).await;
        match self.packages.apply(&transaction).await {
            Err(ApplyError::Refused(error)) => {
                assert_eq!(error.category, Category::Dependency, "{error}");
                error.message
            }
            other => panic!("{other:?}"),
        }
    }

    async fn find(&self, package: &str, version: &str) -> Result<String, HostError> {
        self.packages.find_in_repositories(package, version).await
    }

    async fn version(&self, name: &str) -> Option<String> {
        let installed = self.packages.installed().await.unwrap();
        installed.get(name).map(|package| {
            format!(
                "{}{}",
                package.version,
                if package.broken { " broken" } else { "" }
            )
        })
    }
}

fn open(refresh_interval: Duration, deadline: Duration) -> Host {
    let options = Options {
        family: None,
        deadline,
        refresh_interval,
        ..Options::default()
    };
    Host {
        packages: packages::detect(&Root::new("/"), options).unwrap(),
    }
}

/// FIELD REPORTS R08 and R29.
async fn repositories_are_looked_up(host: &Host) {
    const PREFERENCES: &str = "/etc/apt/preferences.d/test";
    // As in a cloud image: no lists, until they are fetched for the first version that is asked
    // for.
    sh("rm -rf /var/lib/apt/lists; mkdir -p /var/lib/apt/lists/partial");
    index_repository();
    let before = host.packages.lists_stamp();
    host.packages.find_in_lists("lib", "1.0").await.unwrap_err();
    assert_eq!(host.packages.lists_stamp(), before);
    // The newest version that will do, by its full name.
    for (wanted, found) in [
        ("1.0", "1.0-1"),
        ("1.1-1", "1.1-1"),
        ("*", "1.1-1"),
        ("1.0*", "1.0-1"),
    ] {
        assert_eq!(host.find("lib", wanted).await.unwrap(), found);
    }
    assert_ne!(host.packages.lists_stamp(), before);
    let refused = host.find("lib", "9").await.unwrap_err();
    assert_eq!(refused.category, Category::NotFound);
    assert!(refused.message.contains("only at 1.1-1"), "{refused}");
    let refused = host.find("nosuch", "9").await.unwrap_err();
    assert_eq!(refused.category, Category::NotFound);

    // Published since: the lists were refreshed less than an hour ago. Whoever refreshes them, it
    // is found.
    sh(&format!("mv {LATER}/*.deb {REPOSITORY}"));
    index_repository();
    host.find("lib", "1.2").await.unwrap_err();
    let before = host.packages.lists_stamp();
    let eager = open(Duration::ZERO, Duration::from_secs(20));
    assert_eq!(eager.find("lib", "1.2").await.unwrap(), "1.2-1");
    assert_ne!(host.packages.lists_stamp(), before, "nobody would try again");
    assert_eq!(host.find("lib", "1.2").await.unwrap(), "1.2-1");

    // A version that policy prefers less than others, and one that it forbids.
    let pins = "Package: lib\nPin: version 1.2-1\nPin-Priority: 100\n\nPackage: lib\nPin: version 1.0-1\nPin-Priority: -1\n";
    std::fs::write(PREFERENCES, pins).unwrap();
    assert_eq!(host.find("lib", "*").await.unwrap(), "1.1-1");
    assert_eq!(host.find("lib", "1.2").await.unwrap(), "1.2-1");
    let refused = host.find("lib", "1.0").await.unwrap_err();
    assert!(
        refused
            .message
            .contains("a pin with a negative priority forbids it"),
        "{refused}"
    );
    std::fs::remove_file(PREFERENCES).unwrap();

    // No lists, and no repository that could have some.
    sh(
        "mv /etc/apt/sources.list /srv; mv /var/lib/apt/lists /srv/lists; mkdir -p /var/lib/apt/lists/partial",
    );
    let refused = eager.find("lib", "1.2").await.unwrap_err();
    assert_eq!(refused.category, Category::NotFound);
    assert!(
        refused.message.contains("the host has no package lists"),
        "{refused}"
    );
    sh("mv /srv/sources.list /etc/apt; rm -r /var/lib/apt/lists; mv /srv/lists /var/lib/apt");
    // A repository that cannot be reached.
    std::fs::write(
        "/etc/apt/sources.list.d/away.list",
        "deb http://127.0.0.1:1/ ./\n",
    )
    .unwrap();
    let refused = eager.find("lib", "7").await.unwrap_err();
    assert_eq!(refused.category, Category::NotFound);
    assert!(
        refused
            .message
            .contains("could not be refreshed: apt-get update: "),
        "{refused}"
    );
    sh("rm /etc/apt/sources.list.d/away.list");
}

/// FIELD REPORT R12: what a hook does after the work is done cannot undo it.
async fn a_hook_that_fails_is_a_warning(host: &Host) {
    const HOOK: &str = "/etc/apt/apt.conf.d/99audit";
    std::fs::write(HOOK, "DPkg::Post-Invoke { \"echo auditor away >&2; false\"; };\n").unwrap();
    for (install, remove) in [(&["solo_2-1"][..], &[][..]), (&[], &["solo"])] {
        let transaction = host.transaction(install, remove).await;
        let applied = host.packages.apply(&transaction).await.unwrap();
        let [warning] = &*applied.warnings else {
            panic!("{applied:?}")
        };
        assert!(warning.contains("auditor away"), "{warning}");
    }
    assert_eq!(host.version("solo").await, None);
    // One that fails before the work has nothing done.
    std::fs::write(HOOK, "DPkg::Pre-Invoke { \"false\"; };\n").unwrap();
    let transaction = host.transaction(&["solo_1-1"], &[]).await;
    let refused = host.packages.apply(&transaction).await.unwrap_err();
    assert!(matches!(refused, ApplyError::Refused(_)), "{refused:?}");
    std::fs::remove_file(HOOK).unwrap();
    host.apply(&["solo_1-1"], &[]).await.unwrap();
}

/// What apt refuses is said with its cause and the command that clears it.
async fn refusals_name_package_cause_and_command(host: &Host) {
    sh("apt-mark hold solo");
    let refusal = host.refusal(&["solo_2-1"], &[]).await;
    assert!(
        refusal.contains("solo is on hold: apt-mark unhold solo"),
        "{refusal}"
    );
    sh("apt-mark unhold solo");

    let refusal = host.refusal(&["foe_1-1"], &[]).await;
    assert!(refusal.contains("solo would have to be removed"), "{refusal}");
    let transaction = host.transaction(&["foe_1-1"], &[]).await;
    let simulation = host.packages.simulate(&transaction).await.unwrap();
    assert_eq!(simulation.removes[0].name, "solo");
    host.apply(&["foe_1-1"], &["solo"]).await.unwrap();
    host.apply(&["solo_1-1"], &["foe"]).await.unwrap();
}

/// FIELD REPORT R16: another package lacks a dependency, and apt does nothing beside it.
async fn a_removal_goes_past_what_others_lack(host: &Host) {
    let status = std::fs::read_to_string("/var/lib/dpkg/status").unwrap();
    let needy = "Package: needy\nStatus: install ok installed\nMaintainer: Nobody <n@example.com>\nArchitecture: all\n\
                 Version: 1\nDepends: nosuch-lib\nDescription: x\n";
    std::fs::write(
        "/var/lib/dpkg/status",
        format!("{}\n\n{needy}", status.trim_end()),
    )
    .unwrap();
    sh("touch /var/lib/dpkg/info/needy.list");
    let refusal = host.refusal(&["solo_2-1"], &[]).await;
    assert!(refusal.contains("needy : Depends: nosuch-lib"), "{refusal}");
    assert!(refusal.contains(": apt-get --fix-broken install"), "{refusal}");
    let removal = host.transaction(&[], &["solo"]).await;
    host.packages.simulate(&removal).await.unwrap();
    host.apply(&[], &["solo"]).await.unwrap();
    assert_eq!(host.version("solo").await, None);
    sh("dpkg --purge needy");
    host.apply(&["solo_1-1"], &[]).await.unwrap();
}

/// FIELD REPORT R17.
async fn a_package_of_a_foreign_architecture_is_removed(host: &Host) {
    sh("dpkg --add-architecture i386; apt-get update");
    host.apply(&["foreign_1-1"], &[]).await.unwrap();
    assert!(sh("dpkg-query --show").contains("foreign:i386"));
    host.apply(&[], &["foreign"]).await.unwrap();
    assert_eq!(host.version("foreign").await, None);
    sh("dpkg --remove-architecture i386; apt-get update");
}

/// FIELD REPORT R18.
async fn a_deleted_conffile_comes_back_with_its_package(host: &Host) {
    host.apply(&[], &["app"]).await.unwrap();
    std::fs::remove_file("/etc/app.conf").unwrap();
    host.apply(&["app_1-1"], &[]).await.unwrap();
    assert_eq!(std::fs::read_to_string("/etc/app.conf").unwrap(), "1\n");
}

#[tokio::test]
#[ignore = "changes the host it runs on: apt_on_a_host_of_its_own runs it inside a machine"]
async fn inside_a_machine() {
    let host = open(Duration::from_secs(3600), Duration::from_secs(20));
    assert_eq!(host.packages.family(), host::Family::Deb);
    assert!(host.packages.refuses_untouched());
    repositories_are_looked_up(&host).await;

    // A file whose dependency comes from the repository; up, down, and with the administrator's
    // changes.
    let app = Transaction {
        install: vec![host.file("app_1-1").await],
        remove: Vec::new(),
    };
    let simulation = host.packages.simulate(&app).await.unwrap();
    let lib = PackageVersion {
        name: "lib".into(),
        version: "1.2-1".into(),
    };
    assert_eq!((simulation.installs, simulation.removes), (vec![lib], vec![]));
    assert_eq!(host.version("app").await, None);
    host.packages.apply(&app).await.unwrap();
    assert_eq!(host.version("lib").await.as_deref(), Some("1.2-1"));
    std::fs::write("/etc/app.conf", "mine\n").unwrap();
    let before = runs_of_apt();
    for (file, version) in [("app_2-1", "2-1"), ("app_1-1", "1-1")] {
        host.apply(&[file], &[]).await.unwrap();
        assert_eq!(host.version("app").await.as_deref(), Some(version));
        assert_eq!(std::fs::read_to_string("/etc/app.conf").unwrap(), "mine\n");
    }
    std::fs::remove_file("/opt/app/version").unwrap();
    host.apply(&["app_1-1"], &[]).await.unwrap();
    assert_eq!(
        std::fs::read_to_string("/opt/app/version").unwrap(),
        "1",
        "not made whole"
    );
    // Its history has each of them.
    assert_eq!(runs_of_apt() - before, 3);

    a_deleted_conffile_comes_back_with_its_package(&host).await;

    // Never more than was asked: app needs lib.
    let remove_lib = Transaction {
        install: Vec::new(),
        remove: vec!["lib".into()],
    };
    let simulation = host.packages.simulate(&remove_lib).await.unwrap();
    assert_eq!(simulation.installs, []);
    let app_goes = PackageVersion {
        name: "app".into(),
        version: "1-1".into(),
    };
    assert_eq!(simulation.removes, [app_goes]);
    let refused = host.packages.apply(&remove_lib).await.unwrap_err();
    assert!(matches!(refused, ApplyError::Refused(_)), "{refused:?}");
    assert_eq!(refused.category(), Category::Dependency, "{refused}");
    assert!(refused.to_string().contains("would remove app too"), "{refused}");
    // Files, the repository and removals in one transaction.
    let more = Source::Repository {
        name: "more".into(),
        version: "1-1+b1".into(),
    };
    let install = vec![host.file("solo_1-1").await, more];
    host.packages
        .apply(&Transaction {
            install,
            remove: vec!["app".into(), "lib".into()],
        })
        .await
        .unwrap();
    assert_eq!(host.version("more").await.as_deref(), Some("1-1+b1"));
    assert_eq!(
        (host.version("app").await, host.version("lib").await),
        (None, None)
    );

    a_hook_that_fails_is_a_warning(&host).await;
    refusals_name_package_cause_and_command(&host).await;
    a_removal_goes_past_what_others_lack(&host).await;
    a_package_of_a_foreign_architecture_is_removed(&host).await;

    // The lock, for longer than apt itself waits.
    let lock = hold_lock(std::path::Path::new("/var/lib/dpkg/lock-frontend"));
    let error = host.apply(&["app_1-1"], &[]).await.unwrap_err();
    assert_eq!(error.category, Category::Locked, "{error}");
    assert_eq!(host.version("app").await, None);
    drop(lock);

    let error = host.apply(&["failing_1-1"], &[]).await.unwrap_err();
    assert_eq!(error.category, Category::Script, "{error}");
    assert!(error.message.contains("no database"), "{error}");
    host.apply(&[], &["failing"]).await.unwrap();
    assert_eq!(host.version("failing").await, None);

    // A hanging script ends with all of dpkg, and of apt, which leaves the lock free.
    let hasty = open(Duration::from_secs(3600), Duration::from_secs(5));
    let error = hasty.apply(&["hanging_1-1"], &[]).await.unwrap_err();
    assert_eq!(error.category, Category::Timeout, "{error}");
    let script = std::fs::read_to_string("/tmp/script").unwrap();
    until("the end of the script", || !is_alive(&script)).await;
    assert_eq!(host.version("hanging").await.as_deref(), Some("1-1 broken"));
    // Beside one that hangs, others come and go.
    hasty.apply(&["solo_1-1"], &[]).await.unwrap();
    hasty.apply(&[], &["solo"]).await.unwrap();
    hasty.apply(&["solo_1-1"], &[]).await.unwrap();
    assert_eq!(host.version("hanging").await.as_deref(), Some("1-1 broken"));
    std::fs::write("/tmp/gate", "").unwrap();
    host.packages.heal().await.unwrap();
    assert_eq!(host.version("hanging").await.as_deref(), Some("1-1"));

    // Half-installed, which apt by itself refuses to touch, or to work beside.
    let status = std::fs::read_to_string("/var/lib/dpkg/status").unwrap();
    let (before, after) = status
        .split_once("Package: hanging\nStatus: install ok installed")
        .unwrap();
    let broken = format!("{before}Package: hanging\nStatus: install reinstreq half-installed{after}");
    std::fs::write("/var/lib/dpkg/status", broken).unwrap();
    assert_eq!(host.version("hanging").await.as_deref(), Some("1-1 broken"));
    host.packages.heal().await.unwrap();
    host.apply(&["hanging_1-1"], &[]).await.unwrap();
    assert_eq!(host.version("hanging").await.as_deref(), Some("1-1"));
    host.apply(&[], &["hanging", "solo"]).await.unwrap();
    assert_eq!(
        (host.version("hanging").await, host.version("solo").await),
        (None, None)
    );
}
