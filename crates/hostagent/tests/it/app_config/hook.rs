use std::path::Path;

use host::ContractKind;
use serde_json::json;

use super::*;

const HOOK: &str = "/opt/pf9/web/config";

/// Keeps the last config it was given in the file `received`, and prints it.
const HONEST: &str = r#"#!/bin/sh
case "$1" in
--get-config) cat "$BACKBONE_ROOT/received" 2>/dev/null || echo '{}' ;;
--set-config)
    if [ "$2" = - ]; then cat; else printf %s "$2"; fi > "$BACKBONE_ROOT/received" ;;
--get-services) echo asked >> "$BACKBONE_ROOT/asked"; echo web web-worker.service ;;
*) exit 2 ;;
esac
"#;

fn script(body: &str) -> String {
    format!("#!/bin/sh\n{body}\n")
}

async fn get_error(body: &str) -> HostError {
    let sandbox = Sandbox::new();
    sandbox.file(HOOK, script(body), 0o755);
    let contracts = sandbox.contracts.hook_deadline(Duration::from_secs(5));
    contracts.read(&app("web"), "web").await.unwrap_err()
}

fn is_alive(pid_file: &Path) -> bool {
    let pid = fs::read_to_string(pid_file).unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    // A zombie is dead.
    !stat.is_empty() && !stat.contains(") Z ")
}

#[tokio::test]
async fn a_config_reaches_the_hook_byte_for_byte() {
    let long = "x'\"\\ \u{e9}\n".repeat(20_000);
    assert!(long.len() > 150_000);
    let values = [
        "'; rm -rf / #",
        "\"; reboot; \"",
        "$(id) `id` ${HOME} %s \\n *",
        "two\nlines\r\n\ttab",
        "-",
        "",
        "\u{0}\u{1}\u{7f} \u{1F980}",
        &long,
    ];
    for value in values {
        let sandbox = Sandbox::new();
        sandbox.file(HOOK, HONEST, 0o755);
        let desired = config(json!({"a b'": {"k\"": value}}));
        sandbox
            .contracts
            .write(&app("web"), "web", &desired, &names(&[]))
            .await
            .unwrap();
        assert_eq!(
            sandbox.read("/received"),
            serde_json::to_string(&desired).unwrap()
        );
        assert_eq!(
            *sandbox.contracts.read(&app("web"), "web").await.unwrap(),
            desired
        );
        assert_eq!(
            sandbox.services.calls(),
            [""; 0],
            "the hook restarts, not the agent"
        );
    }
}

#[tokio::test]
async fn a_hook_that_hangs_is_killed_at_its_deadline() {
    let sandbox = Sandbox::new();
    let body = "echo $$ > \"$BACKBONE_ROOT/pid\"\necho hunter2-S3CRET\nsleep 600 & wait";
    sandbox.file(HOOK, script(body), 0o755);
    let pid = sandbox.root.join("/pid");
    let log = Log::capture();
    let contracts = sandbox.contracts.hook_deadline(Duration::from_millis(500));
    let started = Instant::now();
    let error = contracts.read(&app("web"), "web").await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(error.category, Category::Timeout);
    assert_eq!(
        error.message,
        "the hook `/opt/pf9/web/config --get-config` did not end within 500ms and was killed"
    );
    eventually("the hook is gone", || !is_alive(&pid)).await;
    assert!(!log.text().contains(SECRET), "{}", log.text());
}

