//! The REST API. One table of routes ([`routes`]) gives the router, what each route asks of its
//! caller ([`Access`]) and the OpenAPI document ([`document`]). What a route takes and answers is
//! stated once: in the signature of its handler.

mod access;
mod apps;
mod enroll;
mod events;
mod extract;
mod fleet;
mod health;
mod hosts;
mod listener;
mod openapi;
mod ping;
mod problem;
mod retry;
mod route;
mod signature;
mod table;
mod tokens;
mod ui;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::Response;
use bus::{LinkState, Publisher};
use tokio::sync::watch;

pub use access::{Access, Gate, Principal, new_secret};
pub use listener::{TlsError, TlsListener};
pub use route::Route;
pub use table::{document, routes};
pub use tokens::check as check_new_token;

use crate::dispatch::{Dispatcher, Pinger};
use crate::enroll::Enrollment;
use crate::metrics::Metrics;
use crate::replies::Waiters;
use crate::store::Store;
use problem::Refusal;

/// What handlers use. Cheap to clone.
#[derive(Clone)]
pub struct App {
    pub store: Store,
    pub publisher: Publisher,
    pub link: watch::Receiver<LinkState>,
    pub dispatcher: Dispatcher,
    pub pinger: Pinger,
    pub waiters: Arc<Waiters>,
    pub metrics: Metrics,
    pub gate: Arc<Gate>,
    /// How long to wait for the plan of a host.
    pub plan_timeout: Duration,
    /// `None`: enrolment is off.
    pub enrollment: Option<Arc<Enrollment>>,
    /// Becomes true when the master stops. Streams end then.
    pub ending: watch::Receiver<bool>,
}

/// Larger bodies are refused. Agents accept 1 MiB.
const MAX_BODY: usize = 2 << 20;

/// The REST API and the web page.
pub fn router(app: App) -> Router {
    let mut router = Router::new();
    for route in routes() {
        for path in route.paths() {
            let gate = app.clone();
            let access = route.access;
            let admit =
                move |request: Request, next: Next| access::admit(gate.clone(), access, request, next);
            let handler = route.handler.clone().route_layer(middleware::from_fn(admit));
            router = router.route(&path, handler);
        }
    }
    router
        .fallback(async || {
            Refusal::of(StatusCode::NOT_FOUND).detail("there is no such path: see /openapi.json")
        })
        .method_not_allowed_fallback(async || {
            Refusal::of(StatusCode::METHOD_NOT_ALLOWED)
                .detail("this path does not support this method: see /openapi.json")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(app.clone(), count))
        .with_state(app)
}

async fn count(State(app): State<App>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    app.metrics.count_request(response.status().as_u16());
    response
}
