//! An example application that follows docs/app-contract.md: a service with a SysV script, a config
//! hook, a config file.

use super::{Moment, Package};

/// Application `name`. It provides `pf9app`. Its service is the SysV script of the same name. At
/// start and on SIGHUP the service's process writes its version (first line) and its config to
/// `/run/NAME.loaded`. The hook keeps the config in one JSON file, initially
/// `{"NAME":{"greeting":"hello"}}`. `--set-config` replaces the whole file, because POSIX sh cannot
/// merge JSON.
pub fn example_app(name: &str, version: &str) -> Package {
    let fill = |template: &str| template.replace("@NAME@", name).replace("@VERSION@", version);
    Package::new(name, version)
        .provides("pf9app")
        .file(&format!("/etc/init.d/{name}"), 0o755, fill(INIT_SCRIPT))
        .file(&format!("/opt/pf9/{name}/bin/{name}"), 0o755, fill(DAEMON))
        .file(&format!("/opt/pf9/{name}/config"), 0o755, fill(HOOK))
        .conffile(
            &format!("/etc/pf9/{name}/config.json"),
            format!("{{\"{name}\":{{\"greeting\":\"hello\"}}}}\n"),
        )
        .script(Moment::AfterInstall, &fill(AFTER_INSTALL))
        .script(Moment::BeforeRemove, &fill(BEFORE_REMOVE))
}

const AFTER_INSTALL: &str = r#"[ "$ACTION" = upgrade ] || exit 0
"$ROOT/etc/init.d/@NAME@" status >/dev/null || exit 0
"$ROOT/etc/init.d/@NAME@" restart"#;

const BEFORE_REMOVE: &str = r#"[ "$ACTION" = remove ] || exit 0
"$ROOT/etc/init.d/@NAME@" stop"#;

const DAEMON: &str = r#"#!/bin/sh
ROOT=${BACKBONE_ROOT:-}
load() {
    { echo "@VERSION@"; cat "$ROOT/etc/pf9/@NAME@/config.json"; } > "$ROOT/run/@NAME@.loaded.new" &&
        mv "$ROOT/run/@NAME@.loaded.new" "$ROOT/run/@NAME@.loaded"
}
trap load HUP
trap 'kill "$sleeper" 2>/dev/null; exit 0' TERM INT
load
while :; do
    sleep 3600 &
    sleeper=$!
    wait "$sleeper"
    kill "$sleeper" 2>/dev/null
done
"#;

const INIT_SCRIPT: &str = r#"#!/bin/sh
### BEGIN INIT INFO
# Provides:          @NAME@
# Required-Start:    $remote_fs
# Required-Stop:     $remote_fs
# Default-Start:     2 3 4 5
# Default-Stop:      0 1 6
# Short-Description: example application @NAME@
### END INIT INFO
# chkconfig: 2345 90 10
# Exit codes as the Linux Standard Base has them: status gives 0 running, 1 dead with a pidfile, 3 stopped.
ROOT=${BACKBONE_ROOT:-}
DAEMON=$ROOT/opt/pf9/@NAME@/bin/@NAME@
PIDFILE=$ROOT/run/@NAME@.pid

# The process of the pidfile, if it is (still) ours: a number may be reused, a zombie has no command line.
is_running() {
    pid=$(cat "$PIDFILE" 2>/dev/null) || return 1
    case "$( { tr '\0' ' ' < "/proc/$pid/cmdline"; } 2>/dev/null)" in
        *"$DAEMON"*) return 0 ;;
        *) return 1 ;;
    esac
}

await() {
    tries=100
    until "$@"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || return 1
        sleep 0.05
    done
}

is_stopped() { ! is_running; }

start() {
    is_running && return 0
    [ -x "$DAEMON" ] || return 5
    setsid "$DAEMON" < /dev/null > /dev/null 2>&1 &
    echo $! > "$PIDFILE"
    await is_running
}

stop() {
    if is_running; then
        kill "$pid"
        await is_stopped || kill -9 "$pid"
        await is_stopped || return 1
    fi
    rm -f "$PIDFILE"
}

case "$1" in
    start) start ;;
    stop) stop ;;
    restart | force-reload) stop && start ;;
    try-restart | condrestart) if is_running; then stop && start; fi ;;
    reload) is_running && kill -HUP "$pid" || exit 7 ;;
    status)
        if is_running; then
            exit 0
        elif [ -e "$PIDFILE" ]; then
            exit 1
        else
            exit 3
        fi
        ;;
    *)
        echo "Usage: $0 {start|stop|restart|try-restart|reload|status}" >&2
        exit 2
        ;;
esac
"#;

const HOOK: &str = r#"#!/bin/sh
ROOT=${BACKBONE_ROOT:-}
CONFIG=$ROOT/etc/pf9/@NAME@/config.json
set -e
case "$1" in
    --get-config) cat "$CONFIG" ;;
    --set-config)
        umask 077
        # "-": too long for an argument, so it comes on stdin.
        if [ "$2" = - ]; then cat; else printf '%s\n' "$2"; fi > "$CONFIG.new"
        mv "$CONFIG.new" "$CONFIG"
        "$ROOT/etc/init.d/@NAME@" try-restart
        ;;
    --get-services) echo @NAME@ ;;
    *)
        echo "Usage: $0 --get-config | --set-config JSON | --get-services" >&2
        exit 2
        ;;
esac
"#;