#[tokio::test]
async fn a_hook_that_prints_a_gigabyte_is_killed_at_the_first_megabyte() {
    let started = Instant::now();
    let error = get_error("head -c 1000000000 /dev/zero").await;
    assert_eq!(error.category, Category::Script);
    assert!(
        error
            .message
            .contains("printed more than 1048576 bytes and was killed"),
        "{error}"
    );
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn garbage_from_a_hook_is_an_error_that_does_not_quote_it() {
    for garbage in [
        "",
        "hunter2-S3CRET",
        "{\"a\": {\"k\": \"hunter2-S3CRET\"",
        "{\"a\": \"hunter2-S3CRET\"}",
        "[\"hunter2-S3CRET\"]",
        "{\"a\": {\"k\": NaN}}",
        "{\"a\": {\"k\": 1, \"k\": \"hunter2-S3CRET\"}}",
        "\\377\\376hunter2-S3CRET",
        "{\"a\": {}} hunter2-S3CRET",
    ] {
        let error = get_error(&format!("printf '{garbage}'")).await;
        assert_eq!(error.category, Category::Script, "{garbage}");
        assert!(error.message.contains("printed no valid config"), "{error}");
        assert!(!error.message.contains(SECRET), "{error}");
    }
    let deep = format!("printf '{}'", "{\"a\":".repeat(5000));
    assert!(get_error(&deep).await.message.contains("printed no valid config"));
}

#[tokio::test]
async fn what_forks_away_from_a_question_is_killed() {
    let sandbox = Sandbox::new();
    let body = "sleep 600 &\necho $! > \"$BACKBONE_ROOT/pid\"\necho '{\"a\": {\"k\": 1}}'";
    sandbox.file(HOOK, script(body), 0o755);
    let started = Instant::now();
    let read = sandbox.contracts.read(&app("web"), "web").await.unwrap();
    assert_eq!(*read, config(json!({"a": {"k": 1}})));
    assert!(started.elapsed() < Duration::from_secs(5), "waited for the child");
    let pid = sandbox.root.join("/pid");
    eventually("the forked child is gone", || !is_alive(&pid)).await;
}

#[tokio::test]
async fn a_service_that_the_hook_restarts_lives_on() {
    let sandbox = Sandbox::new();
    let body = "if [ $1 = --set-config ]; then sleep 600 >/dev/null 2>&1 &\n\
                echo $! > \"$BACKBONE_ROOT/pid\"; fi\necho '{\"a\": {\"k\": 1}}'";
    sandbox.file(HOOK, script(body), 0o755);
    let desired = config(json!({"a": {"k": 1}}));
    sandbox
        .contracts
        .write(&app("web"), "web", &desired, &names(&["web"]))
        .await
        .unwrap();
    let pid = sandbox.root.join("/pid");
    assert!(is_alive(&pid));
    let id: i32 = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    let id = rustix::process::Pid::from_raw(id).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_hook_that_ignores_a_key_is_found_out() {
    let sandbox = Sandbox::new();
    sandbox.file(
        HOOK,
        script(r#"echo '{"a": {"k": "old-S3CRET", "other": 1}}'"#),
        0o755,
    );
    let desired = config(json!({"a": {"k": SECRET, "other": "1"}, "b": {}}));
    let error = sandbox
        .contracts
        .write(&app("web"), "web", &desired, &names(&[]))
        .await
        .unwrap_err();
    assert_eq!(error.category, Category::Script);
    assert!(
        error
            .message
            .contains("does not print the desired value of a.k afterwards"),
        "{error}"
    );
    assert!(!error.message.contains("S3CRET"), "{error}");
    assert!(
        sandbox
            .contracts
            .unfinished()
            .await
            .unwrap()
            .contains(&app("web"))
    );
}

#[tokio::test]
async fn secrets_are_in_no_error_and_no_log() {
    let sandbox = Sandbox::new();
    let body =
        "echo \"error: pool is empty, got $2\" >&2\necho \"$2 hunter2-S3CRET\" >&2\necho \"$2\"\nexit 7";
    sandbox.file(HOOK, script(body), 0o755);
    let log = Log::capture();
    let desired = json!({"a": {"password": SECRET, "list": [SECRET]}});
    let error = sandbox.write(desired, &[]).await.unwrap_err();
    assert_eq!(error.category, Category::Script);
    assert!(
        error
            .message
            .contains("failed with exit code 7: pool is empty, got"),
        "{error}"
    );
    assert!(!error.message.contains(SECRET), "{error}");
    let error = sandbox.contracts.read(&app("web"), "web").await.unwrap_err();
    assert!(!error.message.contains(SECRET), "{error}");
    assert!(log.text().contains("--set-config"), "nothing was logged at all");
    assert!(!log.text().contains(SECRET), "{}", log.text());
}

#[tokio::test]
async fn a_hook_names_the_services_and_is_asked_once() {
    let sandbox = Sandbox::new();
    let hook = sandbox.file(HOOK, HONEST, 0o755);
    for _ in 0..3 {
        let contract = sandbox.contracts.contract(&app("web"), "web").await.unwrap();
        assert_eq!(contract.kind, ContractKind::Hook);
        assert_eq!(contract.services, Some(names(&["web", "web-worker"])));
        assert_eq!(*contract.watched_files, *std::slice::from_ref(&hook));
    }
    assert_eq!(sandbox.read("/asked"), "asked\n");
    sandbox.file(HOOK, script("[ $1 = --get-config ] && echo '{}'"), 0o755);
    let contract = sandbox.contracts.contract(&app("web"), "web").await.unwrap();
    assert_eq!(
        contract.services, None,
        "an older hook does not know the question"
    );
}

#[tokio::test]
async fn a_hook_is_found_by_the_name_of_the_package_too() {
    let sandbox = Sandbox::new();
    sandbox.file("/opt/pf9/web-pkg/config", HONEST, 0o755);
    let contract = sandbox.contracts.contract(&app("web"), "web-pkg").await.unwrap();
    assert_eq!(contract.kind, ContractKind::Hook);
    // What is not executable, or no file, is no hook.
    sandbox.file("/opt/pf9/plain/config", "x", 0o644);
    fs::create_dir_all(sandbox.root.join("/opt/pf9/folder/config")).unwrap();
    for name in ["plain", "folder", "none"] {
        let contract = sandbox.contracts.contract(&app(name), name).await.unwrap();
        assert_eq!(contract.kind, ContractKind::None, "{name}");
    }
    // A package's name that would lead elsewhere leads nowhere.
    let contract = sandbox
        .contracts
        .contract(&app("none"), "../pf9/web-pkg")
        .await
        .unwrap();
    assert_eq!(contract.kind, ContractKind::None);
}

#[tokio::test]
async fn a_hook_without_its_interpreter_is_said_to_be_so() {
    let sandbox = Sandbox::new();
    sandbox.file(HOOK, "#!/no/such/interpreter\n", 0o755);
    let error = sandbox.contracts.read(&app("web"), "web").await.unwrap_err();
    assert!(
        error.message.contains("cannot be run; does its interpreter"),
        "{error}"
    );
}
