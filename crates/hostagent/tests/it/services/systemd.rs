//! A real systemd, in a machine of its own; the agent's side talks to the machine's system bus from outside.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use harness::machine::{self, Machine};
use host::services::Systemd;
use host::{Root, ServiceState, Services};
use protocol::Category;

/// A machine, and the agent's view of its systemd.
struct Systems {
    machine: Machine,
    systemd: Systemd,
}

impl Systems {
    fn boot() -> Self {
        let machine = Machine::boot().unwrap();
        let systemd = Systemd::new(&Root::new(machine.path("/")));
        Self { machine, systemd }
    }

    /// A unit that runs `exec_start`, with more lines for its sections.
    async fn add_unit(&self, name: &str, exec_start: &str, service: &str, install: &str) {
        let text = format!("[Service]\nExecStart={exec_start}\n{service}\n[Install]\n{install}\n");
        let path = format!("/usr/lib/systemd/system/{name}.service");
        self.machine.write(&path, text, 0o644).unwrap();
        self.systemd.reread_units().await.unwrap();
    }

    async fn instance(&self, service: &str) -> Option<u64> {
        self.systemd
            .state(service, false)
            .await
            .unwrap()
            .unwrap()
            .instance
    }

    /// Which process it is, a test of its own tells.
    async fn state(&self, service: &str) -> Option<ServiceState> {
        let state = self.systemd.state(service, false).await.unwrap()?;
        Some(ServiceState {
            instance: None,
            masked: false,
            ..state
        })
    }

