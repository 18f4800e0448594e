//! systemd over D-Bus. A unit that was read before is not read again: signals void what is known
//! ([`view`]).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use protocol::Category;
use tokio::sync::{Mutex, RwLock};

use super::{ServiceChanges, SysV, check_name, scripts_in};
use crate::command::Runner;
use crate::systemd::{MANAGER, MANAGER_PATH, SERVICE, SystemdError, UNIT, object_path};
use crate::{HostError, Root, ServiceState, Services};

mod job;
mod signals;
mod unit;
mod view;

use job::JobKind;
use signals::WatchedClient;
use unit::{UnitProperties, unit_name};
use view::View;

/// For a reload of all unit files.
const RELOAD_DEADLINE: Duration = Duration::from_secs(90);

/// Folders of unit files, in a package.
const UNIT_FOLDERS: [&str; 4] = [
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/etc/systemd/system",
];

/// The units of one host.
pub struct Systemd {
    root: Root,
    /// Boot links of SysV scripts that systemd has wrapped.
    sysv: SysV,
    changes: Arc<ServiceChanges>,
    view: Arc<View>,
    /// `None`: not connected.
    connection: Mutex<Option<WatchedClient>>,
    rereads: Rereads,
}

/// A reload of all unit files takes long, so that one call serves all who have changed some
/// meanwhile.
#[derive(Default)]
struct Rereads {
    asked: AtomicU64,
    /// How many of those who asked are served. Locked for writing during a reload: systemd answers
    /// no call meanwhile, and calls with a shorter deadline wait here.
    done: RwLock<u64>,
}

impl Systemd {
    pub fn new(root: &Root) -> Self {
        let changes = Arc::new(ServiceChanges::default());
        Self {
            root: root.clone(),
            sysv: SysV::new(root),
            view: Arc::new(View::new(changes.clone())),
            changes,
            connection: Mutex::new(None),
            rereads: Rereads::default(),
        }
    }

    /// Runs the tools that enable SysV scripts; not given: the agent does.
    pub fn runner(self, runner: Option<&Arc<Runner>>) -> Self {
        Self {
            sysv: self.sysv.runner(runner),
            ..self
        }
    }

    /// The connection; a new one if there is none or the last one was closed.
    async fn watched(&self) -> Result<WatchedClient, SystemdError> {
        let mut kept = self.connection.lock().await;
        match &*kept {
            Some(watched) if !watched.client.is_closed() => Ok(watched.clone()),
            Some(_) | None => {
                *kept = None;
                let watched = WatchedClient::connect(&self.root, self.view.clone()).await?;
                *kept = Some(watched.clone());
                Ok(watched)
            }
        }
    }

    /// After a failed call: whether a new connection may do better.
    async fn drop_dead_connection(&self, error: &SystemdError) -> bool {
        let SystemdError::Unreachable(_) = error else {
            return false;
        };
        // Even if it is not closed: systemd may have left a call without an answer.
        let dropped = self.connection.lock().await.take().is_some();
        if dropped {
            // Its signals are no longer read.
            self.view.signals_lost();
        }
        dropped
    }

    async fn read_unit(&self, unit: &str) -> Result<UnitProperties, SystemdError> {
        match self.read_unit_once(unit).await {
            Err(error) if self.drop_dead_connection(&error).await => self.read_unit_once(unit).await,
            answer => answer,
        }
    }

