//! What packages bring runs outside the agent's tight unit, says nothing to other users, and ends with the agent.

use e2e::app::app_that_runs;
use e2e::host::Host;
use e2e::world::World;
use harness::driver::Received;
use harness::machine;
use serde_json::{Value, json};

/// A hook that notes what it may do, and waits at `--set-config` for as long as `/run/hold` is there.
const HOOK: &str = r#"#!/bin/sh
set -e
case "$1" in
    --get-config) cat /etc/app.conf ;;
    --set-config)
        grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/self/status > /run/hook.rights
        cat /proc/self/cgroup > /run/hook.cgroup
        # What the agent's own unit forbids: another mount namespace, and a setuid file.
        unshare --mount true
        touch /run/hook.setuid; chmod 4755 /run/hook.setuid
        echo $$ > /run/hook.pid
        while [ -e /run/hold ]; do sleep 0.1; done
        [ ! -e /run/nap ] || sleep 4
        printf '%s\n' "$2" > /etc/app.conf
        ;;
    --get-services) echo app ;;
esac
"#;
const CHECK: &str = "#!/bin/sh\ncat /proc/self/cgroup > /run/check.cgroup\n";
const SECRET: &str = "correct-horse-battery-staple";
const HOOKS_UNITS: &str = "systemctl list-units --all --plain --no-legend 'hostagent-hooks-*' | grep -q .";

fn in_a_unit_of_its_own(host: &Host, file: &str) {
    let group = host.machine.sh(&format!("cat {file}")).unwrap();
    assert!(group.contains("/hostagent-hooks-"), "{file}: {group}");
}

fn desired(url: &str, config: &Value) -> Value {
    json!({"app": {"version": "1.0", "url": url, "config": config}})
}

#[tokio::test]
async fn a_hook_may_do_what_the_agent_may_not_and_nobody_reads_its_config() {
    if machine::skip("a_hook_may_do_what_the_agent_may_not_and_nobody_reads_its_config") {
        return;
    }
    let mut world = World::new().await.unwrap();
    let (mut host, id) = world.managed_host("").await.unwrap();
    let app = app_that_runs("app", "1.0", "exec sleep 1000000")
        .file("/opt/pf9/app/config", 0o755, HOOK)
        .conffile("/etc/app.conf", "{}\n");
    let url = world.serve(&app, &host).unwrap();
    let config = json!({"app": {"password": SECRET}});

    // In the midst of the hook's work.
    host.machine.sh("touch /run/hold").unwrap();
    let message = world.set_config(&id, &desired(&url, &config)).await.unwrap();
    host.until("[ -s /run/hook.pid ]").await.unwrap();
    in_a_unit_of_its_own(&host, "/run/hook.cgroup");
    let rights = host.machine.sh("cat /run/hook.rights").unwrap();
    let all = host
        .machine
        .sh("grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/1/status")
        .unwrap();
    let capabilities = |text: &str| {
        text.lines()
            .find(|line| line.starts_with("CapBnd"))
            .map(str::to_owned)
    };
    assert_eq!(capabilities(&rights), capabilities(&all), "as many as init has");
    assert!(rights.contains("NoNewPrivs:\t0"), "{rights}");
    let agent = host
        .machine
        .sh("grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/$(systemctl show -P MainPID hostagent)/status")
        .unwrap();
    assert!(
        agent.contains("NoNewPrivs:\t1")
            && agent.contains("Seccomp:\t2")
            && capabilities(&agent) != capabilities(&all),
        "the agent itself is not confined: {agent}"
    );
    let shown = host
        .machine
        .sh("systemctl show 'hostagent*'; journalctl --no-pager -b")
        .unwrap();
    assert!(shown.contains("run-hooks"), "the unit of hooks is not among them");
    assert!(!shown.contains(SECRET), "a secret is shown");

    // An agent that dies takes its hook with it, and the next one begins anew.
    let hook = host.machine.sh("cat /run/hook.pid").unwrap();
    host.machine
        .sh("rm /run/hook.pid; systemctl kill -s KILL --kill-whom=main hostagent")
        .unwrap();
    host.until(&format!("! kill -0 {}", hook.trim())).await.unwrap();
    host.until("[ -s /run/hook.pid ]").await.unwrap();
    host.machine.sh("rm /run/hold").unwrap();
    let answer = world.answer(&host, &id, &message).await.unwrap();
    assert_eq!(answer.state(), "ok", "{}\n{}", answer.message, host.log());
    assert!(host.machine.sh("cat /etc/app.conf").unwrap().contains(SECRET));

    // A runner that somebody kills takes its hook with it, too, and another one does the work.
    host.machine.sh("touch /run/hold; rm /run/hook.pid").unwrap();
    let config = json!({"app": {"password": "one-more-secret"}});
    let message = world.set_config(&id, &desired(&url, &config)).await.unwrap();
    host.until("[ -s /run/hook.pid ]").await.unwrap();
    let hook = host.machine.sh("cat /run/hook.pid").unwrap();
    host.machine
        .sh("rm /run/hook.pid; systemctl kill -s KILL --kill-whom=main 'hostagent-hooks-*'")
        .unwrap();
    host.until(&format!("! kill -0 {}", hook.trim())).await.unwrap();
    // The rollback runs the hook again with the previous config: a part of the other may be applied.
    host.machine.sh("rm /run/hold").unwrap();
    let answer = world.answer(&host, &id, &message).await.unwrap();
    let error = &answer.data("errors")[0];
    assert_eq!(error["category"], "host", "{error}");
    assert!(
        error["message"].as_str().unwrap().contains("has ended"),
        "{error}"
    );
    assert_eq!(error["rolled_back"], true, "{error}");
    let is_ok = |status: &Received| status.state() == "ok";
    world
        .status(&host, &id, "it is tried again", is_ok)
        .await
        .unwrap();
    assert!(host.machine.sh("cat /etc/app.conf").unwrap().contains("one-more"));

    // Told to stop, an agent lets a hook come to its end.
    host.machine.sh("touch /run/hold; rm /run/hook.pid").unwrap();
    let config = json!({"app": {"password": "another"}});
    let message = world.set_config(&id, &desired(&url, &config)).await.unwrap();
    host.until("[ -s /run/hook.pid ]").await.unwrap();
    host.machine
        .sh("systemctl --no-block stop hostagent; sleep 1; kill -0 $(cat /run/hook.pid); rm /run/hold")
        .unwrap();
    host.until("[ $(systemctl show -P ActiveState hostagent) = inactive ]")
        .await
        .unwrap();
    assert!(host.machine.sh("cat /etc/app.conf").unwrap().contains("another"));
    host.until(&format!("! {HOOKS_UNITS}")).await.unwrap();
    host.start_agent().unwrap();
    let answer = world.answer(&host, &id, &message).await.unwrap();
    assert_eq!(answer.state(), "ok", "{}\n{}", answer.message, host.log());

    // So does one whose host is shut down, and what it has set is not taken for a failure.
    host.machine.sh("touch /run/nap; rm /run/hook.pid").unwrap();
    let config = json!({"app": {"password": "the last"}});
    let message = world.set_config(&id, &desired(&url, &config)).await.unwrap();
    host.until("[ -s /run/hook.pid ]").await.unwrap();
    host.reboot().unwrap();
    assert!(host.machine.sh("cat /etc/app.conf").unwrap().contains("the last"));
    let answer = world.answer(&host, &id, &message).await.unwrap();
    assert_eq!(answer.state(), "ok", "{}\n{}", answer.message, host.log());
}

