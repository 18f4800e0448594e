//! Application contracts against real parts: hooks that run, files that are written.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use host::app_config::Contracts;
use host::services::ServiceChanges;
use host::{AppConfig, HostError, Root, ServiceState, Services};
use protocol::{AppName, Category, Config};
use serde_json::Value;

mod health;
mod hook;
mod kill;
mod manifest;

/// Never to be seen in an error or a log.
const SECRET: &str = "hunter2-S3CRET";

/// A sandbox root with contracts, and services that only remember what was asked of them.
struct Sandbox {
    root: Root,
    contracts: Contracts,
    services: Arc<Recorder>,
    _folder: tempfile::TempDir,
}

impl Sandbox {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        let services = Arc::new(Recorder::default());
        let state = root.join("/var/lib/hostagent");
        fs::create_dir_all(&state).unwrap();
        Self {
            contracts: Contracts::new(root.clone(), services.clone(), &state),
            root,
            services,
            _folder: folder,
        }
    }

    /// Writes a file with its folders; returns its real path.
    fn file(&self, path: &str, content: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let real = self.root.join(path);
        fs::create_dir_all(real.parent().unwrap()).unwrap();
        fs::write(&real, content).unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(mode)).unwrap();
        real
    }

    /// Writes the config of the application `web`.
    async fn write(&self, desired: Value, running: &[&str]) -> Result<(), HostError> {
        self.contracts
            .write(&app("web"), "web", &config(desired), &names(running))
            .await
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap()
    }
}

#[derive(Default)]
struct Recorder {
    calls: Mutex<Vec<String>>,
    failing: Mutex<bool>,
}

impl Recorder {
    /// What was asked since the last look.
    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    fn fail(&self, failing: bool) {
        *self.failing.lock().unwrap() = failing;
    }

    fn call(&self, what: &str, service: &str) -> Result<(), HostError> {
        self.calls.lock().unwrap().push(format!("{what} {service}"));
        match *self.failing.lock().unwrap() {
            true => Err(HostError::new(
                Category::Script,
                format!("{service} does not {what}"),
            )),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Services for Recorder {
    async fn state(&self, _: &str, _: bool) -> Result<Option<ServiceState>, HostError> {
        Ok(None)
    }
    async fn start(&self, service: &str) -> Result<(), HostError> {
        self.call("start", service)
    }
    async fn stop(&self, service: &str) -> Result<(), HostError> {
        self.call("stop", service)
    }
    async fn restart(&self, service: &str) -> Result<(), HostError> {
        self.call("restart", service)
    }
    async fn reload(&self, service: &str) -> Result<(), HostError> {
        self.call("reload", service)
    }
    async fn enable(&self, service: &str) -> Result<(), HostError> {
        self.call("enable", service)
    }
    async fn disable(&self, service: &str) -> Result<(), HostError> {
        self.call("disable", service)
    }
    async fn reread_units(&self) -> Result<(), HostError> {
        Ok(())
    }
    fn services_in(&self, _: &[PathBuf]) -> BTreeSet<String> {
        BTreeSet::new()
    }
    fn forget_answers(&self) {}
    fn has_unit_files(&self) -> bool {
        false
    }
    fn changes(&self) -> Option<Arc<ServiceChanges>> {
        None
    }
}

fn app(name: &str) -> AppName {
    AppName::new(name).unwrap()
}

fn config(json: Value) -> Config {
    serde_json::from_value(json).unwrap()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Waits until `done`, or fails after 10 s.
async fn eventually(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Everything that is logged on this thread while it lives, at all levels.
struct Log {
    text: Arc<Mutex<Vec<u8>>>,
    _guard: tracing::subscriber::DefaultGuard,
}

impl Log {
    fn capture() -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let sink = text.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || Sink(sink.clone()))
            .finish();
        Self {
            text,
            _guard: tracing::subscriber::set_default(subscriber),
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }
}

struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
