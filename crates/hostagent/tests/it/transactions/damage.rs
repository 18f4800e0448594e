//! Row 23: the agent's state files, damaged in 151 ways while its applications are installed, and one of them failed
//! so badly that there is a journal. Whatever was damaged: nothing is uninstalled, the log says what was set aside, and
//! the next message brings the host to what it says.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};

use super::*;

mod variants;

use variants::{Variant, variants};

/// Everything there is to be damaged.
const FILES: [&str; 3] = ["desired.json", "installed.json", "progress.json"];

/// Of each state file, alone.
const OF_EACH: usize = 45;
const OF_ALL_AT_ONCE: usize = 16;

#[tokio::test]
async fn a_damaged_desired_state_with_dpkg() {
    sweep(Family::Deb, |variant| variant.is_of("desired.json"), OF_EACH).await;
}

#[tokio::test]
async fn damaged_records_of_what_is_installed_with_dpkg() {
    sweep(Family::Deb, |variant| variant.is_of("installed.json"), OF_EACH).await;
}

#[tokio::test]
async fn a_damaged_progress_with_dpkg() {
    sweep(Family::Deb, |variant| variant.is_of("progress.json"), OF_EACH).await;
}

#[tokio::test]
async fn all_state_files_damaged_at_once_with_dpkg() {
    sweep(Family::Deb, |variant| variant.damages.len() > 1, OF_ALL_AT_ONCE).await;
}

#[tokio::test]
async fn all_state_files_damaged_at_once_with_rpm() {
    sweep(Family::Rpm, |variant| variant.damages.len() > 1, OF_ALL_AT_ONCE).await;
}

async fn sweep(family: Family, which: impl Fn(&Variant) -> bool, expected: usize) {
    let log = Log::default();
    let _logging = tracing::subscriber::set_default(log.subscriber());
    let mut host = Host::new(family).await;
    let all = variants(&host.state);
    assert_eq!(all.len(), FILES.len() * OF_EACH + OF_ALL_AT_ONCE);
    let began = std::time::Instant::now();
    let mut count = 0;
    for variant in all.iter().filter(|variant| which(variant)) {
        log.clear();
        host.play(variant, &log).await;
        count += 1;
    }
    assert_eq!(count, expected);
    let seconds = began.elapsed().as_secs_f64();
    println!("{family:?}: {count} damaged state folders, nothing uninstalled, all got over, {seconds:.0} s");
}

/// Three applications at 1.0. `mail`, whose hook fails as long as a gate is shut, could neither take a new config nor
/// the old one back: it is held, and in the journal.
struct Host {
    world: World,
    template: tempfile::TempDir,
    /// The state files as they were left.
    state: BTreeMap<&'static str, Vec<u8>>,
    database: Vec<String>,
}

impl Host {
    async fn new(family: Family) -> Self {
        let run = Run {
            bake: Duration::ZERO,
            ..Run::default()
        };
        let mut world = World::with(family, run).await;
        let gate = world.sandbox.join("/tmp/gate");
        std::fs::write(&gate, "").unwrap();
        let apps = desired(&mut world, "old");
        world.reach(apps).await;
        std::fs::remove_file(&gate).unwrap();
        let mut apps = desired(&mut world, "old");
        apps["mail"]["config"]["s"]["greeting"] = json!("new");
        let status = world.fail_at(apps).await;
        assert_eq!(only_error(&status).phase, Phase::Rollback, "{status:#?}");
        if let Some(agent) = world.agent.take() {
            agent.stop().await;
        }
        let state = FILES.map(|name| (name, std::fs::read(world.state_dir().join(name)).unwrap()));
        let template = tempfile::tempdir().unwrap();
        copy(world.sandbox.root(), template.path());
        Self {
            database: world.database(),
            world,
            template,
            state: BTreeMap::from(state),
        }
    }