#[tokio::test]
async fn a_health_check_is_made_outside_and_the_agents_own_files_are_where_manifests_want_them() {
    if machine::skip("a_health_check_is_made_outside_and_the_agents_own_files_are_where_manifests_want_them")
    {
        return;
    }
    let mut world = World::new().await.unwrap();
    let (host, id) = world.managed_host("").await.unwrap();
    // Files of others, in places that a tight unit likes to hide.
    let manifest = "services = [\"app\"]\n\
         [config.home]\nfile = \"/home/app/app.ini\"\nformat = \"ini\"\n\
         [config.usr]\nfile = \"/usr/share/app/app.ini\"\nformat = \"ini\"\n\
         [config.tmp]\nfile = \"/var/tmp/app.ini\"\nformat = \"ini\"\n\
         [[health]]\ntype = \"exec\"\ncommand = [\"/opt/pf9/app/check\"]\n";
    let app = app_that_runs("app", "1.0", "exec sleep 1000000")
        .file("/usr/share/hostagent/apps/app.toml", 0o644, manifest)
        .file("/opt/pf9/app/check", 0o755, CHECK);
    host.machine
        .sh(
            "useradd --create-home app; for folder in /home/app /usr/share/app /var/tmp; do mkdir -p $folder; \
             printf '# app\\n' > $folder/app.ini; chown app:app $folder/app.ini; chmod 600 $folder/app.ini; done",
        )
        .unwrap();
    let url = world.serve(&app, &host).unwrap();
    let config = json!({"home": {"x": "1"}, "usr": {"x": "2"}, "tmp": {"x": "3"}});
    let answer = world.converge(&host, &id, &desired(&url, &config)).await.unwrap();
    assert_eq!(answer.state(), "ok", "{}\n{}", answer.message, host.log());
    in_a_unit_of_its_own(&host, "/run/check.cgroup");
    // apt makes the change, in one run.
    let runs = host
        .machine
        .sh("journalctl --no-pager -b | grep -E 'Started hostagent-run'")
        .unwrap();
    assert!(runs.lines().count() == 1 && runs.contains("apt-get"), "{runs}");
    let found = host
        .machine
        .sh("cd /; for file in home/app usr/share/app var/tmp; do stat -c '%U:%G %a' $file/app.ini; grep x $file/app.ini; done")
        .unwrap()
        .replace(' ', "");
    let lines: Vec<&str> = found.lines().collect();
    assert_eq!(
        lines,
        ["app:app600", "x=1", "app:app600", "x=2", "app:app600", "x=3"]
    );
}
