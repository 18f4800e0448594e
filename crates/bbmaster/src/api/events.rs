//! Events: their history as pages, and live.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use protocol::rest::{Event, EventQuery};
use tokio::sync::watch;

use super::App;
use super::extract::{Params, limit};
use super::problem::Refusal;

pub async fn events(
    State(app): State<App>,
    Params(query): Params<EventQuery>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let limit = limit(query.limit)?;
    let last_id = last_event_id(&headers)?;
    let wants_stream = headers
        .get(ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/event-stream"));
    if wants_stream {
        return Ok(live(app, query, last_id));
    }
    Ok(Json(app.store.events(&query, limit).await?).into_response())
}

/// Where a client that was cut off wants to go on.
fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let Some(id) = headers.get(LAST_EVENT_ID) else {
        return Ok(None);
    };
    let id = id.to_str().ok().and_then(|id| id.parse().ok());
    id.map(Some)
        .ok_or_else(|| Refusal::bad_parameter(LAST_EVENT_ID, "the id of an event, a number, is needed"))
}

const LAST_EVENT_ID: &str = "Last-Event-ID";

/// One listener: it reads from the store at its own pace, so that it misses nothing however slow it is.
struct Follower {
    app: App,
    query: EventQuery,
    newest: watch::Receiver<u64>,
    ready: VecDeque<Event>,
}

impl Follower {
    async fn next(&mut self) -> Option<Event> {
        const AT_ONCE: u32 = 200;
        let mut ending = self.app.ending.clone();
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.query.after = Some(event.id);
                return Some(event);
            }
            self.newest.borrow_and_update();
            match self.app.store.events(&self.query, AT_ONCE).await {
                Ok(page) if page.events.is_empty() => tokio::select! {
                    changed = self.newest.changed() => changed.ok()?,
                    _ = ending.wait_for(|ending| *ending) => return None,
                },
                Ok(page) => self.ready.extend(page.events),
                Err(error) => {
                    tracing::warn!("a listener waits for events: {error}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.app.metrics.event_listeners.dec();
    }
}

fn live(app: App, mut query: EventQuery, last_id: Option<u64>) -> Response {
    let newest = app.store.watch_events();
    // What a client sends when it reconnects goes before what it asked for at first.
    let after = last_id.or(query.after).unwrap_or(*newest.borrow());
    query.after = Some(after);
    query.before = None;
    app.metrics.event_listeners.inc();
    let follower = Follower {
        app,
        query,
        newest,
        ready: VecDeque::new(),
    };
    let events = stream::unfold(follower, async |mut follower| {
        let event = follower.next().await?;
        Some((Ok::<_, Infallible>(as_sse(&event)), follower))
    });
    Sse::new(events)
        .keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
        .into_response()
}

fn as_sse(event: &Event) -> axum::response::sse::Event {
    axum::response::sse::Event::default()
        .id(event.id.to_string())
        .event(event.kind.as_str())
        // One line: JSON strings hold no line ends.
        .data(serde_json::to_string(event).unwrap_or_default())
}
