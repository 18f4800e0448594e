//! Real scripts in a sandbox root. `services::detect` must choose them there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use host::services::{SysV, detect};
use host::{Root, ServiceState, Services};
use protocol::Category;

/// Keeps a `sleep` running; notes each call in `calls`. `reload` is its own: absent where a test says so.
const SCRIPT: &str = r#"#!/bin/sh
### BEGIN INIT INFO
# Provides:          app_foo
# Default-Start:     3 5
# Default-Stop:      0 1 6
### END INIT INFO
pid_file="$BACKBONE_ROOT/run/app_foo.pid"
echo "$1" >>"$BACKBONE_ROOT/calls"
runs() { [ -e "$pid_file" ] && kill -0 "$(cat "$pid_file")" 2>/dev/null; }
case "$1" in
start) runs || { sleep 1000 & echo $! >"$pid_file"; } ;;
stop) ! runs || { kill "$(cat "$pid_file")"; rm -f "$pid_file"; } ;;
restart) "$0" stop; "$0" start ;;
status) if runs; then exit 0; elif [ -e "$pid_file" ]; then exit 1; else exit 3; fi ;;
*) echo "usage: $0 start|stop|restart|status" >&2; exit 2 ;;
esac
"#;

struct Sandbox {
    folder: tempfile::TempDir,
    services: Arc<dyn Services>,
}

impl Sandbox {
    fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for path in ["etc/init.d", "run"] {
            fs::create_dir_all(folder.path().join(path)).unwrap();
        }
        let services = detect(&Root::new(folder.path()), None);
        let sandbox = Self { folder, services };
        sandbox.write_script(script);
        sandbox
    }

    fn write_script(&self, script: &str) {
        let path = self.path("etc/init.d/app_foo");
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// What the script was called with since the last look.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("calls")).unwrap_or_default();
        let _ = fs::remove_file(self.path("calls"));
        text.lines().map(str::to_owned).collect()
    }

    fn pid(&self) -> String {
        let text = fs::read_to_string(self.path("run/app_foo.pid")).unwrap();
        text.trim().to_owned()
    }

    async fn running(&self, fresh: bool) -> bool {
        let state = self.services.state("app_foo", fresh).await.unwrap();
        state.unwrap().running
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Ok(pid) = fs::read_to_string(self.path("run/app_foo.pid")) {
            let _ = std::process::Command::new("kill").arg(pid.trim()).output();
        }
    }
}

#[tokio::test]
async fn a_service_starts_stops_and_restarts() {
    let sandbox = Sandbox::new(SCRIPT);
    let services = &sandbox.services;
    assert!(!sandbox.running(false).await);
    services.start("app_foo").await.unwrap();
    assert!(
        sandbox.running(false).await,
        "the answer from before the start is void"
    );
    let first = sandbox.pid();
    services.restart("app_foo").await.unwrap();
    assert!(sandbox.running(false).await);
    assert_ne!(sandbox.pid(), first);
    services.stop("app_foo").await.unwrap();
    assert!(!sandbox.running(false).await);
}

#[tokio::test]
async fn reload_falls_back_to_restart_only_where_the_script_has_none() {
    let sandbox = Sandbox::new(SCRIPT);
    sandbox.services.reload("app_foo").await.unwrap();
    assert_eq!(sandbox.calls(), ["status"], "a stopped service stays stopped");
    sandbox.services.start("app_foo").await.unwrap();
    sandbox.services.reload("app_foo").await.unwrap();
    assert_eq!(
        sandbox.calls(),
        ["start", "status", "reload", "restart", "stop", "start"]
    );

    let fails = SCRIPT.replace("*) echo", "reload) echo broken config >&2; exit 1 ;;\n*) echo");
    sandbox.write_script(&fails);
    let error = sandbox.services.reload("app_foo").await.unwrap_err();
    assert_eq!(error.category, Category::Script);
    assert!(error.message.contains("broken config"), "{error}");
    assert_eq!(sandbox.calls(), ["status", "reload"]);

    sandbox.write_script(&SCRIPT.replace("*) echo", "reload) ;;\n*) echo"));
    sandbox.services.reload("app_foo").await.unwrap();
    assert_eq!(sandbox.calls(), ["status", "reload"]);
}

