use super::*;
use crate::host::InstalledPackage;

fn repository(name: &str, version: &str) -> Source {
    Source::Repository {
        name: name.into(),
        version: version.into(),
    }
}

#[test]
fn dnf_gets_one_run_for_each_direction() {
    let package = |version: &str| InstalledPackage {
        version: version.into(),
        arch: "noarch".into(),
        broken: false,
        is_application: true,
    };
    let installed = InstalledPackages::from([
        ("up".into(), package("1-1")),
        ("down".into(), package("1:2-1")),
        ("same".into(), package("1-1")),
    ]);
    let install = vec![
        repository("up", "2-1"),
        repository("down", "1:1-1"),
        repository("same", "1-1"),
        repository("new", "1-1"),
    ];
    let transaction = Transaction {
        install,
        remove: Vec::new(),
    };
    let rpm = Rpm::new(Root::new("/"), Duration::from_secs(1));
    let runs = rpm.dnf_runs(&transaction, &installed, &[]);
    let arguments = |command: &Command| {
        command
            .to_string()
            .split_once("-- ")
            .map(|(_, rest)| rest.to_owned())
    };
    let verbs: Vec<_> = runs
        .iter()
        .map(|run| arguments(run).unwrap_or_default())
        .collect();
    assert_eq!(verbs, ["up-2-1 new-1-1", "down-1:1-1", "same-1-1"]);
    assert!(runs[1].to_string().contains(" downgrade -- "));
}

#[test]
fn architectures_fit_the_machine() {
    let table = [
        ("noarch", "aarch64", true),
        ("x86_64", "x86_64", true),
        ("i686", "x86_64", true),
        ("x86_64", "i686", false),
        ("aarch64", "x86_64", false),
        ("armv7hl", "armv7l", true),
        ("ppc64le", "x86_64", false),
    ];
    for (arch, machine, fits) in table {
        assert_eq!(arch_fits(arch, machine), fits, "{arch} on {machine}");
    }
}

#[test]
fn offers_are_read_from_dnf_and_yum() {
    assert_eq!(
        repoquery_versions("app 0:1.0-1.el9\nother 0:3-1\napp 2:1.1-1\n", "app"),
        ["1.0-1.el9", "2:1.1-1"]
    );
    let listed =
        "Available Packages\napp.noarch   1.0-1.el7  repo\napp.noarch  2:1.1-1 repo\nother.x86_64 3-1 repo\n";
    assert_eq!(yum_versions(listed, "app"), ["1.0-1.el7", "2:1.1-1"]);
}
