//! The program as an operator runs it: what it prints, where, and with which exit code.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_hostagent");

/// A sandbox host with a settings file of its own.
struct Sandbox {
    dir: tempfile::TempDir,
}

impl Sandbox {
    /// `settings`: lines of the settings file, after `[hostagent]` and its root.
    fn new(settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let text = format!("[hostagent]\nroot = {}\n{settings}", root.display());
        fs::write(dir.path().join("agent.conf"), text).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .arg("--config")
            .arg(self.path("agent.conf"))
            .args(arguments);
        command
            .env_clear()
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// `UPDATE_GOLDEN=1` writes the file anew.
#[test]
fn help_is_as_agreed() {
    let output = Sandbox::new("").run(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/help.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, stdout(&output)).unwrap();
    }
    assert_eq!(fs::read_to_string(path).unwrap_or_default(), stdout(&output));
}

#[test]
fn wrong_use_and_wrong_settings_exit_with_2() {
    let sandbox = Sandbox::new("heartbeat_period = soon\n[amqp]\nport = 0\n");
    let conf = sandbox.path("agent.conf");
    let expected = format!(
        "hostagent: the settings are not valid:\n  \
         {0}:3: [hostagent] heartbeat_period: found \"soon\", allowed: seconds, 1 to 86400 (30, 1.5, 5m)\n  \
         {0}:5: [amqp] port: found \"0\", allowed: a port, 1 to 65535\n",
        conf.display()
    );
    for arguments in [
        &["run"][..],
        &[],
        &["id"],
        &["check-config"],
        &["status", "--json"],
    ] {
        let output = sandbox.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert_eq!(stderr(&output), expected, "{arguments:?}");
        assert_eq!(stdout(&output), "");
    }
    for arguments in [&["no-such-command"][..], &["plan"], &["--set"], &["id", "--json"]] {
        assert_eq!(sandbox.run(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn the_id_stands_alone_on_standard_output() {
    let sandbox = Sandbox::new("host_id = web-1\nunknown = 1\n");
    let output = sandbox.run(&["id"]);
    assert_eq!(
        (output.status.code(), stdout(&output).as_str()),
        (Some(0), "web-1\n")
    );
    let verbose = stdout(&sandbox.run(&["id", "-v", "--set", "hostagent.host_id=web-2"]));
    assert_eq!(verbose, "web-2\nfrom: settings ([hostagent] host_id)\n");
    let by_environment = sandbox
        .command(&["id"])
        .env("HOSTAGENT_HOST_ID", "web-3")
        .output()
        .unwrap();
    assert_eq!(stdout(&by_environment), "web-3\n");
}

#[test]
fn log_lines_are_json_unless_somebody_watches() {
    let sandbox = Sandbox::new("host_id = web-1\nunknown = 1\n");
    let logged = stderr(&sandbox.run(&["id"]));
    let line: Value = serde_json::from_str(logged.lines().next().unwrap()).unwrap();
    assert_eq!(line["level"], "WARN");
    let message = line["message"].as_str().unwrap();
    assert!(
        message.ends_with(":4: unknown key [hostagent] unknown is ignored"),
        "{message}"
    );
    assert!(line["timestamp"].is_string());

    let quiet = sandbox.run(&["id", "--set", "hostagent.log_level_name=ERROR"]);
    assert_eq!(stderr(&quiet), "");
}

#[test]
fn check_config_prints_settings_and_warnings_without_secrets() {
    let sandbox = Sandbox::new("heartbeat_perod = 1\n[amqp]\npassword = hunter2\n");
    let output = sandbox.run(&["check-config"]);
    let shown = stdout(&output);
    assert_eq!(output.status.code(), Some(0));
    assert!(shown.starts_with("[hostagent]\nhost_id = (not set)"), "{shown}");
    assert!(shown.contains("\npassword = ******"), "{shown}");
    assert!(
        shown.contains("ignored; did you mean heartbeat_period?\n"),
        "{shown}"
    );
    assert!(!shown.contains("hunter2"));
}

#[test]
fn a_reader_that_goes_away_is_no_crash() {
    let sandbox = Sandbox::new("");
    let mut child = sandbox
        .command(&["check-config"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
}

/// The bundle's files: name -> content.
fn unpack(bundle: &Path) -> Vec<(String, String)> {
    let mut archive = tar::Archive::new(fs::File::open(bundle).unwrap());
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut content = String::new();
        entry.read_to_string(&mut content).unwrap();
        (name, content)
    });
    entries.collect()
}

// Row 42 of FAULTS.md.
#[test]
fn a_support_bundle_has_what_helps_and_no_secret() {
    let sandbox = Sandbox::new("host_id = web-1\npackage_family = deb\n[amqp]\npassword = hunter2\n");
    let state = sandbox.path("root/var/lib/hostagent");
    fs::create_dir_all(&state).unwrap();
    let desired = r#"{"apps": {"web": {"version": "1.0", "url": "http://me:hunter2@h/web.deb",
        "config": {"db": {"password": "hunter2"}}}}}"#;
    fs::write(state.join("desired.json"), format!("{desired}\nsha256:00\n")).unwrap();
    fs::write(state.join("progress.json"), "torn {hunter2").unwrap();

    let output = sandbox.run(&["support-bundle", "-o", "bundle.tar"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let files = unpack(&sandbox.path("bundle.tar"));
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    let expected = [
        "CONTENTS.txt",
        "versions.txt",
        "settings.txt",
        "identity.txt",
        "facts.json",
        "cache.txt",
        "state.txt",
        "state/desired.json",
        "state/progress.json",
    ];
    assert_eq!(names, expected.map(|name| format!("hostagent-support/{name}")));
    for (name, content) in &files {
        assert!(!content.contains("hunter2"), "{name}: {content}");
    }
    let content = |name: &str| &files.iter().find(|(file, _)| file.ends_with(name)).unwrap().1;
    assert!(content("desired.json").contains(r#""version": "1.0""#));
    assert!(content("facts.json").contains(r#""os_family": "Linux""#));
    assert!(content("desired.json").contains("redacted: text of 7 bytes"));
    assert_eq!(
        content("progress.json"),
        "not included: 13 bytes that are not JSON\n"
    );
    let printed = stdout(&output);
    assert!(printed.contains("state/desired.json"), "{printed}");
    assert!(printed.ends_with("written to bundle.tar\n"), "{printed}");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(sandbox.path("bundle.tar")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_support_bundle_works_when_the_settings_do_not() {
    let sandbox = Sandbox::new("heartbeat_period = soon\n");
    let output = sandbox.run(&["support-bundle", "-o", "bundle.tar"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let files = unpack(&sandbox.path("bundle.tar"));
    let (_, settings) = files
        .iter()
        .find(|(name, _)| name.ends_with("settings.txt"))
        .unwrap();
    assert!(
        settings.contains("heartbeat_period: found \"soon\""),
        "{settings}"
    );
}

/// A sandbox host with dpkg's database, its state folder, and what is desired of it.
fn desiring(document: &str) -> (Sandbox, PathBuf) {
    let sandbox = Sandbox::new("host_id = web-1\npackage_family = deb\n");
    let dpkg = sandbox.path("root/var/lib/dpkg");
    fs::create_dir_all(&dpkg).unwrap();
    fs::write(dpkg.join("status"), "").unwrap();
    let state = sandbox.path("root/var/lib/hostagent");
    fs::create_dir_all(&state).unwrap();
    let bytes = hostagent::state_file::with_digest(document.into());
    fs::write(state.join("desired.json"), bytes).unwrap();
    (sandbox, state)
}

#[test]
fn a_host_of_which_nothing_is_known_to_be_desired_is_not_said_to_be_ok() {
    let (sandbox, state) = desiring(r#"{"stated": true, "generation": 1, "id": null, "apps": {}}"#);
    let status = || {
        let output = sandbox.run(&["status"]);
        (output.status.code(), stdout(&output))
    };
    assert_eq!(status(), (Some(0), "web-1: ok\n".to_owned()));

    // Damaged, before and after an agent has set it aside.
    let desired = state.join("desired.json");
    fs::write(&desired, "torn").unwrap();
    for place in ["desired.json", "desired.damaged-1"].map(|name| state.join(name)) {
        if !place.exists() {
            fs::rename(&desired, &place).unwrap();
        }
        let expected = format!(
            "web-1: no desired state is known\n  it was damaged: {}. Nothing is changed until the master sends \
             the next set_config\n",
            place.display()
        );
        assert_eq!(status(), (Some(3), expected));
        // The message says what the agent's would.
        let message = sandbox.run(&["status", "--json"]);
        let json: Value = serde_json::from_slice(&message.stdout).unwrap();
        assert_eq!((message.status.code(), &json["status"]), (Some(3), &"ok".into()));
    }

    fs::remove_file(state.join("desired.damaged-1")).unwrap();
    let never =
        "web-1: no desired state is known\n  nothing was ever desired of this host, so nothing is changed\n";
    assert_eq!(status(), (Some(0), never.to_owned()));
}

#[test]
fn status_says_whether_an_agent_is_there_to_converge() {
    let (sandbox, state) =
        desiring(r#"{"stated": true, "generation": 1, "id": null, "apps": {"web": {"version": "1.0"}}}"#);
    let status = || {
        let output = sandbox.run(&["status"]);
        assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
        stdout(&output)
    };
    let missing = "  web 1.0 is desired and not installed\n";
    assert_eq!(
        status(),
        format!(
            "web-1: converging\n  no agent runs on this host: start it, or use `hostagent apply`\n  not as desired, \
             and no agent runs that could change it\n{missing}"
        )
    );
    let _agent = hostagent::lock::Lock::take(&state).unwrap();
    assert_eq!(
        status(),
        format!(
            "web-1: converging\n  not as desired; the running agent is converging, or about to\n{missing}"
        )
    );
}
