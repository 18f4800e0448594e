//! Health and metrics of the master.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use protocol::rest::Health;

use super::App;
use super::problem::Refusal;
use super::signature::{Answer, Answers};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Metrics as text.
pub struct OpenMetrics(String);

impl IntoResponse for OpenMetrics {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, OPENMETRICS)], self.0).into_response()
    }
}

impl Answers for OpenMetrics {
    fn answers() -> Vec<Answer> {
        vec![Answer::raw(OPENMETRICS)]
    }
}

/// Status 200 without problems, else 503.
pub struct Readiness(Health);

impl IntoResponse for Readiness {
    fn into_response(self) -> Response {
        let status = match self.0.problems.is_empty() {
            true => StatusCode::OK,
            false => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, Json(self.0)).into_response()
    }
}

impl Answers for Readiness {
    fn answers() -> Vec<Answer> {
        [StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE]
            .map(Answer::json::<Health>)
            .into()
    }
}

pub async fn live() -> Json<Health> {
    Json(Health { problems: Vec::new() })
}

/// Everybody may call this, so reasons, which may contain addresses and user names, are in the log
/// only.
pub async fn ready(State(app): State<App>) -> Readiness {
    let mut problems = Vec::new();
    if let Err(error) = app.store.check().await {
        tracing::warn!("not ready: the database does not answer: {error}");
        problems.push("the database does not answer".to_owned());
    }
    if !app.link.borrow().is_up() {
        problems.push("there is no connection to the broker".to_owned());
    }
    Readiness(Health { problems })
}

pub async fn metrics(State(app): State<App>) -> Result<OpenMetrics, Refusal> {
    let (states, responding) = app.store.count_hosts().await?;
    for (state, count) in states {
        app.metrics.set_hosts(state.as_str(), count);
    }
    app.metrics
        .responding
        .set(responding.try_into().unwrap_or(i64::MAX));
    app.metrics.broker_up.set(i64::from(app.link.borrow().is_up()));
    Ok(OpenMetrics(app.metrics.encode_text()))
}
