//! Events: written in the transaction of what they tell of, read as pages and by live listeners.

use std::sync::Arc;

use protocol::HostId;
use protocol::rest::{Event, EventKind, EventList, EventQuery};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::row::Row;
use super::statement::Statement;
use super::transaction::Tx;
use super::{ROWS, Result, Store, StoreError, clean, now, show_time, signed, unsigned};

/// The PostgreSQL channel that tells all masters of new events.
pub(super) const CHANNEL: &str = "bbmaster_events";

/// An event to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    pub at: i64,
    pub kind: EventKind,
    pub host_id: Option<Arc<str>>,
    pub author: Option<Arc<str>>,
    pub message: String,
    pub data: Option<EventData>,
}

/// The data of an event, as JSON text.
#[derive(Debug, Clone, PartialEq)]
pub struct EventData(String);

impl EventData {
    /// `None` if the value has no JSON, as a map whose keys are not text.
    pub fn of(value: &impl Serialize) -> Option<Self> {
        serde_json::to_string(value).ok().map(Self)
    }
}

impl Tx {
    /// Writes events. Must be the last step of the transaction before its commit.
    ///
    /// On PostgreSQL, transactions that write events commit one after the other. So ids become
    /// visible in their order, and a reader that has seen one id has not missed a lower one.
    pub(super) async fn insert_events(&mut self, events: Vec<NewEvent>) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        if self.is_postgres() {
            self.execute(Statement::new("SELECT pg_advisory_xact_lock(7402215961)"))
                .await?;
            self.execute(Statement::new("SELECT pg_notify").list([CHANNEL, ""]))
                .await?;
        }
        let mut events = events.into_iter();
        while events.len() > 0 {
            let rows = events.by_ref().take(ROWS).map(|event| {
                [
                    event.at.into(),
                    event.kind.as_str().into(),
                    event.host_id.into(),
                    event.author.into(),
                    clean(&event.message).into(),
                    event.data.map(|EventData(json)| Arc::from(json)).into(),
                ]
            });
            let insert = Statement::new("INSERT INTO events (at, kind, host_id, author, message, data) ");
            self.execute(insert.rows(rows)).await?;
        }
        Ok(())
    }
}

fn event(row: &Row) -> Result<Event> {
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

/// One page of events, and one more event, which tells whether there is a next page.
fn select_page(wanted: &EventQuery, limit: usize) -> Statement {
    let mut select =
        Statement::new("SELECT id, at, kind, host_id, author, message, data FROM events WHERE id > ")
            .bind(signed(wanted.after.unwrap_or(0)));
    if let Some(before) = wanted.before {
        select = select.push(" AND id < ").bind(signed(before));
    }
    if let Some(host) = &wanted.host_id {
        select = select.push(" AND host_id = ").bind(host.as_str());
    }
    if let Some(kind) = wanted.kind {
        select = select.push(" AND kind = ").bind(kind.as_str());
    }
    if let Some(author) = &wanted.author {
        select = select.push(" AND author = ").bind(author.as_str());
    }
    let order = match wanted.after {
        Some(_) => " ORDER BY id ASC",
        None => " ORDER BY id DESC",
    };
    select.push(order).push(" LIMIT ").bind(signed(limit as u64 + 1))
}

impl Store {
    /// Writes the event that `author` had `host` retry what failed towards `generation`.
    pub async fn add_retry_event(&self, host: &HostId, generation: u64, author: &str) -> Result<()> {
        let event = NewEvent {
            at: now(),
            kind: EventKind::RetryAsked,
            host_id: Some(host.as_str().into()),
            author: Some(author.into()),
            message: format!("was told to retry generation {generation}"),
            data: EventData::of(&json!({ "generation": generation })),
        };
        let mut tx = self.begin().await?;
        tx.insert_events(vec![event]).await?;
        tx.commit().await?;
        self.refresh_newest_event().await
    }

    /// A page of events. [`EventQuery`] says in which direction.
    pub async fn events(&self, wanted: &EventQuery, limit: u32) -> Result<EventList> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let rows = self.read(select_page(wanted, limit)).await?;
        let mut events: Vec<Event> = rows.iter().map(event).collect::<Result<_>>()?;
        let more = events.len() > limit;
        events.truncate(limit);
        let next = events.last().filter(|_| more).map(|event| event.id);
        Ok(EventList { events, next })
    }

    /// Changes when there may be new events. Its value is the id of the newest one.
    pub fn watch_events(&self) -> watch::Receiver<u64> {
        self.events.subscribe()
    }

    /// Looks for events that other masters and commands have written.
    pub async fn refresh_newest_event(&self) -> Result<()> {
        let select = Statement::new("SELECT COALESCE(MAX(id), 0) FROM events");
        let newest = match self.read_one(select).await? {
            Some(row) => unsigned(row.number(0)?),
            None => 0,
        };
        self.events
            .send_if_modified(|known| std::mem::replace(known, newest) != newest);
        Ok(())
    }

    /// Deletes events from before `oldest`, then the oldest ones beyond `max`. Returns how many.
    pub async fn prune_events(&self, oldest: i64, max: u64) -> Result<u64> {
        let mut tx = self.begin().await?;
        let by_age = Statement::new("DELETE FROM events WHERE at < ").bind(oldest);
        let by_age = tx.execute(by_age).await?;
        let by_count = Statement::new(
            "DELETE FROM events WHERE id <= (SELECT id FROM events ORDER BY id DESC LIMIT 1 OFFSET ",
        );
        let by_count = tx.execute(by_count.bind(signed(max)).push(")")).await?;
        tx.commit().await?;
        Ok(by_age + by_count)
    }
}
