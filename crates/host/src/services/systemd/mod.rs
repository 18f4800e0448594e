//! systemd over D-Bus (<https://www.freedesktop.org/software/systemd/man/org.freedesktop.systemd1.html>):
//! no `systemctl` processes. A look at a unit that has been looked at before asks nobody; signals void what
//! is known ([`view`]).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use protocol::Category;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Mutex, RwLock};
use zbus::wire::OwnedObjectPath;

use super::{ServiceChanges, SysV, check_name, scripts_in};
use crate::command::Runner;
use crate::{HostError, Root, ServiceState, Services};

mod bus;
mod unit;
mod view;

use bus::{Bus, CallError, MANAGER, MANAGER_PATH, SERVICE, UNIT, read};
pub(crate) use unit::object_path;
use unit::{Unit, unit_name};
use view::{EndedJob, View};

/// For a start, stop, restart or reload. A little more than systemd's own default of 90 s, so that it is
/// systemd that says what timed out.
const JOB_DEADLINE: Duration = Duration::from_secs(95);
/// For reading all unit files again.
const RELOAD_DEADLINE: Duration = Duration::from_secs(90);

/// Folders of unit files, in a package.
const UNIT_FOLDERS: [&str; 3] = [
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/etc/systemd/system",
];

/// The units of one host.
pub struct Systemd {
    address: String,
    /// Boot links of SysV scripts that systemd has wrapped.
    sysv: SysV,
    changes: Arc<ServiceChanges>,
    view: Arc<View>,
    /// `None`: not connected (any more).
    bus: Mutex<Option<Bus>>,
    rereads: Rereads,
}

/// Reading all unit files again takes systemd long, so it is asked once for all who have changed some meanwhile.
#[derive(Default)]
struct Rereads {
    asked: AtomicU64,
    /// How many of those who asked have got it. Written while systemd reads, which answers nobody meanwhile: calls with a shorter
    /// deadline wait here.
    done: RwLock<u64>,
}

impl Systemd {
    pub fn new(root: &Root) -> Self {
        let socket = root.join("/run/dbus/system_bus_socket");
        let changes = Arc::new(ServiceChanges::default());
        Self {
            address: format!("unix:path={}", socket.display()),
            sysv: SysV::new(root),
            view: Arc::new(View::new(changes.clone())),
            changes,
            bus: Mutex::new(None),
            rereads: Rereads::default(),
        }
    }

    /// Starts what enables SysV scripts; not given: the agent does.
    pub fn runner(self, runner: Option<&Arc<Runner>>) -> Self {
        Self {
            sysv: self.sysv.runner(runner),
            ..self
        }
    }

    /// The connection; a new one where there was none, or the last one has died.
    async fn bus(&self) -> Result<Bus, CallError> {
        let mut kept = self.bus.lock().await;
        match &*kept {
            Some(bus) if !bus.is_closed() => Ok(bus.clone()),
            Some(_) | None => {
                *kept = None;
                let bus = Bus::connect(&self.address, self.view.clone()).await?;
                *kept = Some(bus.clone());
                Ok(bus)
            }
        }
    }

    /// After a failed call: whether a new connection may do better.
    async fn drop_dead_bus(&self, error: &CallError) -> bool {
        let CallError::Unreachable(_) = error else {
            return false;
        };
        // Also where it is not closed: systemd may have let a call go unanswered.
        let dropped = self.bus.lock().await.take().is_some();
        if dropped {
            // Nobody listens to its signals any more.
            self.view.signals_lost();
        }
        dropped
    }

    async fn look(&self, unit: &str) -> Result<Unit, CallError> {
        match self.look_once(unit).await {
            Err(error) if self.drop_dead_bus(&error).await => self.look_once(unit).await,
            answer => answer,
        }
    }

    async fn look_once(&self, unit: &str) -> Result<Unit, CallError> {
        let _no_reread = self.rereads.done.read().await;
        let bus = self.bus().await?;
        // By its path: that also loads a unit which nothing refers to. A few small questions on the wire at the
        // same time: GetAll answers with a hundred properties, and systemd before 230 knows no
        // ListUnitsByNames.
        let path = object_path(unit);
        let text = |name| bus.property::<String>(&path, UNIT, name);
        // InvocationID would say the same, but not before systemd 232.
        let main_started = async {
            if !unit.ends_with(".service") {
                // A timer or a socket has no process.
                return Ok(None);
            }
            let property = bus.property::<u64>(&path, SERVICE, "ExecMainStartTimestampMonotonic");
            Ok(Some(property.await?).filter(|at| *at > 0))
        };
        let (id, load_state, active_state, sub_state, unit_file_state, main_started) = tokio::try_join!(
            text("Id"),
            text("LoadState"),
            text("ActiveState"),
            text("SubState"),
            text("UnitFileState"),
            main_started
        )?;
        Ok(Unit {
            id,
            load_state,
            active_state,
            sub_state,
            unit_file_state,
            main_started,
        })
    }