    /// What systemctl says, to compare with.
    fn systemctl(&self, arguments: &[&str]) -> String {
        let output = self.machine.run(&[&["systemctl"], arguments].concat()).unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Kills a service's main process, behind systemd's back.
    fn kill(&self, service: &str) {
        let script = format!("kill -KILL $(systemctl show -P MainPID {service})");
        self.machine.sh(&script).unwrap();
    }

    fn watch(&self, services: &[&str]) {
        let watched = services.iter().map(|&service| service.to_owned()).collect();
        self.systemd.changes().unwrap().set_watched(watched);
    }

    /// The next changes; empty if none come within `patience`.
    async fn changes(&self, patience: Duration) -> BTreeSet<String> {
        let changes = self.systemd.changes().unwrap();
        let taken = tokio::time::timeout(patience, changes.take()).await;
        taken.unwrap_or_default()
    }
}

const WANTED: &str = "WantedBy=multi-user.target";
const SLEEP: &str = "/bin/sleep infinity";

fn state(running: bool, enabled: Option<bool>) -> Option<ServiceState> {
    Some(ServiceState {
        running,
        enabled,
        instance: None,
        masked: false,
    })
}

#[tokio::test]
async fn services_start_stop_and_stay_enabled_over_a_reboot() {
    if machine::skip("services_start_stop_and_stay_enabled_over_a_reboot") {
        return;
    }
    let mut systems = Systems::boot();
    systems.add_unit("app_foo", SLEEP, "", WANTED).await;
    let systemd = &systems.systemd;
    assert_eq!(systems.state("app_foo").await, state(false, Some(false)));

    systemd.start("app_foo").await.unwrap();
    assert_eq!(systems.state("app_foo").await, state(true, Some(false)));
    assert_eq!(systems.systemctl(&["is-active", "app_foo"]), "active");
    systemd.enable("app_foo").await.unwrap();
    assert_eq!(systems.state("app_foo").await, state(true, Some(true)));
    systemd.enable("app_foo").await.unwrap();

    let pid = systems.systemctl(&["show", "-P", "MainPID", "app_foo"]);
    systemd.restart("app_foo").await.unwrap();
    assert_ne!(systems.systemctl(&["show", "-P", "MainPID", "app_foo"]), pid);

    systems.machine.reboot().unwrap();
    // Another PID 1, whose root is another path from outside.
    systems.systemd = Systemd::new(&Root::new(systems.machine.path("/")));
    let systemd = &systems.systemd;
    assert_eq!(systems.state("app_foo").await, state(true, Some(true)));
    systemd.disable("app_foo").await.unwrap();
    systemd.stop("app_foo").await.unwrap();
    systemd.stop("app_foo").await.unwrap();
    assert_eq!(systems.state("app_foo").await, state(false, Some(false)));
    assert_eq!(systems.systemctl(&["is-enabled", "app_foo"]), "disabled");
}

#[tokio::test]
async fn a_service_that_flaps_between_two_looks_is_another_instance() {
    if machine::skip("a_service_that_flaps_between_two_looks_is_another_instance") {
        return;
    }
    let systems = Systems::boot();
    let lines = "Restart=always\nRestartSec=0\nExecReload=/bin/true";
    systems.add_unit("app_foo", SLEEP, lines, WANTED).await;
    assert_eq!(systems.instance("app_foo").await, None);
    systems.systemd.start("app_foo").await.unwrap();
    let first = systems.instance("app_foo").await;
    assert!(first.is_some());

    systems.systemd.reload("app_foo").await.unwrap();
    systems.systemd.reread_units().await.unwrap();
    assert_eq!(systems.instance("app_foo").await, first, "the same process");

    systems.kill("app_foo");
    let deadline = Instant::now() + Duration::from_secs(10);
    while systems.instance("app_foo").await == first
        || systems.state("app_foo").await != state(true, Some(false))
    {
        assert!(Instant::now() < deadline, "the new process is not seen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let second = systems.instance("app_foo").await;
    systems.systemd.restart("app_foo").await.unwrap();
    assert_ne!(systems.instance("app_foo").await, second);

    // It has no process at all.
    let timer = "[Timer]\nOnBootSec=1h\nUnit=app_foo.service\n";
    systems
        .machine
        .write("/usr/lib/systemd/system/app_foo.timer", timer, 0o644)
        .unwrap();
    systems.systemd.reread_units().await.unwrap();
    systems.systemd.start("app_foo.timer").await.unwrap();
    assert_eq!(systems.state("app_foo.timer").await, state(true, None));
    assert_eq!(systems.instance("app_foo.timer").await, None);
}

#[tokio::test]
async fn reload_reloads_where_the_unit_can_and_restarts_where_it_cannot() {
    if machine::skip("reload_reloads_where_the_unit_can_and_restarts_where_it_cannot") {
        return;
    }
    let systems = Systems::boot();
    systems
        .add_unit("app_can", SLEEP, "ExecReload=/bin/touch /run/reloaded", WANTED)
        .await;
    systems.add_unit("app_cannot", SLEEP, "", WANTED).await;
    for (service, same_process) in [("app_can", true), ("app_cannot", false)] {
        systems.systemd.start(service).await.unwrap();
        let pid = || systems.systemctl(&["show", "-P", "MainPID", service]);
        let before = pid();
        systems.systemd.reload(service).await.unwrap();
        assert_eq!(pid() == before, same_process, "{service}");
    }
    systems.machine.sh("test -e /run/reloaded").unwrap();
    systems.systemd.stop("app_cannot").await.unwrap();
    systems.systemd.reload("app_cannot").await.unwrap();
    assert_eq!(
        systems.state("app_cannot").await,
        state(false, Some(false)),
        "a stopped one stays stopped"
    );
}

#[tokio::test]
async fn failures_say_which_unit_what_and_where_to_look() {
    if machine::skip("failures_say_which_unit_what_and_where_to_look") {
        return;
    }
    let systems = Systems::boot();
    let systemd = &systems.systemd;
    systems
        .add_unit("app_bad", "/bin/sh -c 'exit 3'", "Type=oneshot", WANTED)
        .await;
    let error = systemd.start("app_bad").await.unwrap_err();
    assert_eq!(error.category, Category::Script);
    for part in [
        "start app_bad.service",
        "`failed`",
        "exit-code",
        "ExecMainStatus=3",
        "journalctl -u app_bad",
    ] {
        assert!(error.message.contains(part), "{part}: {error}");
    }
    // As often as one likes: an earlier failure is no reason to refuse the next try.
    for _ in 0..10 {
        let error = systemd.start("app_bad").await.unwrap_err();
        assert!(error.message.contains("exit-code"), "{error}");
    }

    systems
        .add_unit("app_slow", SLEEP, "Type=notify\nTimeoutStartSec=1", WANTED)
        .await;
    let error = systemd.start("app_slow").await.unwrap_err();
    assert!(error.message.contains("timeout"), "{error}");

    let error = systemd.start("app_none").await.unwrap_err();
    assert_eq!(error.category, Category::NotFound);
    assert!(error.message.contains("app_none.service"), "{error}");
    let error = systemd.enable("app_none").await.unwrap_err();
    assert_eq!(error.category, Category::NotFound);

    systems.add_unit("app_masked", SLEEP, "", WANTED).await;
    systems.systemctl(&["mask", "app_masked"]);
    assert_eq!(systems.state("app_masked").await, state(false, Some(false)));
    let error = systemd.start("app_masked").await.unwrap_err();
    assert!(error.message.contains("systemctl unmask"), "{error}");
}

#[tokio::test]
async fn unknown_static_and_aliased_units() {
    if machine::skip("unknown_static_and_aliased_units") {
        return;
    }
    let systems = Systems::boot();
    let systemd = &systems.systemd;
    assert_eq!(systems.state("app_none").await, None);
    systems.add_unit("app_none", SLEEP, "", WANTED).await;
    assert_eq!(
        systems.state("app_none").await,
        state(false, Some(false)),
        "that it is missing is not kept"
    );

    systems.add_unit("app_static", SLEEP, "", "").await;
    assert_eq!(systems.systemctl(&["is-enabled", "app_static"]), "static");
    assert_eq!(systems.state("app_static").await, state(false, None));
    systemd.enable("app_static").await.unwrap();
    systemd.disable("app_static").await.unwrap();
    systemd.start("app_static").await.unwrap();
    assert_eq!(systems.state("app_static").await, state(true, None));

    systems
        .add_unit(
            "app_foo",
            SLEEP,
            "",
            "WantedBy=multi-user.target\nAlias=app_alias.service",
        )
        .await;
    systemd.enable("app_foo").await.unwrap();
    systemd.start("app_foo").await.unwrap();
    assert_eq!(systems.state("app_alias").await, state(true, Some(true)));
    systemd.enable("app_alias").await.unwrap();
}

#[tokio::test]
async fn sysv_scripts_that_systemd_has_wrapped_are_enabled_by_their_links() {
    if machine::skip("sysv_scripts_that_systemd_has_wrapped_are_enabled_by_their_links") {
        return;
    }
    let systems = Systems::boot();
    let script = "#!/bin/sh\n### BEGIN INIT INFO\n# Provides: app_old\n# Required-Start:\n# Required-Stop:\n\
                  # Default-Start: 2 3 4 5\n# Default-Stop: 0 1 6\n### END INIT INFO\n\
                  case $1 in start) sleep 1000 >/dev/null 2>&1 & ;; esac\n";
    systems
        .machine
        .write("/etc/init.d/app_old", script, 0o755)
        .unwrap();
    let systemd = &systems.systemd;
    systemd.reread_units().await.unwrap();
    assert_eq!(systems.state("app_old").await, state(false, Some(false)));
    systemd.start("app_old").await.unwrap();
    systemd.enable("app_old").await.unwrap();
    assert_eq!(systems.state("app_old").await, state(true, Some(true)));
    let wanted = systems.systemctl(&["show", "-P", "WantedBy", "app_old"]);
    assert!(wanted.contains("multi-user.target"), "{wanted}");
    systemd.disable("app_old").await.unwrap();
    assert_eq!(systems.state("app_old").await, state(true, Some(false)));
}

#[tokio::test]
async fn what_others_do_to_a_unit_is_seen_within_a_second() {
    if machine::skip("what_others_do_to_a_unit_is_seen_within_a_second") {
        return;
    }
    let systems = Systems::boot();
    for service in ["app_foo", "app_off", "app_unwatched"] {
        systems.add_unit(service, SLEEP, "", WANTED).await;
    }
    for service in ["app_foo", "app_unwatched"] {
        systems.systemd.start(service).await.unwrap();
    }
    systems.watch(&["app_foo", "app_off", "app_none"]);
    for service in ["app_foo", "app_off", "app_none", "app_unwatched"] {
        systems.state(service).await;
    }
    let quiet = Duration::from_millis(300);
    while !systems.changes(quiet).await.is_empty() {}

    systems.kill("app_unwatched");
    assert_eq!(systems.changes(quiet).await, BTreeSet::new());

    systems.kill("app_foo");
    let killed = Instant::now();
    let second = Duration::from_secs(1);
    assert_eq!(systems.changes(second).await, ["app_foo".to_owned()].into());
    eprintln!(
        "killed -> change seen: {:?} (of which some was spent in nsenter)",
        killed.elapsed()
    );
    assert_eq!(systems.state("app_foo").await, state(false, Some(false)));

    // One that systemd has not even loaded, since nothing refers to it.
    systems.machine.sh("systemctl start app_off").unwrap();
    assert_eq!(systems.changes(second).await, ["app_off".to_owned()].into());
    assert_eq!(systems.state("app_off").await, state(true, Some(false)));

    systems.machine.sh("systemctl enable app_off 2>&1").unwrap();
    assert!(systems.changes(second).await.contains("app_off"));
    assert_eq!(systems.state("app_off").await, state(true, Some(true)));
}

/// Else a reconciler that looks because something changed would wake itself for ever.
#[tokio::test]
async fn looking_and_own_changes_are_no_news() {
    if machine::skip("looking_and_own_changes_are_no_news") {
        return;
    }
    let systems = Systems::boot();
    systems.add_unit("app_foo", SLEEP, "", WANTED).await;
    systems.watch(&["app_foo", "app_none"]);
    for _ in 0..20 {
        systems.state("app_foo").await;
        systems.state("app_none").await;
    }
    systems.systemd.start("app_foo").await.unwrap();
    systems.systemd.enable("app_foo").await.unwrap();
    systems.systemd.stop("app_foo").await.unwrap();
    systems.systemd.reread_units().await.unwrap();
    assert_eq!(systems.changes(Duration::from_millis(500)).await, BTreeSet::new());
}

/// As at an installation of many. Reading unit files again takes systemd longer than all else.
#[tokio::test]
async fn services_that_are_enabled_side_by_side_have_systemd_reload_about_once() {
    if machine::skip("services_that_are_enabled_side_by_side_have_systemd_reload_about_once") {
        return;
    }
    let systems = Systems::boot();
    let services: Vec<String> = (0..10).map(|n| format!("app_{n}")).collect();
    for service in &services {
        systems.add_unit(service, SLEEP, "", WANTED).await;
    }
    let reloads = || {
        let count = "journalctl --sync; journalctl -b _PID=1 -o cat | grep -c '^Reloading[^ ]*\\( requested\\|\\.\\)'";
        let output = systems.machine.run(&["sh", "-c", count]).unwrap();
        let count: usize = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap();
        count
    };
    let one_by_one = reloads();
    assert!(one_by_one >= services.len(), "{one_by_one}");
    let names: Vec<&str> = services.iter().map(String::as_str).collect();
    systems.watch(&names);
    let enable_and_start = async |service: &str| {
        systems.systemd.enable(service).await.unwrap();
        systems.systemd.start(service).await.unwrap();
    };
    futures_util::future::join_all(names.iter().map(|name| enable_and_start(name))).await;
    for name in names {
        assert_eq!(systems.state(name).await, state(true, Some(true)), "{name}");
    }
    assert_eq!(systems.changes(Duration::from_millis(500)).await, BTreeSet::new());
    let together = reloads() - one_by_one;
    assert!((1..=3).contains(&together), "{together}");
}

#[tokio::test]
async fn a_restarted_bus_is_connected_to_again() {
    if machine::skip("a_restarted_bus_is_connected_to_again") {
        return;
    }
    let systems = Systems::boot();
    systems.add_unit("app_foo", SLEEP, "", WANTED).await;
    systems.watch(&["app_foo"]);
    assert_eq!(systems.state("app_foo").await, state(false, Some(false)));
    // Killed, it is started again by its socket unit when someone connects.
    systems.kill("dbus");
    let second = Duration::from_secs(1);
    assert_eq!(
        systems.changes(second).await,
        ["app_foo".to_owned()].into(),
        "nothing is known any more"
    );
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match systems.systemd.start("app_foo").await {
            Ok(()) => break,
            Err(error) => {
                assert_eq!(error.category, Category::Host, "{error}");
                assert!(Instant::now() < deadline, "{error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    assert_eq!(systems.state("app_foo").await, state(true, Some(false)));
    while !systems.changes(Duration::from_millis(300)).await.is_empty() {}
    systems.kill("app_foo");
    assert_eq!(systems.changes(second).await, ["app_foo".to_owned()].into());
}

#[tokio::test]
async fn looking_is_quick() {
    if machine::skip("looking_is_quick") {
        return;
    }
    let systems = Systems::boot();
    let services: Vec<String> = (0..20).map(|n| format!("app_{n}")).collect();
    for service in &services {
        let text = format!("[Service]\nExecStart={SLEEP}\n[Install]\n{WANTED}\n");
        let path = format!("/usr/lib/systemd/system/{service}.service");
        systems.machine.write(&path, text, 0o644).unwrap();
    }
    let enable = format!(
        "systemctl daemon-reload; systemctl enable -q --now {} 2>&1",
        services.join(" ")
    );
    systems.machine.sh(&enable).unwrap();
    let look = async || {
        let began = Instant::now();
        for service in &services {
            assert_eq!(systems.state(service).await, state(true, Some(true)));
        }
        began.elapsed()
    };
    let before = anonymous_kib();
    let connecting = look().await;
    let after = anonymous_kib();
    systems.systemd.reread_units().await.unwrap();
    let asked = loop {
        // The signals of the reload may still come in while it looks.
        let asked = look().await;
        let known = look().await;
        if known < Duration::from_millis(2) {
            eprintln!(
                "20 services: {connecting:?} with connecting, {asked:?} asked, {known:?} known; anonymous memory {before} -> {after} KiB"
            );
            break asked;
        }
    };
    assert!(asked < Duration::from_millis(500), "{asked:?}");
}

fn anonymous_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

#[tokio::test]
async fn machines_stand_side_by_side_and_can_be_cut_off() {
    if machine::skip("machines_stand_side_by_side_and_can_be_cut_off") {
        return;
    }
    let machines = [Machine::boot().unwrap(), Machine::boot().unwrap()];
    let ids = machines
        .each_ref()
        .map(|machine| machine.sh("cat /sys/class/net/host0/address").unwrap());
    assert_ne!(ids[0], ids[1]);
    for machine in &machines {
        let (host, guest) = machine.connect_network().unwrap();
        let listener = std::net::TcpListener::bind((host, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let connect =
            |seconds: u32| machine.sh(&format!("timeout {seconds} bash -c '</dev/tcp/{host}/{port}'"));
        connect(10).unwrap();
        assert_eq!(listener.accept().unwrap().1.ip(), guest);
        machine.cut_network().unwrap();
        assert!(connect(1).is_err());
        machine.restore_network().unwrap();
        connect(10).unwrap();
    }
}