    async fn read_unit_once(&self, unit: &str) -> Result<UnitProperties, SystemdError> {
        let _no_reread = self.rereads.done.read().await;
        let watched = self.watched().await?;
        let client = &watched.client;
        // By its path: that also loads a unit to which nothing refers. A few small calls in
        // parallel: GetAll answers with a hundred properties, and systemd before 230 has no
        // ListUnitsByNames.
        let path = object_path(unit);
        let text = |name| client.property::<String>(&path, UNIT, name);
        // InvocationID would serve as well, but not before systemd 232.
        let main_started = async {
            if !unit.ends_with(".service") {
                // A timer or a socket has no process.
                return Ok(None);
            }
            let property = client.property::<u64>(&path, SERVICE, "ExecMainStartTimestampMonotonic");
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
        Ok(UnitProperties {
            id,
            load_state,
            active_state,
            sub_state,
            unit_file_state,
            main_started,
        })
    }

    /// Enables or disables, where the unit allows that.
    async fn set_enabled(&self, service: &str, enabled: bool) -> Result<(), HostError> {
        let unit = unit_name(service)?;
        let what = format!("{} {unit}", if enabled { "enable" } else { "disable" });
        let _own = self.view.changing(service, &unit);
        let found = self
            .read_unit(&unit)
            .await
            .map_err(|error| error.explain(&what))?;
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
        let watched = self.watched().await.map_err(|error| error.explain(&what))?;
        let names = vec![&found.id];
        let client = &watched.client;
        let changed = match enabled {
            // For a static unit systemd changes nothing, without an error.
            true => client.manager("EnableUnitFiles", &(names, false, false)).await,
            false => client.manager("DisableUnitFiles", &(names, false)).await,
        };
        changed.map_err(|error| error.explain(&what))?;
        drop(no_reread);
        // Also flushes the signals of this change.
        self.reread_units().await
    }

    fn state_of(&self, service: &str, unit: &UnitProperties) -> Result<ServiceState, HostError> {
        let mut state = unit.state();
        if unit.is_generated() {
            state.enabled = Some(self.sysv.is_enabled(service)?);
        }
        Ok(state)
    }
}

#[async_trait]
impl Services for Systemd {
    /// `fresh` makes no difference: signals keep the view up to date.
    async fn state(&self, service: &str, _fresh: bool) -> Result<Option<ServiceState>, HostError> {
        let unit = unit_name(service)?;
        if let Some(state) = self.view.state(service) {
            return Ok(Some(state));
        }
        let since = self.view.signals_seen();
        let read = self.read_unit(&unit).await;
        let found = read.map_err(|error| error.explain(&format!("read the state of {unit}")))?;
        if found.is_missing() {
            self.view.forget(service);
            return Ok(None);
        }
        let state = self.state_of(service, &found)?;
        self.view.learn(service, &found.id, state, since);
        Ok(Some(state))
    }

    /// There are none: signals keep the view up to date.
    fn forget_answers(&self) {}

    async fn start(&self, service: &str) -> Result<(), HostError> {
        self.run_job(service, JobKind::Start).await
    }

    async fn stop(&self, service: &str) -> Result<(), HostError> {
        self.run_job(service, JobKind::Stop).await
    }

    async fn restart(&self, service: &str) -> Result<(), HostError> {
        self.run_job(service, JobKind::Restart).await
    }

    async fn reload(&self, service: &str) -> Result<(), HostError> {
        self.run_job(service, JobKind::Reload).await
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
        let what = "make systemd reload its unit files";
        let _own = self.view.rereading_units();
        let watched = self.watched().await.map_err(|error| error.explain(what))?;
        let reload = watched
            .client
            .call(MANAGER_PATH, MANAGER, "Reload", &(), RELOAD_DEADLINE);
        match reload.await {
            Ok(_) => {
                watched.flush().await;
                *done = asked;
                Ok(())
            }
            Err(error) => {
                self.drop_dead_connection(&error).await;
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
                "/usr/local/lib/systemd/system/app_local.service",
                "/lib/systemd/system/app-bar.service",
                "/etc/systemd/system/app.baz.service",
                "/lib/systemd/system/app@.service",
                "/lib/systemd/system/app.timer",
                "/etc/systemd/system/app_foo.service.d/limits.conf",
                "/usr/lib/systemd/user/app_user.service",
                "/etc/init.d/app_foo",
            ]),
            ["app-bar", "app.baz", "app_foo", "app_local"]
        );
        assert_eq!(
            services(&["/etc/init.d/app_old", "/usr/bin/app_old"]),
            ["app_old"]
        );
    }
}