    /// Queues a job and waits for its end.
    async fn run_job(&self, service: &str, verb: &str, method: &str) -> Result<(), HostError> {
        let unit = unit_name(service)?;
        let what = format!("{verb} {unit}");
        let _own = self.view.changing(service, &unit);
        let no_reread = self.rereads.done.read().await;
        let bus = self.bus().await.map_err(|error| error.explain(&what))?;
        if method != "StopUnit" {
            // Else a unit that has failed too often in a short time, perhaps for the config that was just
            // changed, is refused a start. There is no such unit: StartUnit says it better.
            let _ = bus.manager("ResetFailedUnit", &(&unit,)).await;
        }
        let ended = self.view.ended_jobs();
        let queued = async {
            let reply = bus.manager(method, &(&unit, "replace")).await?;
            read::<OwnedObjectPath>(&reply)
        };
        let job = match queued.await {
            Ok(job) => job,
            Err(error) => {
                self.drop_dead_bus(&error).await;
                return Err(error.explain(&what));
            }
        };
        drop(no_reread);
        let result = match tokio::time::timeout(JOB_DEADLINE, end_of(job.as_str(), ended)).await {
            Ok(Some(result)) => result,
            Ok(None) => return Err(CallError::Unreachable("the connection was lost".into()).explain(&what)),
            Err(_) => {
                return Err(HostError::new(
                    Category::Timeout,
                    format!(
                        "cannot {what}: not done after {JOB_DEADLINE:?}, and still going on; see `systemctl list-jobs` and `systemctl status {unit}`"
                    ),
                ));
            }
        };
        // What the job has changed is signalled also after its end, and is no news.
        bus.settle().await;
        match result.as_str() {
            // Skipped: there was nothing to do.
            "done" | "skipped" => Ok(()),
            "canceled" => Err(HostError::new(
                Category::Host,
                format!("cannot {what}: its job was cancelled, by another that someone else has started"),
            )),
            result => {
                let category = match result {
                    "timeout" => Category::Timeout,
                    "dependency" => Category::Dependency,
                    _ => Category::Script,
                };
                let details = self.failure_details(&bus, &unit).await;
                Err(HostError::new(
                    category,
                    format!(
                        "cannot {what}: its job ended with `{result}`{details}. See `journalctl -u {unit} -n 50`"
                    ),
                ))
            }
        }
    }

    /// What a unit says of its own failure, as far as it says anything.
    async fn failure_details(&self, bus: &Bus, unit: &str) -> String {
        let path = object_path(unit);
        let mut details = String::new();
        if let Ok(result) = bus.property::<String>(&path, SERVICE, "Result").await {
            details.push_str(&format!("; the unit's Result={result}"));
        }
        if let Ok(status) = bus.property::<i32>(&path, SERVICE, "ExecMainStatus").await {
            details.push_str(&format!(" ExecMainStatus={status}"));
        }
        details
    }

    /// Enables or disables by `method`, where that means anything to the unit.
    async fn set_enabled(&self, service: &str, enabled: bool) -> Result<(), HostError> {
        let unit = unit_name(service)?;
        let what = format!("{} {unit}", if enabled { "enable" } else { "disable" });
        let _own = self.view.changing(service, &unit);
        let found = self.look(&unit).await.map_err(|error| error.explain(&what))?;
        if found.is_missing() {
            return Err(HostError::new(
                Category::NotFound,
                format!("cannot {what}: there is no such unit"),
            ));
        }
        if found.is_generated() {
            match enabled {
                true => self.sysv.enable(service).await?,
                false => self.sysv.disable(service).await?,
            }
            return self.reread_units().await;
        }
        let no_reread = self.rereads.done.read().await;
        let bus = self.bus().await.map_err(|error| error.explain(&what))?;
        let names = vec![&found.id];
        let changed = match enabled {
            // A static unit is no error: systemd changes nothing.
            true => bus.manager("EnableUnitFiles", &(names, false, false)).await,
            false => bus.manager("DisableUnitFiles", &(names, false)).await,
        };
        changed.map_err(|error| error.explain(&what))?;
        drop(no_reread);
        // Settles what this has changed, too.
        self.reread_units().await
    }

    fn state_of(&self, service: &str, unit: &Unit) -> Result<ServiceState, HostError> {
        let mut state = unit.state();
        if unit.is_generated() {
            state.enabled = Some(self.sysv.is_enabled(service)?);
        }
        Ok(state)
    }
}

