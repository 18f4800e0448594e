//! The agent is killed, or runs out of disk, at every system call that matters while it changes two files
//! of an application.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use super::*;

const FOLDER: &str = "KILLED_AGENT_ROOT";
const OLD: &str = "# kept\n[s]\nk = old\n";
const NEW: &str = "# kept\n[s]\nk = new\n";
const FILES: [&str; 2] = ["/etc/a.ini", "/etc/b.ini"];

/// Notes restarts in a file, which outlives the process.
fn contracts(root: &Root) -> (Contracts, Arc<Recorder>) {
    let services = Arc::new(Recorder::default());
    let state = root.join("/var/lib/hostagent");
    (Contracts::new(root.clone(), services.clone(), &state), services)
}

fn desired() -> Config {
    config(json!({"a": {"k": "new"}, "b": {"k": "new"}}))
}

/// Not a test: what the tests below start, to harm it. Leaves the error it got in the file `error`.
#[tokio::test]
#[ignore = "run by the other tests of this file"]
async fn child() {
    let root = Root::new(std::env::var_os(FOLDER).expect("a folder from the parent"));
    let (contracts, services) = contracts(&root);
    let written = contracts
        .write(&app("web"), "web", &desired(), &names(&["web"]))
        .await;
    if let Err(error) = written {
        let report = format!("{:?}: {}", error.category, error.message);
        fs::write(root.join("/error"), report).unwrap();
        panic!("{error}");
    }
    assert_eq!(services.calls(), ["restart web"]);
}

fn sandbox_with_two_files() -> Sandbox {
    let sandbox = Sandbox::new();
    let manifest = "[config.a]\nfile = \"/etc/a.ini\"\nformat = \"ini\"\ntable = \"s\"\n\
                    [config.b]\nfile = \"/etc/b.ini\"\nformat = \"ini\"\ntable = \"s\"\n";
    sandbox.file("/etc/hostagent/apps/web.toml", manifest, 0o644);
    for file in FILES {
        sandbox.file(file, OLD, 0o640);
    }
    sandbox
}

/// Runs the change in a process that gets `fault` at the `nth` call; says whether it came through.
///
/// strace counts the calls of each thread: the first ones hit the note in the state folder, the later ones
/// the files, which are written on a thread of their own.
fn run_child(root: &Path, calls: &str, fault: &str, nth: usize) -> bool {
    let inject = format!("inject={calls}:{fault}:when={nth}");
    Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e"])
        .arg(format!("trace={calls}"))
        .args(["-e", &inject])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "app_config::kill::child", "--ignored"])
        .env(FOLDER, root)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("strace (package strace) is needed")
        .success()
}

#[tokio::test]
async fn killed_at_any_system_call_the_next_run_completes_the_change() {
    let (mut killed, mut half_done) = (0, 0);
    for calls in ["/^rename", "fsync", "/^unlink", "fchmod", "/^mkdir"] {
        for nth in 1.. {
            assert!(nth < 50, "{calls} never runs out");
            let sandbox = sandbox_with_two_files();
            if run_child(sandbox.root.path(), calls, "signal=SIGKILL", nth) {
                break;
            }
            killed += 1;
            half_done += usize::from(check_and_complete(&sandbox, &format!("{calls} {nth}")).await);
        }
    }
    assert!(
        killed >= 10 && half_done >= 1,
        "{killed} killed, {half_done} of them half done"
    );
}

#[tokio::test]
async fn a_full_disk_leaves_whole_files_and_is_said_and_got_over() {
    for nth in 1.. {
        assert!(nth < 50, "never runs out");
        let sandbox = sandbox_with_two_files();
        if run_child(sandbox.root.path(), "fsync", "error=ENOSPC", nth) {
            assert_eq!(nth, 5, "the third and fourth are those of the second file");
            break;
        }
        let error = sandbox.read("/error");
        assert!(error.starts_with("DiskSpace: cannot "), "{error}");
        assert!(error.contains("No space left on device"), "{error}");
        check_and_complete(&sandbox, &format!("fsync {nth}")).await;
    }
}

/// Every file is the old or the new one; the next run completes the change. Says whether it was half done.
async fn check_and_complete(sandbox: &Sandbox, what: &str) -> bool {
    let contents = FILES.map(|file| sandbox.read(file));
    let whole = contents.iter().all(|text| text == OLD || text == NEW);
    assert!(whole, "{what}: {contents:?}");

    let (contracts, services) = contracts(&sandbox.root);
    let web = app("web");
    let unfinished = contracts.unfinished().await.unwrap().contains(&web);
    let changed = contents.iter().any(|text| text == NEW);
    assert!(unfinished || !changed, "{what}: a change that nobody remembers");
    let running = names(&["web"]);
    contracts.write(&web, "web", &desired(), &running).await.unwrap();
    assert_eq!(services.calls(), ["restart web"], "{what}");
    assert_eq!(FILES.map(|file| sandbox.read(file)), [NEW, NEW]);
    assert!(!contracts.unfinished().await.unwrap().contains(&web));
    let left = fs::read_dir(sandbox.root.join("/etc")).unwrap().count();
    assert_eq!(left, FILES.len() + 1, "{what}: temporary files are left behind");
    contents[0] != contents[1]
}
