use std::os::unix::fs::{MetadataExt, symlink};

use host::ContractKind;
use serde_json::json;

use super::*;

const MANIFEST: &str = "/etc/hostagent/apps/web.toml";

fn one_ini(extra: &str) -> String {
    format!("{extra}\n[config.server]\nfile = \"/etc/web.ini\"\nformat = \"ini\"\n")
}

#[tokio::test]
async fn each_format_keeps_comments_order_and_what_it_does_not_know() {
    const GOLDEN: [(&str, &str, &str); 5] = [
        (
            "ini",
            include_str!("golden/before.ini"),
            include_str!("golden/after.ini"),
        ),
        (
            "json",
            include_str!("golden/before.json"),
            include_str!("golden/after.json"),
        ),
        (
            "yaml",
            include_str!("golden/before.yaml"),
            include_str!("golden/after.yaml"),
        ),
        (
            "toml",
            include_str!("golden/before.toml"),
            include_str!("golden/after.toml"),
        ),
        (
            "env",
            include_str!("golden/before.env"),
            include_str!("golden/after.env"),
        ),
    ];
    for (format, before, after) in GOLDEN {
        let sandbox = Sandbox::new();
        let manifest = format!("[config.server]\nfile = \"/etc/web.conf\"\nformat = \"{format}\"\n");
        sandbox.file(MANIFEST, manifest, 0o644);
        sandbox.file("/etc/web.conf", before, 0o640);
        let desired = json!({"server": {"PORT": 8443, "NAME": "it's \"web\" #1; $HOME", "NEW": true}});
        sandbox.write(desired.clone(), &[]).await.unwrap();
        assert_eq!(sandbox.read("/etc/web.conf"), after, "{format}");
        let read = sandbox.contracts.read(&app("web"), "web").await.unwrap();
        assert!(
            protocol::satisfied::config_satisfied(&config(desired), &read),
            "{format}"
        );
        assert!(read["server"].contains_key("KEPT"), "{format}");
    }
}

#[tokio::test]
async fn the_contract_of_a_manifest() {
    let sandbox = Sandbox::new();
    sandbox.file(MANIFEST, one_ini("services = [\"web\", \"web-worker\"]"), 0o644);
    let contract = sandbox.contracts.contract(&app("web"), "web").await.unwrap();
    assert_eq!(contract.kind, ContractKind::Manifest);
    assert_eq!(contract.services, Some(names(&["web", "web-worker"])));
    let watched = ["/etc/web.ini", MANIFEST].map(|path| sandbox.root.join(path));
    assert_eq!(*contract.watched_files, watched);
    let empty = sandbox.contracts.read(&app("web"), "web").await.unwrap();
    assert_eq!(
        *empty,
        config(json!({"server": {}})),
        "a file that is not there yet"
    );
}

#[tokio::test]
async fn the_operator_comes_before_the_package_and_a_hook_before_both() {
    let sandbox = Sandbox::new();
    let services = async || {
        let contract = sandbox.contracts.contract(&app("web"), "web-pkg").await.unwrap();
        (contract.kind, contract.services.clone())
    };
    assert_eq!(services().await, (ContractKind::None, None));
    sandbox.file(
        "/usr/share/hostagent/apps/web-pkg.toml",
        "services = [\"p\"]",
        0o644,
    );
    assert_eq!(services().await, (ContractKind::Manifest, Some(names(&["p"]))));
    let operators = sandbox.file(MANIFEST, "services = [\"o\"]", 0o644);
    assert_eq!(services().await, (ContractKind::Manifest, Some(names(&["o"]))));
    sandbox.file(MANIFEST, "services = [\"changed\"]", 0o644);
    assert_eq!(
        services().await,
        (ContractKind::Manifest, Some(names(&["changed"])))
    );
    fs::remove_file(operators).unwrap();
    assert_eq!(services().await, (ContractKind::Manifest, Some(names(&["p"]))));
    sandbox.file("/opt/pf9/web/config", "#!/bin/sh\nexit 1\n", 0o755);
    assert_eq!(services().await, (ContractKind::Hook, None));
}

