//! What hosts should run.

use std::collections::BTreeMap;

use protocol::rest::{DesiredApps, EventKind};
use protocol::{Apps, HostId, Limits, Status, apps_satisfied};
use serde_json::json;
use sqlx::QueryBuilder;

use super::events::{NewEvent, insert_events};
use super::row::Columns;
use super::{Result, Store, StoreError, now, reading, show_time, signed, unsigned, writing};

/// A host's desired state as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    pub apps: Apps,
    pub generation: u64,
    pub author: String,
    pub changed_at: i64,
    /// The host is to take it only if its plan has this hash.
    pub only_if_plan: Option<String>,
    /// The host has taken this generation: its plan was the right one, and no other is asked for any more.
    pub is_taken: bool,
}

/// What is to become a host's desired state.
#[derive(Debug, Clone, Copy)]
pub struct NewDesired<'a> {
    pub apps: &'a Apps,
    pub only_if_plan: Option<&'a str>,
    /// Nothing is changed unless the stored one is at one of these generations.
    pub if_match: Option<&'a [u64]>,
    pub author: &'a str,
}

impl From<Desired> for DesiredApps {
    fn from(desired: Desired) -> Self {
        Self {
            apps: desired.apps,
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

impl From<sqlx::Error> for PutError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// What is stored was validated before; a newer master may have stored more, which is ignored.
pub(super) fn parse(apps: &str) -> Result<Apps> {
    Ok(serde_json::from_str(apps)?)
}

fn desired(row: &impl Columns) -> Result<Desired> {
    let generation = unsigned(row.number(0)?);
    Ok(Desired {
        generation,
        apps: parse(&row.text(1)?)?,
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

    /// Sets a host's desired state. A host that was never seen gets a row. Setting what is set already changes
    /// nothing, the generation neither; the same tied to another plan, or to none any more, is a new one: the
    /// host may have refused the first.
    pub async fn put_desired(
        &self,
        host: &HostId,
        new: NewDesired<'_>,
    ) -> std::result::Result<Desired, PutError> {
        let NewDesired {
            apps,
            only_if_plan,
            if_match,
            author,
        } = new;
        let text = serde_json::to_string(apps).map_err(StoreError::from)?;
        let lock = if self.is_postgres() { " FOR UPDATE" } else { "" };
        let stored = writing!(self, tx => {
            sqlx::query("INSERT INTO hosts (host_id) VALUES ($1) ON CONFLICT (host_id) DO NOTHING")
                .bind(host.as_str())
                .execute(&mut *tx)
                .await?;
            let row = QueryBuilder::new("SELECT reported_generation, body FROM hosts WHERE host_id = ")
                .push_bind(host.as_str())
                .push(lock)
                .build()
                .fetch_one(&mut *tx)
                .await?;
            let reported = row.number_or_null(0)?.map_or(0, unsigned);
            let status = row.text_or_null(1)?.and_then(|body| {
                Status::decode(body.as_bytes(), Limits { max_size: usize::MAX, ..Limits::default() }).ok()
            });
            let before = sqlx::query(BY_HOST).bind(host.as_str()).fetch_optional(&mut *tx).await?;
            let before = before.as_ref().map(desired).transpose()?;
            let current = before.as_ref().map_or(0, |before| before.generation);
            if if_match.is_some_and(|wanted| !wanted.contains(&current)) {
                return Err(PutError::GenerationChanged { current });
            }
            let only_if_plan = only_if_plan.map(str::to_owned);
            if let Some(before) = before && before.apps == *apps && before.only_if_plan == only_if_plan {
                return Ok(before);
            }
            let stored = Desired {
                apps: apps.clone(),
                // Above what the host has, too: after a restored backup it may be ahead, and would refuse.
                generation: current.max(reported).saturating_add(1),
                author: author.to_owned(),
                changed_at: now(),
                only_if_plan,
                is_taken: false,
            };
            sqlx::query(
                "INSERT INTO desired (host_id, generation, apps, author, changed_at, only_if_plan) \
                 VALUES ($1, $2, $3, $4, $5, $6) \
                 ON CONFLICT (host_id) DO UPDATE SET generation = excluded.generation, apps = excluded.apps, \
                 author = excluded.author, changed_at = excluded.changed_at, only_if_plan = excluded.only_if_plan",
            )
            .bind(host.as_str())
            .bind(signed(stored.generation))
            .bind(&text)
            .bind(author)
            .bind(stored.changed_at)
            .bind(stored.only_if_plan.as_deref())
            .execute(&mut *tx)
            .await?;
            let satisfied = status.is_some_and(|status| apps_satisfied(apps, &status.apps));
            sqlx::query("UPDATE hosts SET satisfied = $1 WHERE host_id = $2")
                .bind(i64::from(satisfied))
                .bind(host.as_str())
                .execute(&mut *tx)
                .await?;
            sqlx::query("DELETE FROM host_apps WHERE host_id = $1 AND desired = 1")
                .bind(host.as_str())
                .execute(&mut *tx)
                .await?;
            let rows: Vec<_> = apps.iter().collect();
            for chunk in rows.chunks(100) {
                let mut query =
                    QueryBuilder::new("INSERT INTO host_apps (host_id, desired, name, version, running, failing) ");
                query.push_values(chunk, |mut row, (name, spec)| {
                    row.push_bind(host.as_str().to_owned())
                        .push_bind(1i64)
                        .push_bind(name.as_str().to_owned())
                        .push_bind(spec.version.clone())
                        .push_bind(i64::from(spec.running))
                        .push_bind(0i64);
                });
                query.build().execute(&mut *tx).await?;
            }
            insert_events!(self, tx, &[changed(host, &stored)]);
            stored
        });
        self.refresh_newest_event().await?;
        Ok(stored)
    }
}

/// Without config: it may hold secrets, and events are for viewers and kept.
fn changed(host: &HostId, stored: &Desired) -> NewEvent {
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
