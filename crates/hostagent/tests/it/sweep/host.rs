//! A sandbox host that can be put back to where it was, and what must hold on it after a fault.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use harness::packages::{Family, Moment, Package, Sandbox};
use hostagent::engine::book::ProgressBook;
use hostagent::ledger::Ledger;
use protocol::HostId;

const PROGRAM: &str = env!("CARGO_BIN_EXE_hostagent");
/// Row 21 of FAULTS.md.
const LONGEST_RESTART: Duration = Duration::from_secs(60);

/// What the agent is busy with when it is hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    Install,
    Upgrade,
    Reconfigure,
    Remove,
    /// To a version whose last script fails.
    Rollback,
}

/// What the host ends as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Web {
    version: &'static str,
    greeting: &'static str,
}

impl Case {
    fn before(self) -> Option<Web> {
        (self != Self::Install).then_some(Web {
            version: "1.0",
            greeting: "old",
        })
    }

    fn desired(self) -> Option<Web> {
        let version = match self {
            Self::Install | Self::Reconfigure => "1.0",
            Self::Upgrade => "2.0",
            Self::Rollback => "3.0",
            Self::Remove => return None,
        };
        Some(Web {
            version,
            greeting: "new",
        })
    }

    fn after(self) -> Option<Web> {
        match self {
            Self::Rollback => self.before(),
            _ => self.desired(),
        }
    }

    pub fn exit_code(self) -> i32 {
        match self {
            Self::Rollback => 3,
            _ => 0,
        }
    }
}

pub struct SweptHost {
    pub case: Case,
    pub family: Family,
    dir: tempfile::TempDir,
}

