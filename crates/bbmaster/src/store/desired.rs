//! What hosts should run.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::rest::{DesiredApps, EventKind};
use protocol::{Apps, HostId};
use serde_json::json;
use sqlx::QueryBuilder;

use super::events::NewEvent;
use super::row::Columns;
use super::{ROWS, Result, Store, StoreError, reading, show_time, unsigned};

/// A host's desired state as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// Shared by the hosts that one PUT was for.
    pub apps: Arc<Apps>,
    pub generation: u64,
    pub author: String,
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
    pub author: &'a str,
}

impl From<Desired> for DesiredApps {
    fn from(desired: Desired) -> Self {
        Self {
            apps: Arc::unwrap_or_clone(desired.apps),
            generation: desired.generation,
            author: Some(desired.author),
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
        author: row.text(2)?,
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
pub(super) fn changed(host: &HostId, stored: &Desired) -> NewEvent {
    let versions: BTreeMap<&str, &str> = stored
        .apps
        .iter()
        .map(|(name, spec)| (name.as_str(), spec.version.as_str()))
        .collect();
    let list: Vec<String> = versions
        .iter()
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    let list = match list.is_empty() {
        true => "nothing".to_owned(),
        false => list.join(", "),
    };
    let mut data = json!({ "generation": stored.generation, "apps": versions });
    let mut message = format!("desired state is now generation {}: {list}", stored.generation);
    if let Some(hash) = &stored.only_if_plan {
        data["only_if_plan"] = hash.as_str().into();
        message.push_str(&format!(", if the host's plan is still {hash}"));
    }
    NewEvent {
        at: stored.changed_at,
        kind: EventKind::DesiredChanged,
        host_id: Some(host.as_str().to_owned()),
        author: Some(stored.author.clone()),
        message,
        data: Some(data),
    }
}