#[tokio::test]
async fn without_a_contract_a_config_is_an_error_that_says_what_to_add() {
    let sandbox = Sandbox::new();
    assert_eq!(
        *sandbox.contracts.read(&app("web"), "web").await.unwrap(),
        Config::new()
    );
    sandbox.write(json!({}), &["web"]).await.unwrap();
    sandbox.write(json!({"server": {}}), &["web"]).await.unwrap();
    let error = sandbox
        .write(json!({"server": {"password": SECRET}}), &[])
        .await
        .unwrap_err();
    assert_eq!(error.category, Category::Invalid);
    for path in [
        MANIFEST,
        "/usr/share/hostagent/apps/web.toml",
        "/opt/pf9/web/config",
    ] {
        assert!(error.message.contains(path), "{error}");
    }
    assert!(!error.message.contains(SECRET), "{error}");
}

#[tokio::test]
async fn a_manifest_that_is_wrong_says_where_and_a_corrected_one_counts_at_once() {
    let sandbox = Sandbox::new();
    sandbox.file(MANIFEST, "on_change = \"kill\"", 0o644);
    for _ in 0..2 {
        let error = sandbox.contracts.read(&app("web"), "web").await.unwrap_err();
        assert_eq!(error.category, Category::Invalid);
        assert!(
            error
                .message
                .starts_with("/etc/hostagent/apps/web.toml:1: on_change: found"),
            "{error}"
        );
    }
    sandbox.file(MANIFEST, "on_change = \"none\"", 0o644);
    assert!(sandbox.contracts.read(&app("web"), "web").await.is_ok());
}

#[tokio::test]
async fn an_unknown_key_is_warned_of_once() {
    let sandbox = Sandbox::new();
    sandbox.file(MANIFEST, "servises = []", 0o644);
    let log = Log::capture();
    for _ in 0..3 {
        sandbox.contracts.contract(&app("web"), "web").await.unwrap();
    }
    assert_eq!(
        log.text().matches("web.toml:1: servises is not a key").count(),
        1,
        "{}",
        log.text()
    );
}

#[tokio::test]
async fn running_services_take_up_a_change_and_nothing_happens_without_one() {
    for (on_change, calls) in [
        ("reload", &["reload b", "reload a", "reload c"][..]),
        ("restart", &["restart b", "restart a", "restart c"]),
        ("none", &[]),
    ] {
        let sandbox = Sandbox::new();
        let head = format!("services = [\"b\", \"stopped\", \"a\"]\non_change = \"{on_change}\"");
        sandbox.file(MANIFEST, one_ini(&head), 0o644);
        let file = sandbox.file("/etc/web.ini", "[server]\nk = 1\n", 0o644);
        let inode = fs::metadata(&file).unwrap().ino();
        sandbox
            .write(json!({"server": {"k": "1"}}), &["a", "b", "c"])
            .await
            .unwrap();
        assert_eq!(fs::metadata(&file).unwrap().ino(), inode, "rewritten");
        assert_eq!(sandbox.services.calls(), [""; 0]);
        sandbox
            .write(json!({"server": {"k": "2"}}), &["a", "b", "c"])
            .await
            .unwrap();
        assert_eq!(sandbox.services.calls(), calls);
        assert!(
            !sandbox
                .contracts
                .unfinished()
                .await
                .unwrap()
                .contains(&app("web"))
        );
    }
}

#[tokio::test]
async fn a_file_keeps_its_mode_and_owner_and_a_new_one_is_private() {
    let sandbox = Sandbox::new();
    let manifest = "[config.old]\nfile = \"/etc/old.ini\"\nformat = \"ini\"\nmode = \"0600\"\n\
                    [config.new]\nfile = \"/etc/new.ini\"\nformat = \"ini\"\n\
                    [config.told]\nfile = \"/etc/told.ini\"\nformat = \"ini\"\nmode = \"0640\"\nowner = \"web:12\"\n";
    sandbox.file(MANIFEST, manifest, 0o644);
    sandbox.file("/etc/passwd", "root:x:0:0::/:\nweb:x:1234:77::/:\n", 0o644);
    let old = sandbox.file("/etc/old.ini", "", 0o664);
    let root = rustix::process::geteuid().is_root();
    let mut desired = json!({"old": {"k": 1}, "new": {"k": SECRET}});
    if root {
        std::os::unix::fs::chown(&old, Some(4321), Some(77)).unwrap();
        desired["told"] = json!({"k": 1});
    }
    sandbox.write(desired, &[]).await.unwrap();
    let look = |path: &str| {
        let file = fs::metadata(sandbox.root.join(path)).unwrap();
        (file.mode() & 0o7777, file.uid(), file.gid())
    };
    assert_eq!(look("/etc/old.ini").0, 0o664);
    assert_eq!(look("/etc/new.ini").0, 0o600);
    if root {
        assert_eq!(look("/etc/old.ini"), (0o664, 4321, 77));
        assert_eq!(look("/etc/told.ini"), (0o640, 1234, 12));
    }
    let marker = sandbox.root.join("/var/lib/hostagent/unfinished-config/web");
    assert!(!marker.exists());
}