/// How `job` ended; `None`: nobody will tell.
async fn end_of(job: &str, mut ended: UnboundedReceiver<EndedJob>) -> Option<String> {
    loop {
        let other = ended.recv().await?;
        if other.job == job {
            return Some(other.result);
        }
    }
}

#[async_trait]
impl Services for Systemd {
    /// `fresh` makes no difference: signals keep what is known right.
    async fn state(&self, service: &str, _fresh: bool) -> Result<Option<ServiceState>, HostError> {
        let unit = unit_name(service)?;
        if let Some(state) = self.view.state(service) {
            return Ok(Some(state));
        }
        let since = self.view.signals_seen();
        let looked = self.look(&unit).await;
        let found = looked.map_err(|error| error.explain(&format!("look at {unit}")))?;
        if found.is_missing() {
            self.view.forget(service);
            return Ok(None);
        }
        let state = self.state_of(service, &found)?;
        self.view.learn(service, &found.id, state, since);
        Ok(Some(state))
    }

    async fn start(&self, service: &str) -> Result<(), HostError> {
        self.run_job(service, "start", "StartUnit").await
    }

    async fn stop(&self, service: &str) -> Result<(), HostError> {
        self.run_job(service, "stop", "StopUnit").await
    }

    async fn restart(&self, service: &str) -> Result<(), HostError> {
        self.run_job(service, "restart", "RestartUnit").await
    }

    async fn reload(&self, service: &str) -> Result<(), HostError> {
        self.run_job(service, "reload", "ReloadOrTryRestartUnit").await
    }

    async fn enable(&self, service: &str) -> Result<(), HostError> {
        self.set_enabled(service, true).await
    }

    async fn disable(&self, service: &str) -> Result<(), HostError> {
        self.set_enabled(service, false).await
    }

    fn has_unit_files(&self) -> bool {
        true
    }

    async fn reread_units(&self) -> Result<(), HostError> {
        let ticket = self.rereads.asked.fetch_add(1, Ordering::Relaxed) + 1;
        let mut done = self.rereads.done.write().await;
        if *done >= ticket {
            return Ok(());
        }
        let asked = self.rereads.asked.load(Ordering::Relaxed);
        let what = "let systemd read its unit files again";
        let _own = self.view.rereading_units();
        let bus = self.bus().await.map_err(|error| error.explain(what))?;
        let reload = bus.call(MANAGER_PATH, MANAGER, "Reload", &(), RELOAD_DEADLINE);
        match reload.await {
            Ok(_) => {
                bus.settle().await;
                *done = asked;
                Ok(())
            }
            Err(error) => {
                self.drop_dead_bus(&error).await;
                Err(error.explain(what))
            }
        }
    }

    fn services_in(&self, files: &[PathBuf]) -> BTreeSet<String> {
        let units = units_in(files);
        match units.is_empty() {
            true => scripts_in(files),
            false => units,
        }
    }

    fn changes(&self) -> Option<Arc<ServiceChanges>> {
        Some(self.changes.clone())
    }
}

/// Services among `files` (no templates).
fn units_in(files: &[PathBuf]) -> BTreeSet<String> {
    let name = |file: &PathBuf| {
        let folder = file.parent()?;
        let name = file.file_name()?.to_str()?.strip_suffix(".service")?;
        let is_unit = UNIT_FOLDERS
            .iter()
            .any(|unit_folder| folder == Path::new(unit_folder))
            && !name.contains('@')
            && check_name(name).is_ok();
        is_unit.then(|| name.to_owned())
    };
    files.iter().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_of_a_package() {
        let systemd = Systemd::new(&Root::new("/nowhere"));
        let services = |files: &[&str]| {
            let files: Vec<PathBuf> = files.iter().map(PathBuf::from).collect();
            systemd.services_in(&files).into_iter().collect::<Vec<_>>()
        };
        assert_eq!(
            services(&[
                "/usr/lib/systemd/system/app_foo.service",
                "/lib/systemd/system/app-bar.service",
                "/etc/systemd/system/app.baz.service",
                "/lib/systemd/system/app@.service",
                "/lib/systemd/system/app.timer",
                "/etc/systemd/system/app_foo.service.d/limits.conf",
                "/usr/lib/systemd/user/app_user.service",
                "/etc/init.d/app_foo",
            ]),
            ["app-bar", "app.baz", "app_foo"]
        );
        assert_eq!(
            services(&["/etc/init.d/app_old", "/usr/bin/app_old"]),
            ["app_old"]
        );
    }
}
