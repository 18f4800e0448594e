//! What hosts should run.

use std::sync::Arc;

use protocol::rest::{DesiredApps, EventKind};
use protocol::{Apps, HostId};
use serde::{Serialize, Serializer};
use sqlx::QueryBuilder;

use super::events::{Json, NewEvent};
use super::row::Columns;
use super::{ROWS, Result, Store, StoreError, reading, show_time, unsigned};

/// A host's desired state as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// Shared by the hosts that one PUT was for.
    pub apps: Arc<Apps>,
    pub generation: u64,
    pub author: Arc<str>,
    pub changed_at: i64,
    /// The host is to take it only if its plan has this hash.
    pub only_if_plan: Option<String>,
    /// The host has taken this generation: its plan was the right one, and no other is asked for any more.
    pub is_taken: bool,
}

/// What became of a PUT.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    pub desired: Desired,
    /// It is another generation than before.
    pub is_change: bool,
}

/// What is to become a host's desired state.
#[derive(Debug, Clone)]
pub struct NewDesired<'a> {
    pub apps: Arc<Apps>,
    pub only_if_plan: Option<&'a str>,
    /// Nothing is changed unless the stored one is at one of these generations.
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

/// What is stored was validated before; a newer master may have stored more, which is ignored.
pub(super) fn parse(apps: &str) -> Result<Apps> {
    Ok(serde_json::from_str(apps)?)
}

fn desired(row: &impl Columns) -> Result<Desired> {
    let generation = unsigned(row.number(0)?);
    Ok(Desired {
        generation,
        apps: Arc::new(parse(&row.text(1)?)?),
        author: row.text(2)?.into(),
        changed_at: row.number(3)?,
        only_if_plan: row.text_or_null(4)?,
        is_taken: row
            .number_or_null(5)?
            .is_some_and(|reported| unsigned(reported) >= generation),
    })
}

const BY_HOST: &str = "SELECT d.generation, d.apps, d.author, d.changed_at, d.only_if_plan, h.reported_generation \
     FROM desired d LEFT JOIN hosts h ON h.host_id = d.host_id WHERE d.host_id = $1";

impl Store {
    pub async fn desired(&self, host: &HostId) -> Result<Option<Desired>> {
        reading!(self, pool => {
            let row = sqlx::query(BY_HOST).bind(host.as_str()).fetch_optional(pool).await?;
            row.as_ref().map(desired).transpose()
        })
    }

    /// Of how many of these hosts something else than `apps` is desired, or the same under a condition.
    pub async fn count_changes(&self, hosts: &[HostId], apps: &Apps) -> Result<u64> {
        let mut same = 0;
        for chunk in hosts.chunks(ROWS) {
            reading!(self, pool => {
                let mut query = QueryBuilder::new("SELECT apps FROM desired WHERE only_if_plan IS NULL AND host_id IN (");
                let mut list = query.separated(", ");
                chunk.iter().for_each(|id| { list.push_bind(id.as_str().to_owned()); });
                query.push(")");
                for row in query.build().fetch_all(pool).await? {
                    same += u64::from(parse(&row.text(0)?)? == *apps);
                }
            });
        }
        Ok(hosts.len() as u64 - same)
    }
}

/// Without config: it may hold secrets, and events are for viewers and kept.
pub(super) fn changed(host: &Arc<str>, stored: &Desired) -> NewEvent {
    let mut message = format!("desired state is now generation {}: ", stored.generation);
    let mut before = "";
    for (name, spec) in stored.apps.iter() {
        message.extend([before, name.as_str(), " ", spec.version.as_str()]);
        before = ", ";
    }
    if stored.apps.is_empty() {
        message.push_str("nothing");
    }
    if let Some(hash) = &stored.only_if_plan {
        message.extend([", if the host's plan is still ", hash]);
    }
    NewEvent {
        at: stored.changed_at,
        kind: EventKind::DesiredChanged,
        host_id: Some(host.clone()),
        author: Some(stored.author.clone()),
        message,
        data: Json::of(&Changed::from(stored)),
    }
}

/// An event's data.
#[derive(Serialize)]
struct Changed<'a> {
    generation: u64,
    apps: Versions<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    only_if_plan: Option<&'a str>,
}

struct Versions<'a>(&'a Apps);

impl<'a> From<&'a Desired> for Changed<'a> {
    fn from(stored: &'a Desired) -> Self {
        Self {
            generation: stored.generation,
            apps: Versions(&stored.apps),
            only_if_plan: stored.only_if_plan.as_deref(),
        }
    }
}

impl Serialize for Versions<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, spec)| (name, &spec.version)))
    }
}