#[tokio::test]
async fn a_link_stays_a_link_and_leads_nowhere_outside_the_root() {
    let sandbox = Sandbox::new();
    sandbox.file(MANIFEST, one_ini(""), 0o644);
    let target = sandbox.file("/srv/web.ini", "[server]\n", 0o644);
    symlink("/srv/web.ini", sandbox.root.join("/etc/web.ini")).unwrap();
    sandbox.write(json!({"server": {"k": 1}}), &[]).await.unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "[server]\nk = 1\n");
    assert!(
        fs::symlink_metadata(sandbox.root.join("/etc/web.ini"))
            .unwrap()
            .is_symlink()
    );

    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("web.ini");
    fs::write(&victim, "[server]\n").unwrap();
    fs::remove_file(sandbox.root.join("/etc/web.ini")).unwrap();
    symlink(&victim, sandbox.root.join("/etc/web.ini")).unwrap();
    let error = sandbox.write(json!({"server": {"k": 1}}), &[]).await.unwrap_err();
    assert!(error.message.contains("its folder does not exist"), "{error}");
    assert_eq!(fs::read_to_string(&victim).unwrap(), "[server]\n");
}

/// Two files; the second desired value can't be written.
#[tokio::test]
async fn nothing_is_written_unless_all_can_be() {
    let manifest = format!(
        "{}[config.env]\nfile = \"/etc/default/web\"\nformat = \"env\"\n",
        one_ini("")
    );
    for (env, desired, want) in [
        (
            &b"A=1\n"[..],
            json!({"server": {"k": SECRET}, "env": {"B": format!("{SECRET}\n")}}),
            "more than one line",
        ),
        (
            b"A='\n",
            json!({"server": {"k": SECRET}, "env": {"B": SECRET}}),
            "line 1: not valid environment file",
        ),
        (
            b"A=\xff\n",
            json!({"server": {"k": SECRET}, "env": {"B": SECRET}}),
            "not UTF-8 (byte 2)",
        ),
        (
            b"A=1\n",
            json!({"server": {"k": SECRET}, "unmapped": {"B": SECRET}}),
            "add [config.unmapped]",
        ),
    ] {
        let sandbox = Sandbox::new();
        sandbox.file(MANIFEST, &manifest, 0o644);
        sandbox.file("/etc/web.ini", "[server]\n", 0o644);
        let second = sandbox.file("/etc/default/web", env, 0o644);
        let error = sandbox.write(desired, &["web"]).await.unwrap_err();
        assert_eq!(error.category, Category::Invalid);
        assert!(error.message.contains(want), "{error}");
        assert!(!error.message.contains(SECRET), "{error}");
        assert_eq!(sandbox.read("/etc/web.ini"), "[server]\n");
        assert_eq!(fs::read(second).unwrap(), env);
        assert_eq!(sandbox.services.calls(), [""; 0]);
        assert!(
            !sandbox
                .contracts
                .unfinished()
                .await
                .unwrap()
                .contains(&app("web"))
        );
    }
}

#[tokio::test]
async fn what_was_cut_short_between_two_files_is_completed_by_the_next_run() {
    let sandbox = Sandbox::new();
    let manifest = "[config.a]\nfile = \"/etc/a.ini\"\nformat = \"ini\"\n[config.b]\nfile = \"/etc/b.ini\"\nformat = \"ini\"\n";
    sandbox.file(MANIFEST, manifest, 0o644);
    sandbox.file("/etc/a.ini", "", 0o600);
    sandbox.file("/etc/b.ini", "", 0o600);
    // The second file's temporary one can't be made.
    let obstacle = sandbox.root.join("/etc/.b.ini.new");
    fs::create_dir(&obstacle).unwrap();
    let desired = json!({"a": {"k": 1}, "b": {"k": 2}});
    let error = sandbox.write(desired.clone(), &["web"]).await.unwrap_err();
    assert!(
        error.message.contains("cannot write") && error.message.contains("b.ini"),
        "{error}"
    );
    assert_eq!(sandbox.read("/etc/a.ini"), "[a]\nk = 1\n");
    assert_eq!(sandbox.read("/etc/b.ini"), "");
    assert_eq!(sandbox.services.calls(), [""; 0]);
    assert!(
        sandbox
            .contracts
            .unfinished()
            .await
            .unwrap()
            .contains(&app("web"))
    );

    fs::remove_dir(&obstacle).unwrap();
    sandbox.write(desired, &["web"]).await.unwrap();
    assert_eq!(sandbox.read("/etc/b.ini"), "[b]\nk = 2\n");
    assert_eq!(sandbox.services.calls(), ["restart web"]);
    assert!(
        !sandbox
            .contracts
            .unfinished()
            .await
            .unwrap()
            .contains(&app("web"))
    );
}