    async fn play(&mut self, variant: &Variant, log: &Log) {
        let what = &variant.name;
        for entry in std::fs::read_dir(self.world.sandbox.root()).unwrap() {
            std::fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
        copy(self.template.path(), self.world.sandbox.root());
        for (file, damage) in &variant.damages {
            damage.inflict(&self.world.state_dir().join(file));
        }
        let is_damaged = |file: &str| variant.damages.contains_key(file);

        let before = self.world.master.count();
        self.world.start_agent(Run {
            bake: Duration::ZERO,
            ..Run::default()
        });
        let first = self.first_answer(before, what).await;
        // Without a desired state there is nothing to be wrong.
        let expected = match is_damaged("desired.json") {
            true => State::Ok,
            false => State::Errors,
        };
        assert_eq!(first.status, expected, "{what}: {first:#?}");
        for (file, damage) in &variant.damages {
            let said = log
                .lines()
                .iter()
                .any(|line| line.contains("set aside") && line.contains(file));
            assert!(said, "{what}: no word of {file} in the log: {:#?}", log.lines());
            let aside = self.world.state_dir().join(file.replace(".json", ".damaged-1"));
            assert!(
                damage.is_at(&aside),
                "{what}: {} is not what was damaged",
                aside.display()
            );
        }
        let whole = FILES.iter().filter(|file| !is_damaged(file));
        for file in whole {
            let said = log
                .lines()
                .iter()
                .any(|line| line.contains("set aside") && line.contains(file));
            assert!(!said, "{what}: {file} was whole: {:#?}", log.lines());
        }
        self.assert_untouched(what);

        std::fs::write(self.world.sandbox.join("/tmp/gate"), "").unwrap();
        let apps = desired(&mut self.world, "new");
        let id = self.world.ask(apps).await;
        let status = self.world.outcome(&id).await;
        assert_eq!(status.status, State::Ok, "{what}: {status:#?}");
        assert_eq!(status.apps.len(), 3, "{what}: {status:#?}");
        assert!(!self.world.has_journal(), "{what}: the journal is still there");
        self.assert_untouched(what);
        assert_eq!(self.world.database(), self.database, "{what}");
        for name in ["web", "db"] {
            let config = self.world.read(&format!("/etc/{name}/{name}.ini"));
            assert!(config.contains("greeting = new"), "{what}: {config}");
        }
        let mut agent = self.world.agent.take().unwrap();
        tokio::select! {
            biased;
            task = agent.failed() => panic!("{what}: the {task} has ended"),
            () = std::future::ready(()) => {}
        }
        agent.stop().await;
    }

    /// The first final state that is reported from message `before` on.
    async fn first_answer(&mut self, before: usize, what: &str) -> Status {
        let first = |all: &[Status]| {
            let new = all.get(before..)?;
            new.iter()
                .find(|status| status.status != State::Converging)
                .cloned()
        };
        self.world.master.wait(&format!("{what}: a status"), first).await
    }

    /// No package came or went, none was tried to, and all services run.
    fn assert_untouched(&self, what: &str) {
        let runs = self.world.packages.runs();
        assert_eq!(runs, 0, "{what}: the package manager was at work");
        for name in ["web", "db", "mail"] {
            let up = self.world.sandbox.join(&format!("/run/{name}.up"));
            assert!(up.exists(), "{what}: {name} does not run");
        }
    }
}

/// The desired state of all three applications.
fn desired(world: &mut World, greeting: &str) -> Value {
    let packages = [
        manifest_app("web").provides("pf9app"),
        manifest_app("db"),
        service("mail")
            .provides("pf9app")
            .file("/opt/pf9/mail/config", 0o755, HOOK),
    ];
    let apps = packages.iter().map(|package| {
        let url = world.offer(package);
        let spec = json!({"version": "1.0", "url": url, "config": {"s": {"greeting": greeting}}});
        (package.name().to_owned(), spec)
    });
    Value::Object(apps.collect())
}

fn manifest_app(name: &str) -> Package {
    let manifest = format!(
        "services = [\"{name}\"]\non_change = \"none\"\n[config.s]\nfile = \"/etc/{name}/{name}.ini\"\nformat = \"ini\"\n"
    );
    service(name)
        .file(&format!("/usr/share/hostagent/apps/{name}.toml"), 0o644, manifest)
        .conffile(&format!("/etc/{name}/{name}.ini"), "[s]\ngreeting = shipped\n")
}

/// A service without a process: it runs as long as a file says so.
fn service(name: &str) -> Package {
    let script = format!(
        "#!/bin/sh\nUP=\"$BACKBONE_ROOT/run/{name}.up\"\ncase \"$1\" in\nstart | restart) : > \"$UP\" ;;\nstop) rm -f \"$UP\" ;;\n\
         status) [ -e \"$UP\" ] || exit 3 ;;\nesac\n"
    );
    Package::new(name, "1.0").file(&format!("/etc/init.d/{name}"), 0o755, script)
}

/// Writes, and then fails unless the gate is open.
const HOOK: &str = r#"#!/bin/sh
CONFIG=$BACKBONE_ROOT/run/mail.json
case "$1" in
    --get-config) [ -e "$CONFIG" ] && cat "$CONFIG" || echo '{}' ;;
    --set-config)
        printf '%s\n' "$2" > "$CONFIG"
        [ -e "$BACKBONE_ROOT/tmp/gate" ] || { echo 'error: the gate is shut' >&2; exit 1; }
        ;;
    --get-services) echo mail ;;
esac
"#;

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status();
    assert!(copied.unwrap().success());
}

/// What the agent logs.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn subscriber(&self) -> impl tracing::Subscriber + Send + Sync + use<> {
        let log = self.clone();
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || log.clone())
            .finish()
    }

    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn lines(&self) -> Vec<String> {
        let text = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&text)
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