impl SweptHost {
    /// At the state before the case.
    pub fn new(family: Family, case: Case) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = Self { case, family, dir };
        Sandbox::create(&host.root(), family).unwrap();
        for version in ["1.0", "2.0", "3.0"] {
            web(version).build(family, &host.root().join("packages")).unwrap();
        }
        let root = host.root().display().to_string();
        let settings = format!(
            "[hostagent]\nroot = {root}\nhost_id = swept\nbake_period = 0\nallow_file_urls = true\npackage_family = {}\n",
            family.extension()
        );
        fs::write(host.path("agent.conf"), settings).unwrap();
        fs::write(host.path("before.json"), host.message(case.before())).unwrap();
        fs::write(host.path("desired.json"), host.message(case.desired())).unwrap();
        if case.before().is_some() {
            let output = host.command(&[]).args(["apply", "before.json"]).output().unwrap();
            assert!(output.status.success(), "{}", said(&output));
        }
        fs::rename(host.root(), host.path("template")).unwrap();
        host.reset();
        host
    }

    fn message(&self, web: Option<Web>) -> String {
        let Some(web) = web else {
            return "{}".into();
        };
        let file = format!("web_{}-1.{}", web.version, self.family.extension());
        serde_json::json!({"web": {
            "version": web.version,
            "url": format!("file:///packages/{file}"),
            "config": {"s": {"greeting": web.greeting}},
        }})
        .to_string()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn root(&self) -> PathBuf {
        self.path("root")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.root().join("var/lib/hostagent")
    }

    /// Back to the state before the case.
    pub fn reset(&self) {
        self.end_processes(|_| true);
        let _ = fs::remove_dir_all(self.root());
        let copied = Command::new("cp")
            .arg("-a")
            .args([self.path("template"), self.root()])
            .status();
        assert!(copied.unwrap().success());
    }

    /// The agent, under the program and the arguments of `wrapper`.
    pub fn command(&self, wrapper: &[String]) -> Command {
        let mut words = wrapper.iter().map(String::as_str).chain([PROGRAM, "--config"]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).arg(self.path("agent.conf"));
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command.env("LC_ALL", "C.UTF-8");
        command
    }

    pub fn apply(&self, wrapper: &[String]) -> Output {
        self.command(wrapper)
            .args(["apply", "desired.json"])
            .output()
            .unwrap()
    }

    /// A run without a fault.
    pub fn assert_undisturbed(&self, output: &Output) {
        assert_eq!(
            output.status.code(),
            Some(self.case.exit_code()),
            "{}",
            said(output)
        );
    }

    /// Ends the processes that work on this host; `which` is told the program's name.
    pub fn end_processes(&self, which: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let root = self.root().display().to_string();
        loop {
            let found: Vec<u32> = processes_of(&root)
                .into_iter()
                .filter(|(_, program)| which(program))
                .map(|(id, _)| id)
                .collect();
            if found.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "processes {found:?} can't be ended");
            for id in found {
                if let Some(id) = rustix::process::Pid::from_raw(id as i32) {
                    let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What was acknowledged is still there, whole: the state before or the new one.
    pub fn check_desired_state(&self) -> Result<(), String> {
        self.check_nothing_damaged()?;
        let stored = self.state_dir().join("desired.json");
        if !stored.exists() {
            return match self.case.before() {
                None => Ok(()),
                Some(_) => Err("the desired state is lost".into()),
            };
        }
        let desired = self.stored_apps()?;
        let possible = [self.case.before(), self.case.desired()].map(|web| self.apps(web));
        match possible.contains(&desired) {
            true => Ok(()),
            false => Err(format!("the desired state is {desired:?}")),
        }
    }

    fn apps(&self, web: Option<Web>) -> protocol::Apps {
        let message = self.message(web);
        protocol::inbound::decode_apps(message.as_bytes(), protocol::Limits::default()).unwrap()
    }

    fn stored_apps(&self) -> Result<protocol::Apps, String> {
        let ledger = Ledger::look(&self.state_dir(), HostId::new("swept").unwrap());
        let ledger = ledger.map_err(|error| error.to_string())?;
        Ok(ledger.desired().apps.clone())
    }

    fn check_nothing_damaged(&self) -> Result<(), String> {
        for name in listing(&self.state_dir()) {
            if name.contains("damaged") {
                return Err(format!("{name} was set aside"));
            }
        }
        Ok(())
    }

    /// After a fault: the agent is started again, and everything must be as it should.
    pub fn restart_and_check(&self) -> Result<Duration, String> {
        self.check_desired_state()?;
        let began = Instant::now();
        let output = self.apply(&[]);
        let elapsed = began.elapsed();
        let context = |problem: String| format!("{problem}; after the restart: {}", said(&output));
        if output.status.code() != Some(self.case.exit_code()) {
            return Err(context(format!("ended with {}", output.status)));
        }
        if elapsed > LONGEST_RESTART {
            return Err(context(format!("took {elapsed:?}")));
        }
        self.check_end_state(self.case.after()).map_err(context)?;
        self.check_nothing_damaged().map_err(context)?;
        if self.stored_apps()? != self.apps(self.case.desired()) {
            return Err(context("the desired state is not what was asked".into()));
        }
        match ProgressBook::has_changes(&self.state_dir()).map_err(|error| context(error.to_string()))? {
            true => Err(context("a change is still in progress".into())),
            false => Ok(elapsed),
        }
    }

    /// After an attempt that the agent itself survived: at its goal, or back and said so.
    pub fn check_survived(&self, output: &Output) -> Result<(), String> {
        let context = |problem: String| format!("{problem}; it said: {}", said(output));
        self.check_desired_state().map_err(context)?;
        let end = match output.status.code() {
            Some(0) => self.case.desired(),
            Some(3) => self.case.before(),
            _ => return Err(context(format!("ended with {}", output.status))),
        };
        self.check_end_state(end).map_err(context)
    }

    fn check_end_state(&self, web: Option<Web>) -> Result<(), String> {
        let packages = self.packages()?;
        let loaded = fs::read_to_string(self.root().join("run/web.loaded")).ok();
        let Some(web) = web else {
            return match (packages.as_slice(), loaded) {
                ([], None) => Ok(()),
                // A removal keeps configuration files; the way back from an installation does not.
                ([one], None) if one.starts_with("web rc ") && self.case == Case::Remove => Ok(()),
                other => Err(format!("not removed: {other:?}")),
            };
        };
        if packages != [format!("web ii {}-1", web.version)] {
            return Err(format!("packages are {packages:?}, not web {}", web.version));
        }
        for (path, content) in shipped(web.version) {
            let found = fs::read_to_string(self.root().join(&path[1..])).unwrap_or_default();
            if found != content {
                return Err(format!("{path} is not that of {}: {found:?}", web.version));
            }
        }
        let config = fs::read_to_string(self.root().join("etc/web/web.ini")).unwrap_or_default();
        if !config.contains(&format!("greeting = {}\n", web.greeting)) {
            return Err(format!("the config is {config:?}"));
        }
        // The service runs, with this version and this config.
        match loaded {
            Some(loaded) if loaded == format!("{}\n{config}", web.version) => Ok(()),
            other => Err(format!(
                "the service runs with {other:?}, the config is {config:?}"
            )),
        }
    }

    /// `NAME STATE VERSION` of each package, as the package manager says; `ii`: installed and whole.
    fn packages(&self) -> Result<Vec<String>, String> {
        let root = self.root();
        let mut query = match self.family {
            Family::Deb => {
                let mut query = Command::new("dpkg-query");
                query.arg("--admindir").arg(root.join("var/lib/dpkg"));
                query.args([
                    "--show",
                    "--showformat=${Package} ${db:Status-Abbrev}${Version}\\n",
                ]);
                query
            }
            Family::Rpm => {
                let mut query = Command::new("rpm");
                query.arg("--dbpath").arg(root.join("var/lib/rpm"));
                query.args(["-qa", "--queryformat", "%{NAME} ii %{VERSION}-%{RELEASE}\\n"]);
                query
            }
        };
        let output = query.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let mut packages: Vec<String> = text
            .lines()
            .filter(|line| !line.starts_with("sandbox-shell") && !line.contains(" un "))
            .map(str::to_owned)
            .collect();
        packages.sort();
        match output.status.success() || text.is_empty() {
            true => Ok(packages),
            false => Err(format!("the package manager fails: {}", said(&output))),
        }
    }
}

impl Drop for SweptHost {
    fn drop(&mut self) {
        self.end_processes(|_| true);
    }
}

/// The files of the package that nobody changes.
fn shipped(version: &str) -> [(&'static str, String); 3] {
    [
        ("/opt/web/version", version.to_owned()),
        ("/usr/share/hostagent/apps/web.toml", MANIFEST.to_owned()),
        ("/etc/init.d/web", SERVICE.replace("@VERSION@", version)),
    ]
}

fn web(version: &str) -> Package {
    let package = shipped(version)
        .into_iter()
        .fold(Package::new("web", version), |package, (path, content)| {
            package.file(path, 0o755, content)
        })
        .provides("pf9app")
        .conffile("/etc/web/web.ini", "# kept\n[s]\ngreeting = shipped\n")
        .script(
            Moment::BeforeRemove,
            "[ \"$ACTION\" = remove ] || exit 0\n\"$ROOT/etc/init.d/web\" stop",
        );
    match version {
        "3.0" => package.script(Moment::AfterInstall, "echo 'this version is broken' >&2; exit 1"),
        _ => package.script(
            Moment::AfterInstall,
            "[ -e \"$ROOT/run/web.loaded\" ] || exit 0\n\"$ROOT/etc/init.d/web\" restart",
        ),
    }
}

const MANIFEST: &str = r#"services = ["web"]
[config.s]
file = "/etc/web/web.ini"
format = "ini"
"#;

/// A service without a process: it "runs" as long as there is a file with what it has loaded.
const SERVICE: &str = r#"#!/bin/sh
ROOT=${BACKBONE_ROOT:-}
case "$1" in
    start | restart | reload)
        { echo @VERSION@; cat "$ROOT/etc/web/web.ini"; } > "$ROOT/run/web.new" && mv "$ROOT/run/web.new" "$ROOT/run/web.loaded" ;;
    stop) rm -f "$ROOT/run/web.loaded" ;;
    status) [ -e "$ROOT/run/web.loaded" ] || exit 3 ;;
esac
"#;

/// Everything that a program said, on one line.
pub fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).replace('\n', " | ")
}

pub fn listing(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Id and program of each live process that has `root` in its arguments or its environment.
fn processes_of(root: &str) -> Vec<(u32, String)> {
    let holds = |path: PathBuf| {
        let bytes = fs::read(path).unwrap_or_default();
        bytes.windows(root.len()).any(|window| window == root.as_bytes())
    };
    let mut found = Vec::new();
    for name in listing(Path::new("/proc")) {
        let Ok(id) = name.parse::<u32>() else { continue };
        let folder = Path::new("/proc").join(&name);
        if id != std::process::id() && (holds(folder.join("cmdline")) || holds(folder.join("environ"))) {
            let program = fs::read_to_string(folder.join("comm")).unwrap_or_default();
            found.push((id, program.trim().to_owned()));
        }
    }
    found
}