#[tokio::test]
async fn what_was_cut_short_before_the_services_is_completed_by_the_next_run() {
    let sandbox = Sandbox::new();
    sandbox.file(MANIFEST, one_ini(""), 0o644);
    sandbox.services.fail(true);
    let desired = json!({"server": {"k": 1}});
    assert!(sandbox.write(desired.clone(), &["web", "x"]).await.is_err());
    assert_eq!(
        sandbox.services.calls(),
        ["restart web", "restart x"],
        "one failure stops no other"
    );
    assert!(
        sandbox
            .contracts
            .unfinished()
            .await
            .unwrap()
            .contains(&app("web"))
    );

    sandbox.services.fail(false);
    sandbox.write(desired.clone(), &["web", "x"]).await.unwrap();
    assert_eq!(sandbox.services.calls(), ["restart web", "restart x"]);
    sandbox.write(desired, &["web", "x"]).await.unwrap();
    assert_eq!(sandbox.services.calls(), [""; 0]);
}

#[tokio::test]
async fn sections_of_one_file_are_changed_together() {
    let sandbox = Sandbox::new();
    let manifest = "[config.db]\nfile = \"/etc/web.yaml\"\nformat = \"yaml\"\ntable = \"spec.db\"\n\
                    [config.top]\nfile = \"/etc/web.yaml\"\nformat = \"yaml\"\ntable = \"\"\n\
                    [config.env]\nfile = \"/etc/default/web\"\nformat = \"env\"\nprefix = \"WEB_\"\n";
    sandbox.file(MANIFEST, manifest, 0o644);
    sandbox.file("/etc/default/web", "OTHER=1\nWEB_A=1\n", 0o644);
    sandbox.file(
        "/etc/web.yaml",
        "name: x\nspec:\n  db: # main\n    host: a\n",
        0o644,
    );
    let desired = json!({"db": {"host": "b"}, "top": {"name": "z"}, "env": {"A": 2, "B": 3}});
    sandbox.write(desired, &[]).await.unwrap();
    assert_eq!(
        sandbox.read("/etc/web.yaml"),
        "name: z\nspec:\n  db: # main\n    host: b\n"
    );
    assert_eq!(sandbox.read("/etc/default/web"), "OTHER=1\nWEB_A=2\nWEB_B=3\n");
    let read = sandbox.contracts.read(&app("web"), "web").await.unwrap();
    assert_eq!(read["env"], config(json!({"x": {"A": "2", "B": "3"}}))["x"]);
}

/// What the documentation shows is what the agent takes.
#[tokio::test]
async fn the_manifest_in_the_documentation_is_a_contract_without_a_warning() {
    let document = include_str!("../../../../../docs/app-contract.md");
    let start = document.find("```toml\n").unwrap() + "```toml\n".len();
    let manifest = document[start..].split("```").next().unwrap();
    let sandbox = Sandbox::new();
    sandbox.file("/usr/share/hostagent/apps/web.toml", manifest, 0o644);
    let log = Log::capture();
    let contract = sandbox.contracts.contract(&app("web"), "web").await.unwrap();
    assert_eq!(contract.services, Some(names(&["web", "web-worker"])));
    let manifest = sandbox.contracts.manifest(&app("web"), "web").unwrap().unwrap();
    assert_eq!(manifest.health.len(), 1);
    assert!(!log.text().contains("WARN"), "{}", log.text());
}

