//! Events: pages of past ones, and a stream of new ones.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::header::ACCEPT;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use protocol::rest::{Event, EventList, EventQuery};
use tokio::sync::watch;

use super::App;
use super::extract::{Params, limit};
use super::problem::Refusal;
use super::signature::{Answer, Answers, Argument, Described, Header};

/// What a request for events returns.
pub enum EventsAnswer {
    Page(EventList),
    Stream(Response),
}

impl IntoResponse for EventsAnswer {
    fn into_response(self) -> Response {
        match self {
            Self::Page(page) => Json(page).into_response(),
            Self::Stream(stream) => stream,
        }
    }
}

impl Answers for EventsAnswer {
    fn answers() -> Vec<Answer> {
        vec![
            Answer::json::<EventList>(StatusCode::OK),
            Answer::raw(EVENT_STREAM),
        ]
    }
}

const EVENT_STREAM: &str = "text/event-stream";
const LAST_EVENT_ID: &str = "Last-Event-ID";

/// The last event that a client received before it lost its connection.
pub struct LastEventId(Option<HeaderValue>);

impl FromRequestParts<App> for LastEventId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Infallible> {
        Ok(Self(parts.headers.get(LAST_EVENT_ID).cloned()))
    }
}

impl Argument for LastEventId {
    fn describe(described: &mut Described) {
        described.headers.push(Header {
            name: LAST_EVENT_ID,
            description: "Id of the last event that the client has received",
            pattern: "^[0-9]{1,19}$",
        });
        described.problems.push(400);
    }
}

impl LastEventId {
    fn parse(&self) -> Result<Option<u64>, Refusal> {
        let Some(id) = &self.0 else {
            return Ok(None);
        };
        let id = id.to_str().ok().and_then(|id| id.parse().ok());
        id.map(Some)
            .ok_or_else(|| Refusal::bad_parameter(LAST_EVENT_ID, "must be the id of an event, a number"))
    }
}

/// Whether a client asks for a stream instead of a page.
pub struct WantsStream(bool);

impl FromRequestParts<App> for WantsStream {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Infallible> {
        let accept = parts.headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
        Ok(Self(accept.is_some_and(|accept| accept.contains(EVENT_STREAM))))
    }
}

impl Argument for WantsStream {}

pub async fn events(
    State(app): State<App>,
    Params(query): Params<EventQuery>,
    last_event_id: LastEventId,
    WantsStream(wants_stream): WantsStream,
) -> Result<EventsAnswer, Refusal> {
    let limit = limit(query.limit)?;
    let last_id = last_event_id.parse()?;
    match wants_stream {
        true => Ok(EventsAnswer::Stream(live(app, query, last_id))),
        false => Ok(EventsAnswer::Page(app.store.events(&query, limit).await?)),
    }
}

/// One connection that streams events. It reads from the store at its own pace, so a slow client
/// misses nothing.
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
                    tracing::warn!("cannot read events for a listener, will be retried: {error}");
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
    // After a reconnect a client sends `Last-Event-ID`, which is newer than its first query.
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
        // One line, because JSON strings contain no line breaks.
        .data(serde_json::to_string(event).unwrap_or_default())
}