#[tokio::test]
async fn looking_again_starts_no_process() {
    let sandbox = Sandbox::new(SCRIPT);
    let services = SysV::new(&Root::new(sandbox.folder.path()));
    assert_eq!(services.answer_age("app_foo"), None);
    for fresh in [false, true, false, true] {
        services.state("app_foo", fresh).await.unwrap();
    }
    assert_eq!(sandbox.calls(), ["status"]);
    assert!(services.answer_age("app_foo").unwrap() < Duration::from_secs(5));
    services.reread_units().await.unwrap();
    services.state("app_foo", false).await.unwrap();
    assert_eq!(sandbox.calls(), ["status"]);
}

/// Real seconds, since the age of an answer counts what a script takes.
#[tokio::test]
async fn an_old_answer_serves_unless_it_is_to_be_fresh() {
    let sandbox = Sandbox::new(SCRIPT);
    sandbox.services.start("app_foo").await.unwrap();
    assert!(sandbox.running(false).await);
    let asked = Instant::now();
    std::process::Command::new("kill")
        .arg(sandbox.pid())
        .status()
        .unwrap();
    let answer_is_old = Duration::from_millis(5100);
    tokio::time::sleep(answer_is_old.saturating_sub(asked.elapsed())).await;
    assert!(sandbox.running(false).await, "the kept answer");
    assert!(!sandbox.running(true).await, "asked anew");
    assert_eq!(sandbox.calls(), ["start", "status", "status"]);
}

#[tokio::test]
async fn links_of_the_sandbox_decide_what_starts_at_boot() {
    let sandbox = Sandbox::new(SCRIPT);
    let services = &sandbox.services;
    let enabled = async || services.state("app_foo", false).await.unwrap().unwrap().enabled;
    assert_eq!(enabled().await, Some(false));
    services.enable("app_foo").await.unwrap();
    assert_eq!(enabled().await, Some(true));
    for (link, there) in [
        ("etc/rc3.d/S20app_foo", true),
        ("etc/rc5.d/S20app_foo", true),
        ("etc/rc2.d/S20app_foo", false),
        ("etc/rc6.d/K80app_foo", true),
    ] {
        assert_eq!(sandbox.path(link).exists(), there, "{link}");
    }
    services.enable("app_foo").await.unwrap();
    services.disable("app_foo").await.unwrap();
    assert_eq!(enabled().await, Some(false));
    assert!(sandbox.path("etc/rc3.d/K80app_foo").exists());
    assert!(!sandbox.path("etc/rc3.d/S20app_foo").exists());
    assert_eq!(
        sandbox.calls(),
        ["status"],
        "neither looks nor links need the script"
    );
}

#[tokio::test]
async fn a_failing_start_says_what_the_script_said() {
    let sandbox = Sandbox::new(&SCRIPT.replace("start) ", "start) echo 'port 80 is taken' >&2; exit 1; "));
    let error = sandbox.services.start("app_foo").await.unwrap_err();
    assert_eq!(error.category, Category::Script);
    for part in ["app_foo", "start", "exit code 1", "port 80 is taken"] {
        assert!(error.message.contains(part), "{part}: {error}");
    }
}

#[tokio::test]
async fn a_status_that_is_no_answer_is_an_error_and_not_kept() {
    let sandbox = Sandbox::new(&SCRIPT.replace("status) ", "status) exit 4; "));
    let error = sandbox.services.state("app_foo", false).await.unwrap_err();
    assert_eq!(error.category, Category::Script);
    assert!(error.message.contains("exit code 4"), "{error}");
    sandbox.write_script(SCRIPT);
    assert!(!sandbox.running(false).await);
}

#[tokio::test]
async fn unknown_and_impossible_services() {
    let sandbox = Sandbox::new(SCRIPT);
    assert_eq!(sandbox.services.state("app_bar", false).await.unwrap(), None);
    let error = sandbox.services.start("app_bar").await.unwrap_err();
    assert_eq!(error.category, Category::NotFound);
    let error = sandbox
        .services
        .state("../init.d/app_foo", false)
        .await
        .unwrap_err();
    assert_eq!(error.category, Category::Invalid);
    assert!(sandbox.calls().is_empty());
}

#[tokio::test]
async fn a_removed_script_is_gone_at_once() {
    let sandbox = Sandbox::new(SCRIPT);
    let stopped = ServiceState {
        running: false,
        enabled: Some(false),
        instance: None,
        masked: false,
    };
    assert_eq!(
        sandbox.services.state("app_foo", false).await.unwrap(),
        Some(stopped)
    );
    fs::remove_file(sandbox.path("etc/init.d/app_foo")).unwrap();
    assert_eq!(sandbox.services.state("app_foo", false).await.unwrap(), None);
}
