//! What happened: written with what it tells of, read by time and by live listeners.

use std::sync::Arc;

use protocol::HostId;
use protocol::rest::{Event, EventKind, EventList, EventQuery};
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::QueryBuilder;
use tokio::sync::watch;

use super::row::Columns;
use super::{Result, Store, StoreError, now, reading, show_time, signed, unsigned, writing};

/// PostgreSQL tells all masters here that there are new events.
pub(super) const CHANNEL: &str = "bbmaster_events";

/// An event to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    pub at: i64,
    pub kind: EventKind,
    pub host_id: Option<Arc<str>>,
    pub author: Option<Arc<str>>,
    pub message: String,
    pub data: Option<Json>,
}

/// A text of JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct Json(String);

impl Json {
    /// `None`: it has no JSON, as a map whose keys are no texts.
    pub fn of(value: &impl Serialize) -> Option<Self> {
        serde_json::to_string(value).ok().map(Self)
    }

    pub fn into_text(self) -> String {
        self.0
    }
}

/// Writes events into a transaction, as its last act.
///
/// On PostgreSQL, transactions that write events commit one after the other: only then do ids appear in
/// their order, so that who has read up to one never misses an earlier one.
macro_rules! insert_events {
    ($store:expr, $tx:ident, $events:expr) => {{
        let events: Vec<$crate::store::events::NewEvent> = $events;
        if !events.is_empty() {
            if $store.is_postgres() {
                sqlx::query("SELECT pg_advisory_xact_lock(7402215961)")
                    .execute(&mut *$tx)
                    .await?;
                sqlx::query("SELECT pg_notify($1, '')")
                    .bind($crate::store::events::CHANNEL)
                    .execute(&mut *$tx)
                    .await?;
            }
            let mut events = events.into_iter();
            while events.len() > 0 {
                let mut query =
                    sqlx::QueryBuilder::new("INSERT INTO events (at, kind, host_id, author, message, data) ");
                query.push_values(events.by_ref().take($crate::store::ROWS), |mut row, event| {
                    row.push_bind(event.at)
                        .push_bind(event.kind.as_str())
                        .push_bind(event.host_id)
                        .push_bind(event.author)
                        .push_bind($crate::store::clean(&event.message))
                        .push_bind(event.data.map($crate::store::events::Json::into_text));
                });
                query.build().execute(&mut *$tx).await?;
            }
        }
    }};
}
pub(super) use insert_events;

const COLUMNS: &str = "SELECT id, at, kind, host_id, author, message, data FROM events WHERE ";

fn event(row: &impl Columns) -> Result<Event> {
    let word = row.text(2)?;
    let content = |what: &str| StoreError::Content(format!("events.{what}"));
    Ok(Event {
        id: unsigned(row.number(0)?),
        at: show_time(row.number(1)?),
        kind: serde_json::from_value(Value::String(word)).map_err(|_| content("kind"))?,
        host_id: row
            .text_or_null(3)?
            .map(HostId::new)
            .transpose()
            .map_err(|_| content("host_id"))?,
        author: row.text_or_null(4)?,
        message: row.text(5)?,
        data: row
            .text_or_null(6)?
            .map(|data| serde_json::from_str(&data))
            .transpose()
            .map_err(|_| content("data"))?,
    })
}

impl Store {
    /// `author` has had `host` try again what failed towards `generation`.
    pub async fn tell_retry(&self, host: &HostId, generation: u64, author: &str) -> Result<()> {
        writing!(self, tx => {
            insert_events!(self, tx, vec![NewEvent {
                at: now(),
                kind: EventKind::RetryAsked,
                host_id: Some(host.as_str().into()),
                author: Some(author.into()),
                message: format!("was told to try generation {generation} again"),
                data: Json::of(&json!({ "generation": generation })),
            }]);
        });
        self.refresh_newest_event().await
    }

    /// A page of events; see [`EventQuery`] for its direction.
    pub async fn events(&self, wanted: &EventQuery, limit: u32) -> Result<EventList> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let forward = wanted.after.is_some();
        let mut events = Vec::new();
        reading!(self, pool => {
            let mut query = QueryBuilder::new(COLUMNS);
            match (wanted.after, wanted.before) {
                (Some(after), None) => query.push("id > ").push_bind(signed(after)),
                (None, Some(before)) => query.push("id < ").push_bind(signed(before)),
                (Some(after), Some(before)) => query
                    .push("id > ")
                    .push_bind(signed(after))
                    .push(" AND id < ")
                    .push_bind(signed(before)),
                (None, None) => query.push("id > 0"),
            };
            if let Some(host) = &wanted.host_id {
                query.push(" AND host_id = ").push_bind(host.as_str().to_owned());
            }
            if let Some(kind) = wanted.kind {
                query.push(" AND kind = ").push_bind(kind.as_str());
            }
            if let Some(author) = &wanted.author {
                query.push(" AND author = ").push_bind(author.clone());
            }
            query.push(if forward { " ORDER BY id ASC" } else { " ORDER BY id DESC" });
            // One more tells whether there is a next page.
            query.push(" LIMIT ").push_bind(signed(limit as u64 + 1));
            for row in query.build().fetch_all(pool).await? {
                events.push(event(&row)?);
            }
        });
        let more = events.len() > limit;
        events.truncate(limit);
        let next = events.last().filter(|_| more).map(|event: &Event| event.id);
        Ok(EventList { events, next })
    }

    /// Changes when there may be new events; holds the newest one's id.
    pub fn watch_events(&self) -> watch::Receiver<u64> {
        self.events.subscribe()
    }

    /// Looks for events that others (masters, commands) have written.
    pub async fn refresh_newest_event(&self) -> Result<()> {
        let newest = reading!(self, pool => {
            sqlx::query("SELECT COALESCE(MAX(id), 0) FROM events")
                .fetch_one(pool)
                .await?
                .number(0)?
        });
        let newest = unsigned(newest);
        self.events
            .send_if_modified(|known| std::mem::replace(known, newest) != newest);
        Ok(())
    }

    /// Deletes events from before `oldest`, and the oldest beyond `max` of them; how many.
    pub async fn prune_events(&self, oldest: i64, max: u64) -> Result<u64> {
        let pruned = writing!(self, tx => {
            let by_age = sqlx::query("DELETE FROM events WHERE at < $1")
                .bind(oldest)
                .execute(&mut *tx)
                .await?
                .rows_affected();
            let by_count = sqlx::query(
                "DELETE FROM events WHERE id <= (SELECT id FROM events ORDER BY id DESC LIMIT 1 OFFSET $1)",
            )
            .bind(signed(max))
            .execute(&mut *tx)
            .await?
            .rows_affected();
            by_age + by_count
        });
        Ok(pruned)
    }
}
