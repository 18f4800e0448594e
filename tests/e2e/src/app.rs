//! An application for systemd: a service whose process tells what it was started with, and a config.

use harness::packages::{Moment, Package};

/// The application `name`, with the service NAME, whose process writes its version and its config to `/run/NAME.loaded` at
/// start and on SIGHUP. Its hook keeps the config as one JSON file.
pub fn app_with_hook(name: &str, version: &str) -> Package {
    let fill = |template: &str| template.replace("@NAME@", name).replace("@VERSION@", version);
    app_that_runs(name, version, &fill(DAEMON))
        .file(&format!("/opt/pf9/{name}/config"), 0o755, fill(HOOK))
        .conffile(
            &format!("/etc/pf9/{name}.conf"),
            format!("{{\"{name}\":{{\"greeting\":\"hello\"}}}}\n"),
        )
}

/// The same with an INI file instead, which a manifest describes; it is reloaded.
pub fn app_with_manifest(name: &str, version: &str) -> Package {
    let fill = |template: &str| template.replace("@NAME@", name).replace("@VERSION@", version);
    app_that_runs(name, version, &fill(DAEMON))
        .file(
            &format!("/usr/share/hostagent/apps/{name}.toml"),
            0o644,
            fill(MANIFEST),
        )
        .conffile(&format!("/etc/pf9/{name}.conf"), "[server]\nport=1\n")
}

/// The application `name` without a config, whose service runs the shell script `daemon`.
pub fn app_that_runs(name: &str, version: &str, daemon: &str) -> Package {
    let unit = format!(
        "[Unit]\nDescription={name} {version}\n[Service]\nExecStart=/opt/pf9/{name}/run\n\
         ExecReload=/bin/sh -c 'kill -HUP $MAINPID'\n[Install]\nWantedBy=multi-user.target\n"
    );
    let restart = format!("systemctl daemon-reload; systemctl try-restart {name}");
    let stop = format!("[ \"$ACTION\" = upgrade ] || systemctl disable --now {name} 2>/dev/null");
    Package::new(name, version)
        .provides("pf9app")
        .file(&format!("/usr/lib/systemd/system/{name}.service"), 0o644, unit)
        .file(
            &format!("/opt/pf9/{name}/run"),
            0o755,
            format!("#!/bin/sh\n{daemon}\n"),
        )
        .script(Moment::AfterInstall, &restart)
        .script(Moment::BeforeRemove, &stop)
}

const DAEMON: &str = r#"load() {
    { echo "@VERSION@"; cat /etc/pf9/@NAME@.conf; } > /run/@NAME@.new
    mv /run/@NAME@.new /run/@NAME@.loaded
}
trap load HUP
load
while :; do sleep 1000 & wait $!; done"#;

const HOOK: &str = r#"#!/bin/sh
set -e
case "$1" in
    --get-config) cat /etc/pf9/@NAME@.conf ;;
    --set-config)
        if [ "$2" = - ]; then cat; else printf '%s\n' "$2"; fi > /etc/pf9/@NAME@.conf.new
        mv /etc/pf9/@NAME@.conf.new /etc/pf9/@NAME@.conf
        systemctl try-restart @NAME@
        ;;
    --get-services) echo @NAME@ ;;
esac
"#;

const MANIFEST: &str = r#"services = ["@NAME@"]
on_change = "reload"

[config.server]
file = "/etc/pf9/@NAME@.conf"
format = "ini"
"#;
