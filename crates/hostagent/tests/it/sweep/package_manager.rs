//! The package manager that the agent has started is killed at every call that changes something.
//!
//! The agent finds its programs in the system folders only, so a script is mounted over the package manager, in
//! a mount namespace of the agent's own (which takes root). It puts the run that is meant under strace.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

/// Of each case, in the sample.
const SAMPLE: usize = 4;

struct Shim<'h> {
    host: &'h SweptHost,
    program: &'static str,
}

impl<'h> Shim<'h> {
    fn new(host: &'h SweptHost) -> Self {
        let program = match host.family {
            Family::Deb => "dpkg",
            Family::Rpm => "rpm",
        };
        let shim = Self { host, program };
        fs::create_dir_all(host.path("real")).unwrap();
        fs::copy(shim.place(), host.path("real").join(program)).unwrap();
        let real = host.path("real").join(program).display().to_string();
        let text = SCRIPT
            .replace("@DIR@", &host.path("").display().to_string())
            .replace("@REAL@", &real);
        fs::write(host.path("shim"), text).unwrap();
        fs::set_permissions(host.path("shim"), fs::Permissions::from_mode(0o755)).unwrap();
        shim
    }

    fn place(&self) -> String {
        format!("/usr/bin/{}", self.program)
    }

    /// Runs the agent where the run `run` of the package manager that changes something (0: every one) is put
    /// under `tracer`.
    fn apply(&self, run: usize, tracer: &[String]) -> std::process::Output {
        self.host.reset();
        let _ = fs::remove_file(self.host.path("runs"));
        let _ = fs::remove_file(self.host.path("killed"));
        fs::write(self.host.path("which"), run.to_string()).unwrap();
        fs::write(self.host.path("tracer"), tracer.join(" ")).unwrap();
        let mount = format!(
            "mount --bind '{}' {} && exec \"$@\"",
            self.host.path("shim").display(),
            self.place()
        );
        let wrapper = ["unshare", "--mount", "sh", "-c", &mount, "sh"];
        self.host.apply(&wrapper.map(str::to_owned))
    }

    /// The log of a run under the tracer.
    fn log(&self, run: usize) -> Option<String> {
        fs::read_to_string(self.host.path(&format!("trace-{run}"))).ok()
    }
}

/// `@LOG@` in the tracer's words becomes the log of this run.
const SCRIPT: &str = r#"#!/bin/sh
case " $* " in
    *" --no-act "* | *" --test "*) exec "@REAL@" "$@" ;;
    *" --install "* | *" --remove "* | *" --configure "* | *" --upgrade "* | *" --erase "*) ;;
    *) exec "@REAL@" "$@" ;;
esac
echo >> "@DIR@/runs"
run=$(wc -l < "@DIR@/runs")
which=$(cat "@DIR@/which")
if [ "$which" = 0 ] || [ "$which" = "$run" ]; then
    $(sed "s:@LOG@:@DIR@/trace-$run:" "@DIR@/tracer") "@REAL@" "$@"
    code=$?
    if [ "$code" -gt 128 ]; then
        echo "$code" > "@DIR@/killed"
        kill -9 $$
    fi
    exit "$code"
fi
exec "@REAL@" "$@"
"#;

fn kill_at(shim: &Shim<'_>, point: &Point) -> Result<bool, String> {
    let tracer = strace::inject("@LOG@".as_ref(), point, "signal=SIGKILL");
    let output = shim.apply(point.run, &tracer);
    let killed = shim.host.path("killed").exists();
    // What the agent makes of it by itself, before any restart.
    shim.host.check_survived(&output)?;
    shim.host.restart_and_check()?;
    Ok(killed)
}

fn sweep(family: Family) {
    let mut tally = Tally::new(format!("package manager killed, {family:?}"));
    for case in Case::ALL {
        if case == Case::Reconfigure {
            // Starts no package manager.
            continue;
        }
        let host = SweptHost::new(family, case);
        let shim = Shim::new(&host);
        let output = shim.apply(0, &strace::record("@LOG@".as_ref(), KILL_AT));
        assert_eq!(
            output.status.code(),
            Some(case.exit_code()),
            "{}",
            host::said(&output)
        );
        let points: Vec<Point> = (1..)
            .map_while(|run| Some(strace::points(&shim.log(run)?, run, |_| true)))
            .flatten()
            .collect();
        assert!(points.len() > 10, "{points:?}");
        let kills = choose(points, SAMPLE).into_iter();
        tally.case(case, kills.map(|point| (point.clone(), kill_at(&shim, &point))));
    }
    tally.conclude();
}

#[test]
fn a_killed_dpkg_leaves_nothing_half_done() {
    sweep(Family::Deb);
}

#[test]
fn a_killed_rpm_leaves_nothing_half_done() {
    sweep(Family::Rpm);
}
