//! What hosts should run.

use std::sync::Arc;

use protocol::rest::{DesiredApps, EventKind};
use protocol::{Apps, HostId};
use serde::{Serialize, Serializer};

use super::events::{EventData, NewEvent};
use super::row::Row;
use super::statement::Statement;
use super::{ROWS, Result, Store, StoreError, show_time, unsigned};

/// A host's desired state as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// Shared by the hosts of one PUT.
    pub apps: Arc<Apps>,
    pub generation: u64,
    pub author: Arc<str>,
    pub changed_at: i64,
    /// The host may take it only if its plan has this hash.
    pub only_if_plan: Option<String>,
    /// The host has taken this generation, so its plan had the right hash. The hash is not sent
    /// again.
    pub is_taken: bool,
}

/// The result of a PUT.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredDesired {
    pub desired: Desired,
    /// The generation is a new one.
    pub is_change: bool,
}

/// A PUT of a host's desired state.
#[derive(Debug, Clone)]
pub struct NewDesired<'a> {
    pub apps: Arc<Apps>,
    pub only_if_plan: Option<&'a str>,
    /// If given, the stored generation must be one of these.
    pub if_match: Option<&'a [u64]>,
    pub author: Arc<str>,
}

impl From<Desired> for DesiredApps {
    fn from(desired: Desired) -> Self {
        Self {
            apps: Arc::unwrap_or_clone(desired.apps),
            generation: desired.generation,
            author: Some(desired.author.as_ref().to_owned()),
            changed_at: Some(show_time(desired.changed_at)),
            only_if_plan: desired.only_if_plan,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum PutError {
    #[error("the desired state is at generation {current}")]
    GenerationChanged { current: u64 },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reads stored applications. They were validated before they were stored; unknown fields, which a
/// newer master may have stored, are ignored.
pub(super) fn parse_apps(apps: &str) -> Result<Apps> {
    Ok(serde_json::from_str(apps)?)
}

fn desired(row: &Row) -> Result<Desired> {
    let generation = unsigned(row.number(0)?);
    Ok(Desired {
        generation,
        apps: Arc::new(parse_apps(&row.text(1)?)?),
        author: row.text(2)?.into(),
        changed_at: row.number(3)?,
        only_if_plan: row.text_or_null(4)?,
        is_taken: row
            .number_or_null(5)?
            .is_some_and(|reported| unsigned(reported) >= generation),
    })
}

const BY_HOST: &str = "SELECT d.generation, d.apps, d.author, d.changed_at, d.only_if_plan, h.reported_generation \
     FROM desired d LEFT JOIN hosts h ON h.host_id = d.host_id WHERE d.host_id = ";

impl Store {
    pub async fn desired(&self, host: &HostId) -> Result<Option<Desired>> {
        let row = self.read_one(Statement::new(BY_HOST).bind(host.as_str())).await?;
        row.as_ref().map(desired).transpose()
    }

    /// How many of these hosts a PUT of `apps` without a condition would change.
    pub async fn count_changes(&self, hosts: &[HostId], apps: &Apps) -> Result<u64> {
        let mut same = 0;
        for chunk in hosts.chunks(ROWS) {
            let select =
                Statement::new("SELECT apps FROM desired WHERE only_if_plan IS NULL AND host_id IN ")
                    .list(chunk.iter().map(HostId::as_str));
            for row in self.read(select).await? {
                same += u64::from(parse_apps(&row.text(0)?)? == *apps);
            }
        }
        Ok(hosts.len() as u64 - same)
    }
}

/// The event of a changed desired state. It has no config, which may hold secrets: events are kept,
/// and viewers can read them.
pub(super) fn desired_changed(host: &Arc<str>, stored: &Desired) -> NewEvent {
    let mut message = format!("desired state is now generation {}: ", stored.generation);
    let mut before = "";
    for (name, spec) in stored.apps.iter() {
        message.extend([before, name.as_str(), " ", spec.version.as_str()]);
        before = ", ";
    }
    if stored.apps.is_empty() {
        message.push_str("no applications");
    }
    if let Some(hash) = &stored.only_if_plan {
        message.extend([", only if the host's plan is ", hash]);
    }
    NewEvent {
        at: stored.changed_at,
        kind: EventKind::DesiredChanged,
        host_id: Some(host.clone()),
        author: Some(stored.author.clone()),
        message,
        data: EventData::of(&DesiredChangedData {
            generation: stored.generation,
            apps: Versions(&stored.apps),
            only_if_plan: stored.only_if_plan.as_deref(),
        }),
    }
}

/// The data of the event.
#[derive(Serialize)]
struct DesiredChangedData<'a> {
    generation: u64,
    apps: Versions<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    only_if_plan: Option<&'a str>,
}

struct Versions<'a>(&'a Apps);

impl Serialize for Versions<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, spec)| (name, &spec.version)))
    }
}
