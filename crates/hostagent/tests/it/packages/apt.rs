//! apt on a whole host: this test program itself runs inside a machine, as the agent would.

use harness::machine::{self, Machine};

use super::*;

const REPOSITORY: &str = "/srv/repository";
const FILES: &str = "/srv/files";

#[test]
fn apt_on_a_host_of_its_own() {
    if machine::skip("apt_on_a_host_of_its_own") {
        return;
    }
    let machine = Machine::boot().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut index = String::new();
    for package in [
        plain("lib", "1.0"),
        plain("lib", "1.1"),
        plain("more", "1").release("1+b1"),
    ] {
        let file = package.build(Family::Deb, folder.path()).unwrap();
        let path = format!("{REPOSITORY}/{}", file.file_name().unwrap().display());
        machine.copy_in(&file, &path).unwrap();
        let script = format!(
            "dpkg-deb -f '{path}'; echo Filename: '{path}' | sed 's|{REPOSITORY}/||'; stat -c 'Size: %s' '{path}'; \
             echo SHA256: $(sha256sum < '{path}' | cut -d' ' -f1); echo"
        );
        index += &machine.sh(&script).unwrap();
    }
    machine
        .write(&format!("{REPOSITORY}/Packages"), index, 0o644)
        .unwrap();
    let source = format!("deb [trusted=yes] file:{REPOSITORY} ./\n");
    machine.write("/etc/apt/sources.list", source, 0o644).unwrap();
    machine.sh("apt-get update").unwrap();
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
        plain("failing", "1").script(Moment::AfterInstall, "echo no database >&2; exit 3"),
        plain("hanging", "1").script(
            Moment::AfterInstall,
            "[ -e /tmp/gate ] && exit 0; echo $$ > /tmp/script; sleep 600 & wait",
        ),
    ] {
        let file = package.build(Family::Deb, folder.path()).unwrap();
        machine
            .copy_in(&file, &format!("{FILES}/{}", file.file_name().unwrap().display()))
            .unwrap();
    }
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

struct Host {
    packages: Arc<dyn Packages>,
}

impl Host {
    async fn file(&self, name: &str) -> Source {
        let path = PathBuf::from(format!("{FILES}/{name}.deb"));
        Source::File(self.packages.inspect(&path).await.unwrap())
    }

    async fn apply(&self, install: &[&str], remove: &[&str]) -> Result<(), HostError> {
        let mut sources = Vec::new();
        for file in install {
            sources.push(self.file(file).await);
        }
        let remove = remove.iter().map(|name| (*name).to_owned()).collect();
        let transaction = Transaction {
            install: sources,
            remove,
        };
        let applied = self.packages.apply(&transaction).await?;
        assert_eq!(applied.warnings, [""; 0]);
        Ok(())
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

#[tokio::test]
#[ignore = "changes the host it runs on: apt_on_a_host_of_its_own runs it inside a machine"]
async fn inside_a_machine() {
    let options = Options {
        family: None,
        deadline: Duration::from_secs(20),
        ..Options::default()
    };
    let packages = packages::detect(&Root::new("/"), options).unwrap();
    assert_eq!(packages.family(), host::Family::Deb);
    let host = Host { packages };

    // The repository: the newest version that will do, by its full name.
    for (wanted, found) in [("1.0", "1.0-1"), ("1.1-1", "1.1-1")] {
        assert_eq!(
            host.packages.find_in_repositories("lib", wanted).await.unwrap(),
            found
        );
    }
    let refused = host.packages.find_in_repositories("lib", "9").await.unwrap_err();
    assert_eq!(refused.category, Category::NotFound);
    assert!(refused.message.contains("only at 1.1-1"), "{refused}");
    let refused = host
        .packages
        .find_in_repositories("nosuch", "9")
        .await
        .unwrap_err();
    assert_eq!(refused.category, Category::NotFound);

    // A file whose dependency comes from the repository; up, down, and with the administrator's changes.
    let app = Transaction {
        install: vec![host.file("app_1-1").await],
        remove: Vec::new(),
    };
    host.packages.simulate(&app).await.unwrap();
    assert_eq!(host.version("app").await, None);
    host.packages.apply(&app).await.unwrap();
    assert_eq!(host.version("lib").await.as_deref(), Some("1.1-1"));
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
    let options = Options {
        family: None,
        deadline: Duration::from_secs(5),
        ..Options::default()
    };
    let hasty = Host {
        packages: packages::detect(&Root::new("/"), options).unwrap(),
    };
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
