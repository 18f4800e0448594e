//! Puts itself between the agent and its package manager.
//!
//! The agent finds its programs in the system folders only, so a script is mounted over the package manager, in
//! a mount namespace of the agent's own (which takes root). It puts the run that is meant under strace.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

/// The package manager of one host, in the hands of a test.
pub struct Shim<'h> {
    pub host: &'h SweptHost,
    program: &'static str,
}

impl<'h> Shim<'h> {
    pub fn new(host: &'h SweptHost) -> Self {
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
    pub fn apply(&self, run: usize, tracer: &[String]) -> std::process::Output {
        self.host.reset();
        let _ = fs::remove_file(self.host.path("runs"));
        let _ = fs::remove_file(self.host.path("killed"));
        for run in (1..)
            .take_while(|run| self.log(*run).is_some())
            .collect::<Vec<_>>()
        {
            let _ = fs::remove_file(self.host.path(&format!("trace-{run}")));
        }
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

    /// Every point of a run without a fault, whichever run of the package manager it is in.
    pub fn points(&self, calls: &str, matters: impl Fn(&str) -> bool) -> Vec<Point> {
        let output = self.apply(0, &strace::record("@LOG@".as_ref(), calls));
        self.host.assert_undisturbed(&output);
        (1..)
            .map_while(|run| Some(strace::points(&self.log(run)?, run, &matters)))
            .flatten()
            .collect()
    }

    /// Whether the tracer has killed the package manager.
    pub fn has_killed(&self) -> bool {
        self.host.path("killed").exists()
    }

    /// The log of a run under the tracer.
    pub fn log(&self, run: usize) -> Option<String> {
        fs::read_to_string(self.host.path(&format!("trace-{run}"))).ok()
    }
}

/// `@LOG@` in the tracer's words becomes the log of this run.
const SCRIPT: &str = r#"#!/bin/sh
case " $* " in
    *" --no-act "* | *" --test "*) exec "@REAL@" "$@" ;;
    *" --install "* | *" --remove "* | *" --configure "* | *" --upgrade "* | *" --erase "* | *" --purge "*) ;;
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
