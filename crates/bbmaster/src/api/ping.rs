//! Pings: asking hosts for their status.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bus::PublishError;
use protocol::encode_ping;
use protocol::rest::{PingAnswer, PingQuery, problem};
use tokio::time::{Instant, timeout};

use super::App;
use super::extract::{Id, Params};
use super::problem::{Refusal, publish_failed};
use super::signature::{Accepted, Answer, Answers};
use crate::replies::Reply;

const ASKED: PingAnswer = PingAnswer {
    round_trip_ms: None,
    status: None,
};

/// The result of a ping.
pub enum Pinged {
    Answered(PingAnswer),
    /// The caller does not wait for the answer.
    Asked,
}

impl IntoResponse for Pinged {
    fn into_response(self) -> Response {
        match self {
            Self::Answered(answer) => (StatusCode::OK, Json(answer)).into_response(),
            Self::Asked => (StatusCode::ACCEPTED, Json(ASKED)).into_response(),
        }
    }
}

impl Answers for Pinged {
    fn answers() -> Vec<Answer> {
        [StatusCode::OK, StatusCode::ACCEPTED]
            .map(Answer::json::<PingAnswer>)
            .into()
    }
}

pub async fn one(
    State(app): State<App>,
    Id(id): Id,
    Params(query): Params<PingQuery>,
) -> Result<Pinged, Refusal> {
    let wait = query.wait.unwrap_or(5.0);
    if !(0.0..=60.0).contains(&wait) {
        return Err(Refusal::bad_parameter("wait", "must be 0 to 60 seconds"));
    }
    let mut question = app.waiters.ask();
    app.metrics.pings.inc();
    app.publisher
        .publish(id.as_str(), encode_ping(Some(&question.id)))
        .await
        .map_err(|error| publish_failed(&error))?;
    let sent = Instant::now();
    if wait == 0.0 {
        return Ok(Pinged::Asked);
    }
    match timeout(Duration::from_secs_f64(wait), &mut question.answer).await {
        Ok(Ok(Reply::Status(status))) => {
            let answer = PingAnswer {
                round_trip_ms: Some(sent.elapsed().as_secs_f64() * 1000.0),
                status: Some(status),
            };
            Ok(Pinged::Answered(answer))
        }
        Ok(Ok(Reply::Plan(_)) | Err(_)) | Err(_) => Err(Refusal::of(StatusCode::GATEWAY_TIMEOUT)
            .kind(problem::NO_ANSWER)
            .detail(format!("the host did not answer within {wait} s"))),
    }
}

pub async fn all(State(app): State<App>) -> Result<Accepted<PingAnswer>, Refusal> {
    if !app.link.borrow().is_up() {
        return Err(publish_failed(&PublishError::Disconnected));
    }
    let pinger = app.pinger.clone();
    tokio::spawn(async move {
        if let Err(error) = pinger.ping_all().await {
            tracing::warn!("cannot ping all hosts: {error}");
        }
    });
    Ok(Accepted(ASKED))
}
