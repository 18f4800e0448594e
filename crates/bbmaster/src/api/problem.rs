//! Errors of the API: RFC 9457 problem documents.

use axum::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bus::PublishError;
use protocol::DecodeError;
use protocol::rest::{Problem, problem};

use crate::store::{EnrollDenied, StoreError};

/// Why a request is refused or failed.
#[derive(Debug, Clone)]
pub struct Refusal(Box<Problem>);

impl Refusal {
    pub fn of(status: StatusCode) -> Self {
        Self(Box::new(Problem {
            kind: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: None,
            path: None,
        }))
    }

    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// `kind`: one of [`problem`].
    pub fn kind(mut self, kind: &str) -> Self {
        self.0.kind = kind.to_owned();
        self
    }

    /// `path`: a JSON path in the body, or the name of a parameter.
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.0.path = Some(path.into());
        self
    }

    /// An invalid body.
    pub fn invalid(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::of(StatusCode::UNPROCESSABLE_ENTITY)
            .kind(problem::INVALID)
            .path(path)
            .detail(reason)
    }

    /// An invalid parameter.
    pub fn bad_parameter(name: &str, reason: impl Into<String>) -> Self {
        Self::of(StatusCode::BAD_REQUEST)
            .kind(problem::INVALID)
            .path(name)
            .detail(reason)
    }

    pub fn no_such_host() -> Self {
        Self::of(StatusCode::NOT_FOUND)
            .detail("there is no host with this id: it has never reported and has no desired state")
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // Strings and a number: encoding cannot fail.
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        tracing::error!("request failed: {error}");
        Self::of(StatusCode::SERVICE_UNAVAILABLE).detail("the database failed; see the master's log")
    }
}

impl From<DecodeError> for Refusal {
    fn from(error: DecodeError) -> Self {
        Self::invalid(error.path, error.reason)
    }
}

/// A message could not be sent to a host.
pub fn publish_failed(error: &PublishError) -> Refusal {
    match error {
        PublishError::Unroutable => Refusal::of(StatusCode::CONFLICT)
            .kind(problem::AWAY)
            .detail("the host has no queue: it has not been connected for a long time, or never was"),
        PublishError::Disconnected | PublishError::Refused => Refusal::of(StatusCode::SERVICE_UNAVAILABLE)
            .kind(problem::NO_BROKER)
            .detail(format!("cannot send the message to the host: {error}")),
    }
}

/// A host cannot enrol by its token.
pub fn enroll_denied(why: &EnrollDenied) -> Refusal {
    let refusal = match why {
        EnrollDenied::UnknownToken | EnrollDenied::Expired(_) | EnrollDenied::UsedUp => {
            Refusal::of(StatusCode::UNAUTHORIZED)
        }
        EnrollDenied::OtherHost(_) => Refusal::of(StatusCode::FORBIDDEN),
        EnrollDenied::KnownHost => Refusal::of(StatusCode::CONFLICT).kind(problem::HOST_KNOWN),
    };
    refusal.detail(why.to_string())
}
