//! Builds a status message from the host's state. A pure function, so that the command line, the
//! daemon and the tests report the same for the same host.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;
use std::time::SystemTime;

use protocol::satisfied::version_satisfied;
use protocol::status::{AgentInfo, Health, Rejected, ServiceStatus};
use protocol::{AppName, AppSpec, AppStatus, Apps, HostId, State, Status};
use tokio::time::Instant;

use crate::engine::observe::{Observed, ObservedApp};
use crate::host_state::{HostState, Standing};
use host::Facts;

/// What a status contains besides the host's state.
pub struct StatusDetails<'a> {
    pub host_id: &'a HostId,
    pub boot_id: &'a str,
    pub facts: &'a Facts,
    pub started: Instant,
    pub last_rejected: Option<&'a Rejected>,
    pub reply_to: Option<String>,
}

/// `seq` is 0: it is set when the status is sent.
pub fn build(state: &HostState, particulars: &StatusDetails<'_>) -> Status {
    let (status, detail, errors) = match &state.standing {
        Standing::Ok => (State::Ok, None, Vec::new()),
        Standing::Converging { detail } | Standing::Watching { detail } => {
            (State::Converging, Some(detail.clone()), Vec::new())
        }
        Standing::Errors(errors) => (State::Errors, None, errors.clone()),
    };
    let desired = &state.desired;
    Status {
        host_id: particulars.host_id.clone(),
        status,
        detail,
        info: particulars.facts.clone(),
        apps: app_statuses(&desired.apps, state.observed.as_deref()),
        desired_apps: (status != State::Ok).then(|| desired.apps.clone()),
        errors,
        last_rejected: particulars.last_rejected.cloned(),
        host_agent: agent_info(particulars.started),
        generation: desired.generation,
        reply_to: particulars.reply_to.clone(),
        seq: 0,
        boot_id: particulars.boot_id.to_owned(),
        timestamp: now(),
    }
}

/// RFC 3339, UTC, microseconds.
pub fn now() -> String {
    humantime::format_rfc3339_micros(SystemTime::now()).to_string()
}

/// The managed applications. A package that is desired but not yet taken over is not one of them.
fn app_statuses(desired: &Apps, observed: Option<&Observed>) -> BTreeMap<AppName, AppStatus> {
    let apps = observed.into_iter().flat_map(|observed| &observed.apps);
    apps.filter(|(_, there)| there.managed)
        .map(|(app, there)| (app.clone(), app_status(desired.get(app), there)))
        .collect()
}

fn app_status(spec: Option<&AppSpec>, there: &ObservedApp) -> AppStatus {
    let satisfied = spec.filter(|spec| version_satisfied(&spec.version, &there.version));
    AppStatus {
        version: satisfied.map_or(&there.version, |spec| &spec.version).clone(),
        package_version: there.version.clone(),
        package: there.package.clone(),
        url: there.url.clone(),
        running: there.running(),
        config: there.config.as_ref().clone().unwrap_or_default(),
        services: there
            .services
            .iter()
            .filter_map(|(name, state)| {
                let state = (*state)?;
                let status = ServiceStatus {
                    running: state.running,
                    enabled: state.enabled.unwrap_or(state.running),
                };
                Some((name.clone(), status))
            })
            .collect(),
        health: health(spec, there),
        config_age_s: Some(age_s(there.config_read_at, Instant::now())),
    }
}

fn health(spec: Option<&AppSpec>, there: &ObservedApp) -> Health {
    if there.broken || there.config.is_err() || !there.healthy {
        return Health::Failing;
    }
    let mut wanted = there
        .services
        .iter()
        .filter(|(name, _)| spec.is_none_or(|spec| spec.wants_service(name)))
        .peekable();
    if wanted.peek().is_none() {
        return Health::Unknown;
    }
    if wanted.all(|(_, state)| state.is_some_and(|state| state.running)) {
        Health::Ok
    } else {
        Health::Failing
    }
}

/// Age of a config that was read at `read_at`; 0 if there is no config to read.
fn age_s(read_at: Option<Instant>, now: Instant) -> u64 {
    read_at.map_or(0, |read_at| now.saturating_duration_since(read_at).as_secs())
}

fn agent_info(started: Instant) -> AgentInfo {
    AgentInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_s: started.elapsed().as_secs(),
        rss_kib: resident_kib().unwrap_or(0),
    }
}

/// From the shorter of the two files of the kernel that have it. The file is opened once, because
/// opening takes longer than reading.
fn resident_kib() -> Option<u64> {
    static STATM: LazyLock<io::Result<File>> = LazyLock::new(|| File::open("/proc/self/statm"));
    let mut text = [0; 128];
    let length = STATM.as_ref().ok()?.read_at(&mut text, 0).ok()?;
    let pages = str::from_utf8(text.get(..length)?).ok()?.split(' ').nth(1)?;
    Some(pages.parse::<u64>().ok()? * rustix::param::page_size() as u64 / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_what_the_kernel_says_at_length() {
        let kib = resident_kib().unwrap();
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let there: u64 = line.trim().strip_suffix("kB").unwrap().trim().parse().unwrap();
        assert!(kib.abs_diff(there) < there / 2, "{kib} and {there}");
    }
}
