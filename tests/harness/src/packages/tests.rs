//! The example application, without the agent.

use super::*;

fn install(sandbox: &Sandbox, file: &Path) {
    let root = sandbox.root().display();
    let mut command = match sandbox.family() {
        Family::Deb => {
            let mut dpkg = Command::new("dpkg");
            dpkg.args([format!("--root={root}"), format!("--log={root}/var/log/dpkg.log")])
                .args([
                    "--force-not-root",
                    "--force-script-chrootless",
                    "--force-confold",
                    "-i",
                ]);
            dpkg
        }
        Family::Rpm => {
            let mut rpm = Command::new("rpm");
            rpm.args([
                format!("--dbpath={root}/var/lib/rpm"),
                format!("--relocate=/={root}"),
            ])
            .args(["--badreloc", "-U"]);
            rpm
        }
    };
    run(command.arg(file).env("BACKBONE_ROOT", sandbox.root())).unwrap();
}

/// Kills what a failed test leaves.
struct Stop<'a>(&'a Sandbox);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        let _ = self.0.service("app", "stop");
    }
}

fn hook(sandbox: &Sandbox, arguments: &[&str]) -> String {
    let mut hook = Command::new(sandbox.join("/opt/pf9/app/config"));
    let output = hook
        .args(arguments)
        .env("BACKBONE_ROOT", sandbox.root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// As [`Package::build`] does where there is no rpmbuild.
fn build_without_rpmbuild(package: &Package, folder: &Path) -> PathBuf {
    let file = folder.join(format!("{}_{}.rpm", package.name, package.version));
    rpm_file::write(package, &file).unwrap();
    file
}

#[test]
fn the_example_runs_takes_config_and_survives_an_upgrade() {
    type Build = fn(&Package, &Path) -> PathBuf;
    let builds: [(Family, Build); 3] = [
        (Family::Deb, |package, folder| {
            package.build(Family::Deb, folder).unwrap()
        }),
        (Family::Rpm, |package, folder| {
            package.build(Family::Rpm, folder).unwrap()
        }),
        (Family::Rpm, build_without_rpmbuild),
    ];
    for (family, build) in builds {
        let built = tempfile::tempdir().unwrap();
        let sandbox = Sandbox::temporary(family).unwrap();
        install(&sandbox, &build(&example_app("app", "1.0"), built.path()));
        assert_eq!(sandbox.service("app", "status").unwrap(), 3);
        let _stop = Stop(&sandbox);
        assert_eq!(sandbox.service("app", "start").unwrap(), 0);
        assert_eq!(sandbox.service("app", "status").unwrap(), 0);
        assert_eq!(hook(&sandbox, &["--get-services"]), "app\n");
        assert_eq!(
            hook(&sandbox, &["--get-config"]),
            "{\"app\":{\"greeting\":\"hello\"}}\n"
        );

        let desired = r#"{"app":{"greeting":"it's \"%s\" \\n"}}"#;
        hook(&sandbox, &["--set-config", desired]);
        assert_eq!(hook(&sandbox, &["--get-config"]).trim_end(), desired);
        wait_for_loaded(&sandbox, "1.0", desired);

        install(&sandbox, &build(&example_app("app", "2.0"), built.path()));
        wait_for_loaded(&sandbox, "2.0", desired);
        assert_eq!(sandbox.service("app", "stop").unwrap(), 0);
        assert_eq!(sandbox.service("app", "status").unwrap(), 3);
    }
}

fn wait_for_loaded(sandbox: &Sandbox, version: &str, config: &str) {
    let expected = format!("{version}\n{config}");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while sandbox.read("/run/app.loaded").unwrap_or_default().trim_end() != expected {
        assert!(
            std::time::Instant::now() < deadline,
            "{:?}",
            sandbox.read("/run/app.loaded")
        );
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn the_same_description_gives_the_same_bytes() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for family in Family::ALL {
        let package = example_app("app", "1.0")
            .depends("other")
            .conflicts("foe")
            .epoch(2);
        let build = |folder: &Path| fs::read(package.build(family, folder).unwrap()).unwrap();
        assert!(build(one.path()) == build(two.path()), "{family:?} differs");
    }
}

#[test]
fn without_rpmbuild_the_package_says_the_same_of_itself() {
    let folder = tempfile::tempdir().unwrap();
    let package = example_app("app", "1.0")
        .release("2.el9")
        .epoch(2)
        .arch("x86_64")
        .depends("other")
        .conflicts("foe");
    let format = "%{NAME} %{EPOCHNUM}:%{VERSION}-%{RELEASE} %{ARCH}\n[%{PROVIDES}\n][conflicts %{CONFLICTS}\n]\
                  [%{FILENAMES} %{FILEMODES:perms} %{FILEFLAGS:fflags} %{FILEUSERNAME} %{FILEMTIMES}\n]";
    let say = |file: &Path| {
        let mut query = Command::new("rpm");
        query.arg("--dbpath").arg(folder.path().join("database"));
        let output = query.args(["-qp", "--qf", format]).arg(file).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        // The library adds a capability that no package here asks for.
        let lines = text.lines().filter(|line| *line != "config(app)");
        let mut lines: Vec<_> = lines.map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let by_rpmbuild = say(&package.build(Family::Rpm, folder.path()).unwrap());
    assert!(by_rpmbuild.len() > 5, "{by_rpmbuild:?}");
    assert_eq!(by_rpmbuild, say(&build_without_rpmbuild(&package, folder.path())));
}