/// Environment files that a shell sources read as the agent meant them.
#[tokio::test]
async fn a_shell_reads_what_was_written() {
    let sandbox = Sandbox::new();
    let manifest = "[config.env]\nfile = \"/etc/default/web\"\nformat = \"env\"\n";
    sandbox.file(MANIFEST, manifest, 0o644);
    let file = sandbox.file("/etc/default/web", "export A=old\n", 0o644);
    for value in [
        "",
        "plain",
        "it's",
        "$HOME `id` \\ \\\\ \"q\" \\n",
        " a  b ",
        "a=b;c&d|e>f#g",
        "\u{e9}*?[!~",
        "\t",
    ] {
        sandbox
            .write(json!({"env": {"A": value, "B": value}}), &[])
            .await
            .unwrap();
        let shell = std::process::Command::new("sh")
            .args(["-c", ". \"$0\"; printf '%s|%s' \"$A\" \"$B\""])
            .arg(&file)
            .output()
            .unwrap();
        let said = String::from_utf8(shell.stdout).unwrap();
        assert_eq!(
            said,
            format!("{value}|{value}"),
            "{}",
            sandbox.read("/etc/default/web")
        );
    }
}

/// A heartbeat looks at the config of every application, and should not have to read what is known to be the same.
#[tokio::test]
async fn files_are_read_again_when_they_have_changed_and_only_then() {
    const FILE: &str = "/etc/web.ini";
    const OPTIONAL: &str = "/etc/web.d/optional.ini";
    type Change = fn(&Sandbox, PathBuf);
    let changes: [(&str, Change, Option<&str>); 6] = [
        (
            "written in place, with a time of before",
            |_, file| {
                let times = fs::metadata(&file).unwrap().modified().unwrap();
                fs::write(&file, "[server]\nport = 7\n").unwrap();
                let file = fs::File::options().write(true).open(&file).unwrap();
                file.set_modified(times).unwrap();
            },
            Some("7 none"),
        ),
        (
            "replaced by another one",
            |sandbox, file| {
                let other = sandbox.file("/etc/other.ini", "[server]\nport = 6\n", 0o644);
                fs::rename(other, file).unwrap();
            },
            Some("6 none"),
        ),
        (
            "led elsewhere by a link",
            |sandbox, file| {
                sandbox.file("/srv/web.ini", "[server]\nport = 5\n", 0o644);
                fs::remove_file(&file).unwrap();
                symlink("/srv/web.ini", file).unwrap();
            },
            Some("5 none"),
        ),
        (
            "one that was not there",
            |sandbox, _| drop(sandbox.file(OPTIONAL, "[optional]\nmode = on\n", 0o644)),
            Some("9 on"),
        ),
        (
            "gone",
            |_, file| fs::remove_file(file).unwrap(),
            Some("none none"),
        ),
        (
            "not to be read",
            |_, file| {
                fs::remove_file(&file).unwrap();
                fs::create_dir(file).unwrap();
            },
            None,
        ),
    ];
    async fn read(sandbox: &Sandbox) -> Result<Arc<Config>, HostError> {
        sandbox.contracts.read(&app("web"), "web").await
    }
    let shown = |read: &Result<Arc<Config>, HostError>| {
        let config = read.as_ref().ok()?;
        let key = |section: &str, key: &str| {
            let value = config[section].get(key).and_then(Value::as_str);
            value.unwrap_or("none").to_owned()
        };
        Some(format!("{} {}", key("server", "port"), key("optional", "mode")))
    };

    let optional = format!("[config.optional]\nfile = \"{OPTIONAL}\"\nformat = \"ini\"\n");
    let mut sandboxes = Vec::new();
    for _ in &changes {
        let sandbox = Sandbox::new();
        sandbox.file(MANIFEST, one_ini("") + &optional, 0o644);
        // Right after a change the next may leave no trace: of the same length, in the same tick of the kernel's clock.
        for value in 1..10 {
            sandbox.file(FILE, format!("[server]\nport = {value}\n"), 0o644);
            let expected = Some(format!("{value} none"));
            assert_eq!(shown(&read(&sandbox).await), expected);
        }
        sandboxes.push(sandbox);
    }
    let patience = Instant::now() + Duration::from_secs(15);
    for ((what, change, expected), sandbox) in changes.into_iter().zip(sandboxes) {
        while !Arc::ptr_eq(&read(&sandbox).await.unwrap(), &read(&sandbox).await.unwrap()) {
            assert!(Instant::now() < patience, "it is read each time");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        change(&sandbox, sandbox.root.join(FILE));
        assert_eq!(shown(&read(&sandbox).await).as_deref(), expected, "{what}");
    }
}
