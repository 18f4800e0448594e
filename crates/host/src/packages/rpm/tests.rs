use super::dnf::{repoquery_versions, yum_versions};
use super::*;
use crate::{InstalledPackage, PackagesByName};

fn repository(name: &str, version: &str) -> Source {
    Source::Repository {
        name: name.into(),
        version: version.into(),
    }
}

#[test]
fn dnf_and_yum_get_as_few_runs_as_they_can_do_with() {
    let package = |version: &str| InstalledPackage {
        version: version.into(),
        arch: "noarch".into(),
        broken: false,
        waits: false,
        is_application: true,
    };
    let installed = InstalledPackages::from(&PackagesByName::from([
        ("up".into(), package("1-1")),
        ("down".into(), package("1:2-1")),
        ("same".into(), package("1-1")),
    ]));
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
    let rpm = Rpm::new(Root::new("/"), Options::default());
    let verbs = |tool| {
        let runs = rpm.dnf_runs(tool, &transaction, &installed, "--assumeyes");
        let shown = |command: &Command| {
            let shown = command.to_string();
            let (options, arguments) = shown.split_once(" -- ").unwrap();
            format!("{} {arguments}", options.rsplit(' ').next().unwrap())
        };
        runs.iter().map(shown).collect::<Vec<_>>()
    };
    // Tried by hand with dnf 4.14: its `install` goes both ways.
    assert_eq!(
        verbs(DnfTool::Dnf),
        ["install up-2-1 down-1:1-1 new-1-1", "reinstall same-1-1"]
    );
    assert_eq!(
        verbs(DnfTool::Yum),
        [
            "install up-2-1 new-1-1",
            "downgrade down-1:1-1",
            "reinstall same-1-1"
        ]
    );
}

#[test]
fn the_plan_of_dnf_names_what_comes_and_goes_besides() {
    // Of dnf 4.14; a long name has a line of its own.
    let output = "Dependencies resolved.\n\
        ================================================================================\n \
        Package       Architecture    Version            Repository              Size\n\
        ================================================================================\n\
        Installing:\n \
        app           noarch          1.0-1              @commandline            6.5 k\n     \
            replacing  old.noarch 1:3-1\n\
        Installing dependencies:\n \
        a-package-with-a-rather-long-name-of-its-own\n               \
                      noarch          2:1.1-1            local                   6.3 k\n\
        Removing dependent packages:\n \
        web           noarch          2-1                @local                  1 k\n\n\
        Transaction Summary\n\
        ================================================================================\n\
        Install  2 Packages\nOperation aborted.\n";
    assert!(dnf::is_plan(output) && !dnf::is_plan("Error: nothing\n"));
    let transaction = Transaction {
        install: vec![repository("app", "1.0-1")],
        remove: Vec::new(),
    };
    let mut simulation = Simulation::default();
    dnf::add_plan(output, &transaction, &mut simulation);
    let shown = |list: &[crate::PackageVersion]| -> Vec<String> {
        list.iter()
            .map(|package| format!("{} {}", package.name, package.version))
            .collect()
    };
    assert_eq!(
        shown(&simulation.installs),
        ["a-package-with-a-rather-long-name-of-its-own 2:1.1-1"]
    );
    assert_eq!(shown(&simulation.removes), ["old 1:3-1", "web 2-1"]);
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
